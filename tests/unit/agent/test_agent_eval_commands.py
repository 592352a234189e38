"""Counting understood commands and keywords, with a recogniser that follows a script."""

from __future__ import annotations

import numpy as np
import pytest

from vivavoce.agent.errors import ConfigError
from vivavoce.agent.evaluation.commands import evaluate_commands, evaluate_keywords, understood_examples
from vivavoce.agent.evaluation.noise import Noise
from vivavoce.agent.evaluation.rows import Clip
from vivavoce.agent.understanding.grammar import Grammar
from vivavoce.agent.understanding.keywords import KeywordSpotter
from vivavoce.agent.understanding.slots import SlotFiller
from vivavoce.speech import Audio, Hypothesis, Transcript
from vivavoce.speech.testing import FakeRecognizer


@pytest.fixture
def tone(tmp_path):
    time = np.arange(16_000) / 16_000
    return Audio((0.3 * np.sin(2 * np.pi * 300 * time)).astype(np.float32), 16_000).write(tmp_path / "tone.wav")


def heard(*texts: str) -> Transcript:
    return Transcript(tuple(Hypothesis(text, -1 - n / 10, 3) for n, text in enumerate(texts)), "en", 0.1, 1.0)


def clips(path, *rows):
    return [Clip(path.name, path, row) for row in rows]


FILLER = {"order": {"drink": ["house coffee", "iced coffee"], "size": ["16 ounce"]}}


def test_commands_are_right_if_all_slots_are(tone):
    rows = [
        {"intent": "order", "slots": {"drink": "Iced coffee", "size": "sixteen ounce"}},
        {"intent": "order", "slots": {"drink": "iced coffee"}},
        {"intent": "order", "slots": {"drink": "house coffee"}},
        {"intent": "order", "slots": {"drink": "house coffee"}},
    ]
    recognizer = FakeRecognizer(
        [
            heard("a 16 ounce iced coffee"),
            heard("a how's coffee", "an ice coffee", "an iced coffee", "an iced coffees"),
            heard("a house coffee and a 16 ounce"),
            heard("good morning"),
        ]
    )
    filler = SlotFiller(Grammar.from_values(FILLER))
    noise = Noise((Audio(np.random.default_rng(0).normal(0, 0.1, 9000).astype(np.float32), 16_000),), 6.0)
    summary, items = evaluate_commands(clips(tone, *rows), recognizer, filler, n_best=5, noise=noise, prompt="p")
    assert summary == {"n": 4, "accepted_1best": 0.25, "accepted_nbest": 0.5, "wrong_fewer": 1 / 3, "refused": 1}
    assert [item["accepted_nbest"] for item in items] == [True, True, False, False]
    assert recognizer.prompts == ["p"] * 4 and "good morning" in items[3]["reason"]
    assert not np.array_equal(recognizer.heard[0].samples, recognizer.heard[1].samples), "the noise differs"
    with pytest.raises(ConfigError, match="slots"):
        evaluate_commands(clips(tone, {"intent": "order"}), recognizer, filler, n_best=5)


def test_keywords_are_heard_with_silence_around(tone):
    recognizer = FakeRecognizer([heard("Hay.", "Eight.", "8."), Transcript.nothing("nobody spoke", 1.0)])
    spotter = KeywordSpotter(["eight", "hello", "nine"])
    summary, items = evaluate_keywords(
        clips(tone, {"digit": 8}, {"digit": "nine"}), recognizer, spotter, "digit", n_best=5
    )
    assert (summary["n"], summary["accuracy_nbest"], summary["refused"]) == (2, 0.5, 1)
    assert items[0]["spotted"] == "eight" and items[1]["spotted"] is None and items[1]["reason"] == "nobody spoke"
    assert recognizer.heard[0].seconds == pytest.approx(2.0)
    with pytest.raises(ConfigError, match="none of the keywords"):
        evaluate_keywords(clips(tone, {"digit": 3}), recognizer, spotter, "digit", n_best=5)


def test_examples_show_what_the_grammar_covers(tmp_path):
    filler = SlotFiller(Grammar.from_values(FILLER))
    path = tmp_path / "examples.txt"
    path.write_text("a house coffee\n\nhow are you\n")
    assert understood_examples(path, filler) == 0.5
    path.write_text("\n")
    for file in (path, tmp_path / "absent.txt"):
        with pytest.raises(ConfigError, match="examples"):
            understood_examples(file, filler)


def test_noise_is_mixed_at_the_rate_of_the_recording_and_silence_stays_as_it_is():
    noise = Noise((Audio(np.random.default_rng(0).normal(0, 0.1, 9000).astype(np.float32), 16_000),), 6.0)
    recording = Audio(np.sin(np.arange(24_000, dtype=np.float32) / 9) / 2, 24_000)
    under = noise.over(recording, 0)
    assert under.rate == 24_000 and len(under.samples) == 24_000
    spectrum = np.abs(np.fft.rfft(under.samples - recording.samples))
    assert spectrum[8_200:].max() < 0.1 * spectrum[:8_000].max(), "16 kHz noise holds nothing above 8 kHz"
    silent = Noise((Audio.silence(1.0),), 6.0)
    assert silent.over(recording, 0).samples.tolist() == recording.samples.tolist()
    assert not noise.over(Audio.silence(1.0), 0).samples.any()
