"""Recognisers by name, and what is said when a name cannot be used."""

from __future__ import annotations

import pytest

from vivavoce.agent import ConfigError
from vivavoce.agent.opening import ENGINES, open_recognizer
from vivavoce.speech import Audio, ModelError
from vivavoce.speech.testing import FakeRecognizer


class Own(FakeRecognizer):
    """A recogniser that needs no arguments."""

    def __init__(self):
        super().__init__(["good morning"])


class Deaf:
    """No recogniser."""


def test_a_class_of_ones_own_is_made_without_arguments():
    recognizer = open_recognizer(f"{__name__}:Own")
    assert recognizer.transcribe(Audio.silence(1.0)).refusal == "nobody spoke"


@pytest.mark.parametrize(
    ("engine", "model", "words"),
    [
        ("kaldi", None, "ctranslate2, openai, transformers, ctc"),
        ("nowhere.at.all:Class", None, "Cannot make the recogniser"),
        (f"{__name__}:Missing", None, "Cannot make the recogniser"),
        ("vivavoce.speech.testing:FakeRecognizer", None, "needs no arguments"),
        (f"{__name__}:Deaf", None, "no method transcribe"),
        (f"{__name__}:Own", "whisper-base", "brings its own model"),
        (":", None, "Cannot make the recogniser"),
        ("openai", None, r"name a \.pt checkpoint"),
        ("transformers", None, "openai/whisper-base"),
        ("ctc", None, "facebook/wav2vec2-base-960h"),
        ("transformers", "whisper-base", "is in CTranslate2's format"),
        ("ctc", "whisper-base", "use the engine ctranslate2"),
        ("ctc", "no-such-model", "There is no model or folder"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(engine, model, words):
    with pytest.raises(ConfigError, match=words):
        open_recognizer(engine, model)


@pytest.mark.parametrize("engine", ["ctranslate2", "transformers", "ctc"])
def test_a_folder_reaches_the_engine(engine, tmp_path):
    with pytest.raises(ModelError, match=f"{tmp_path.name} has no"):
        open_recognizer(engine, tmp_path, device="cpu")


def test_every_engine_has_a_name():
    assert tuple(ENGINES) == ("ctranslate2", "openai", "transformers", "ctc")


def test_a_missing_package_names_the_pip_line(monkeypatch, tmp_path):
    # An engine whose package is not there, as Python itself reports it.
    import sys

    monkeypatch.setitem(sys.modules, "whisper", None)
    with pytest.raises(ConfigError, match=r"pip install 'vivavoce\[whisper\]'"):
        open_recognizer("openai", tmp_path / "base.pt", device="cpu")
