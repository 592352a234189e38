"""Where speech begins and ends, on streams whose answer is known to the sample."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivavoce.speech import (
    FRAME,
    SPEECH_RATE,
    Audio,
    Segmenter,
    SileroDetector,
    SpeechEnded,
    SpeechStarted,
    VadOptions,
    frames,
    speech_segments,
)
from vivavoce.speech.sound.segments import speech_windows
from vivavoce.speech.sound.source import speech_blocks
from vivavoce.speech.testing import FakeDetector, check_detector

FRAME_SECONDS = FRAME / SPEECH_RATE


def sound(*parts: tuple[float, float]) -> Audio:
    """Noise of (seconds, level) after one another."""
    rng = np.random.default_rng(0)
    return Audio(
        np.concatenate([rng.normal(0, level or 1e-6, round(s * SPEECH_RATE)) for s, level in parts])
        .clip(-1, 1)
        .astype(np.float32),
        SPEECH_RATE,
    )


@pytest.mark.parametrize("detector", [FakeDetector(), SileroDetector()], ids=lambda d: type(d).__name__)
def test_detectors_keep_the_contract(detector):
    check_detector(detector)


def test_contract_notices_a_broken_detector():
    class Deaf:
        def probability(self, frame):
            return 2.0

        def reset(self):
            pass

    with pytest.raises(AssertionError, match=r"\[0, 1\]"):
        check_detector(Deaf())


def test_silero_needs_no_torch():
    code = "import sys; from vivavoce.speech import SileroDetector; SileroDetector(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_silero_hears_no_speech_in_silence_and_white_noise():
    for level in (0.0, 0.001, 0.01, 0.1, 0.3):
        assert speech_segments(sound((5.0, level))) == ()
    with pytest.raises(ValueError, match="shape"):
        SileroDetector().probability(np.zeros(100, np.float32))
    with pytest.raises(ValueError, match="shape"):
        SileroDetector().probabilities(np.zeros(512, np.float32))


def test_segments_are_where_the_sound_is():
    audio = sound((1.0, 0), (1.0, 0.2), (2.0, 0), (0.5, 0.2), (1.0, 0))
    first, second = speech_segments(audio, FakeDetector())
    assert (first.start, first.end) == (pytest.approx(0.7, abs=0.04), pytest.approx(2.3, abs=0.04))
    assert (second.start, second.end) == (pytest.approx(3.7, abs=0.04), pytest.approx(4.8, abs=0.04))
    assert first.probability > 0.9


def test_clicks_are_not_speech_and_short_pauses_do_not_end_it():
    assert speech_segments(sound((1, 0), (0.05, 0.3), (1, 0)), FakeDetector()) == ()
    assert len(speech_segments(sound((1, 0), (0.5, 0.2), (0.3, 0), (0.5, 0.2), (1, 0)), FakeDetector())) == 1


def test_hysteresis_keeps_fading_speech():
    fading = sound((0.5, 0.1), (0.5, 0.008), (1.0, 0))  # 0.008 has probability 0.39: below threshold, above release
    assert speech_segments(fading, FakeDetector())[0].end == pytest.approx(1.3, abs=0.04)
    alone = sound((1.0, 0), (1.0, 0.008), (1.0, 0))
    assert speech_segments(alone, FakeDetector()) == ()


def test_sound_to_the_last_sample_ends_there():
    (segment,) = speech_segments(sound((1.001, 0.2)), FakeDetector())
    assert (segment.start, segment.end) == (0.0, pytest.approx(1.001))
    assert speech_segments(Audio.silence(0), FakeDetector()) == ()


def test_speech_without_pause_is_cut_where_it_is_weakest():
    options = VadOptions(max_speech=5.0)
    audio = sound((4.0, 0.2), (0.2, 0.008), (4.0, 0.2))
    first, second = speech_segments(audio, FakeDetector(), options)
    assert first.end == second.start == pytest.approx(4.1, abs=0.15)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0.02, 4.0), st.sampled_from([0.0, 0.008, 0.2])), min_size=1, max_size=12))
def test_segments_never_overlap_and_the_live_segmenter_finds_the_same(parts):
    audio = sound(*parts)
    options = VadOptions(max_speech=4.0)
    segments = speech_segments(audio, FakeDetector(), options)
    edges = [edge for segment in segments for edge in (segment.start, segment.end)]
    assert edges == sorted(edges) and all(0 <= edge <= audio.seconds + FRAME_SECONDS for edge in edges)
    assert all(segment.end - segment.start <= 4.0 + 0.6 + FRAME_SECONDS for segment in segments)

    live = [e for e in Segmenter(FakeDetector(), options).walk(frames(audio)) if isinstance(e, SpeechEnded)]
    assert [event.start for event in live] == [segment.start for segment in segments]
    assert all(len(e.audio.samples) == round((e.end - e.start) * SPEECH_RATE) for e in live)

    blocks = [audio.slice(at, at + 0.7) for at in np.arange(0, audio.seconds, 0.7)]
    whole, pieces = (
        list(speech_windows(b, FakeDetector(), options, longest=6.0)) for b in (speech_blocks(audio), blocks)
    )
    assert [(w.start, w.end) for w in whole] == [(w.start, w.end) for w in pieces]
    assert all(np.array_equal(a.audio.samples, b.audio.samples) for a, b in zip(whole, pieces, strict=True))
    assert all(w.audio.seconds <= 6.0 for w in whole)


def test_live_events_come_in_time():
    segmenter = Segmenter(FakeDetector())
    audio = sound((1.0, 0), (1.0, 0.2), (1.5, 0))
    told = [(segmenter.seconds, event) for frame in frames(audio) for event in segmenter.feed(frame)]
    (at_start, started), (at_end, ended) = told
    assert isinstance(started, SpeechStarted) and isinstance(ended, SpeechEnded)
    assert at_start == pytest.approx(1.16, abs=0.05), "speech is told once it is longer than a click"
    assert at_end == pytest.approx(2.7, abs=0.05), "its end once 0.7 s of silence have passed"
    assert started.at == ended.start == pytest.approx(0.7, abs=0.04)
    assert np.array_equal(ended.audio.samples, audio.slice(ended.start, ended.end).samples)
    assert segmenter.finish() == ()


def test_a_stream_that_ends_in_speech_ends_the_speech():
    events = list(Segmenter(FakeDetector()).walk(frames(sound((1.0, 0.2)))))
    assert [type(event) for event in events] == [SpeechStarted, SpeechEnded]


def test_the_segmenter_may_be_fed_from_one_buffer():
    buffer = np.zeros(FRAME, np.float32)
    segmenter = Segmenter(FakeDetector())
    audio = sound((1.0, 0.2))
    for frame in frames(audio):
        buffer[:] = frame
        segmenter.feed(buffer)
    (ended,) = segmenter.finish()
    assert np.array_equal(ended.audio.samples[: len(audio.samples)], audio.samples)


def test_memory_of_a_long_stream_is_bounded():
    segmenter = Segmenter(FakeDetector(), VadOptions(max_speech=5.0))
    minute = sound((20.0, 0), (20.0, 0.2), (20.0, 0))
    most = 0
    for _ in range(5):
        for frame in frames(minute):
            segmenter.feed(frame)
            most = max(most, sum(len(chunk) for chunk in segmenter._recording._chunks))
    assert most < 7 * SPEECH_RATE


def test_windows_end_at_long_pauses_and_before_they_get_too_long():
    audio = sound((1.0, 0.2), (0.8, 0), (1.0, 0.2), (3.0, 0), (2.0, 0.2), (0.8, 0), (2.0, 0.2))
    windows = list(speech_windows(speech_blocks(audio), FakeDetector(), VadOptions(), longest=4.0))
    edges = [(0.0, 3.1), (5.5, 8.1), (8.3, 10.6)]
    assert [(w.start, w.end) for w in windows] == [pytest.approx(edge, abs=0.04) for edge in edges]
    for window in windows:
        assert np.array_equal(window.audio.samples, audio.slice(window.start, window.end).samples)
        assert window.probability > 0.9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": 1.5}, "release <= threshold"),
        ({"release": 0.6}, "release <= threshold"),
        ({"min_speech": -1.0}, "positive seconds"),
        ({"min_silence": 0.0, "padding": 0.0}, "positive seconds"),
        ({"padding": 0.9}, "min_silence"),
        ({"max_speech": 0.1}, "at least 1 second"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(VadOptions(), **changes)
