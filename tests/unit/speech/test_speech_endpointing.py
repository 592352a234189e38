"""How long a silence lasts before it is taken for the end."""

from __future__ import annotations

import numpy as np
import pytest

from vivavoce.speech import FRAME, SPEECH_RATE, Audio, Segmenter, SpeechEnded, SpeechStarted, VadOptions, frames
from vivavoce.speech.sound.endpointing import Endpointing, EndpointOptions
from vivavoce.speech.testing import FakeDetector

FRAME_SECONDS = FRAME / SPEECH_RATE


def sound(*parts: tuple[float, float]) -> Audio:
    """Steps of (seconds, level) after one another."""
    return Audio(
        np.concatenate([np.full(round(s * SPEECH_RATE), level, np.float32) for s, level in parts]), SPEECH_RATE
    )


def test_the_delay_follows_the_pauses_of_the_speaker():
    hasty, slow = Endpointing(), Endpointing()
    assert hasty.delay == slow.delay == 0.7
    for _ in range(20):
        hasty.resumed(0.2)
        slow.resumed(0.65)
    assert hasty.delay == 0.5, "never less than min_delay"
    assert slow.delay == pytest.approx(0.66, abs=0.02), "pauses that are all the same leave no deviation"
    for pause in (0.3, 0.9, 0.3, 0.9):
        slow.resumed(pause)
    assert slow.delay == 1.2, "never more than max_delay"


def test_the_rule_is_that_of_rfc_6298():
    endpointing = Endpointing(EndpointOptions(min_delay=0.1, max_delay=5.0))
    endpointing.resumed(0.4)
    assert endpointing.delay == pytest.approx(0.4 + 4 * 0.2)
    endpointing.resumed(0.8)
    deviation = 0.75 * 0.2 + 0.25 * 0.4
    assert endpointing.delay == pytest.approx(0.875 * 0.4 + 0.125 * 0.8 + 4 * deviation)


def test_closures_and_long_absences_are_no_pauses():
    endpointing = Endpointing()
    endpointing.resumed(0.1)
    endpointing.resumed(3.0)
    assert endpointing.delay == 0.7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_delay": 0.0}, "min_delay"),
        ({"min_delay": 2.0}, "max_delay"),
        ({"shortest_pause": 1.5}, "shortest_pause"),
        ({"first_delay": 0.0}, "first_delay"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        EndpointOptions(**changes)


def test_the_padding_must_fit_into_the_delay():
    with pytest.raises(ValueError, match="padding"):
        Segmenter(FakeDetector(), VadOptions(padding=0.4), EndpointOptions(min_delay=0.3))


def test_the_segmenter_learns_from_pauses_that_it_waited_for():
    segmenter = Segmenter(FakeDetector(), endpoint=EndpointOptions())
    pausing = sound((0.5, 0.2), *[(0.6, 0), (0.5, 0.2)] * 6, (1.5, 0))
    told = [(segmenter.seconds, event) for frame in frames(pausing) for event in segmenter.feed(frame)]
    assert [type(event) for _, event in told] == [SpeechStarted, SpeechEnded]
    assert 0.6 < segmenter.delay < 1.2
    assert told[-1][0] == pytest.approx(0.5 + 6 * 1.1 + segmenter.delay, abs=2 * FRAME_SECONDS)


def test_the_segmenter_learns_from_an_end_that_came_too_early():
    segmenter = Segmenter(FakeDetector(), endpoint=EndpointOptions(first_delay=0.5))
    interrupted = sound((0.5, 0.2), (0.9, 0), (0.5, 0.2), (0.9, 0), (0.5, 0.2))
    events = list(segmenter.walk(frames(interrupted)))
    assert [type(event) for event in events] == [SpeechStarted, SpeechEnded, SpeechStarted, SpeechEnded], (
        "the first pause of 0.9 s ends an utterance, the second is waited for"
    )


def test_silence_is_counted_inside_an_utterance_only():
    segmenter = Segmenter(FakeDetector(), VadOptions(min_silence=0.5))
    seen = []
    for frame in frames(sound((0.5, 0), (0.5, 0.2), (0.3, 0), (0.5, 0.2), (1.0, 0))):
        segmenter.feed(frame)
        seen.append((segmenter.speaking, segmenter.silence, segmenter.so_far().seconds))
    assert all(silence == 0 and heard == 0 for speaking, silence, heard in seen if not speaking)
    assert max(silence for _, silence, _ in seen) == pytest.approx(0.5, abs=FRAME_SECONDS)
    assert sum(silence == 0 for speaking, silence, _ in seen if speaking) > 15, "it starts again with the speech"
    assert max(heard for *_, heard in seen) == pytest.approx(0.3 + 1.3 + 0.5, abs=3 * FRAME_SECONDS), "with pre-roll"
