"""What can be refused before a model is loaded."""

from __future__ import annotations

import dataclasses

import pytest

from vivavoce.speech import ModelError, VadOptions, WhisperOptions, WhisperRecognizer


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beams_per_hypothesis": 0}, "beams_per_hypothesis"),
        ({"patience": 0.0}, "patience"),
        ({"tails": (6.0, -1.0)}, "tails"),
        ({"tails": ()}, "at least one"),
        ({"no_speech_threshold": 2.0}, "probabilities"),
        ({"voice_threshold": -0.1}, "probabilities"),
        ({"completeness": 1.5}, "completeness"),
        ({"threads": -1}, "threads"),
        ({"vad": VadOptions(max_speech=30.0)}, "at most 29.4"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(WhisperOptions(), **changes)


def test_a_missing_model_names_the_command(tmp_path):
    with pytest.raises(ModelError, match=r"does not exist.*vivavoce models fetch") as caught:
        WhisperRecognizer(tmp_path / "nowhere")
    assert caught.value.stage == "load" and not caught.value.retryable
    with pytest.raises(ModelError, match=r"has no model\.bin, config\.json, tokenizer\.json"):
        WhisperRecognizer(tmp_path)
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / name).write_text("broken")
    with pytest.raises(ModelError, match=r"cannot load.*vivavoce models fetch"):
        WhisperRecognizer(tmp_path)
    with pytest.raises(ValueError, match="'auto', 'cpu' or 'cuda'"):
        WhisperRecognizer(tmp_path, device="tpu")
