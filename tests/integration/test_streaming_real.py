"""A real voice, heard while it speaks."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from vivavoce.agent.cli.listen import event_json
from vivavoce.agent.evaluation.rows import read_clips
from vivavoce.agent.evaluation.streaming import evaluate_streaming
from vivavoce.speech import Audio, SpeechEnded, SpeechStarted, WhisperOptions, WhisperRecognizer, frames, normalizer
from vivavoce.speech.live.events import Draft, Final, Partial
from vivavoce.speech.live.hearing import listening, quickened

DATA = Path(__file__).parents[1] / "data" / "speech"
ROWS = [json.loads(line) for line in (DATA / "manifest.jsonl").read_text().splitlines()]
same = normalizer()

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def whisper(whisper_dir: Path) -> WhisperRecognizer:
    return WhisperRecognizer(whisper_dir, options=WhisperOptions(language="en"), device="cpu")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["audio_filepath"])
def test_words_come_while_they_are_said_and_the_list_before_the_end_is_certain(whisper, row):
    sound = Audio.join([Audio.read(DATA / row["audio_filepath"], rate=16_000), Audio.silence(1.0)])
    with listening(*quickened(whisper), endpoint_delay=0.5, threaded=False) as stream:
        events = list(stream.walk(frames(sound)))
    assert isinstance(events[0], SpeechStarted) and isinstance(events[-1], Final)
    partials = [event for event in events if isinstance(event, Partial)]
    assert partials[0].at - events[0].at < 1.2
    assert all(after.committed.startswith(before.committed) for before, after in itertools.pairwise(partials))
    final = events[-1]
    assert same(final.transcript.text).split()[-2:] == same(row["text"]).split()[-2:], "the end is heard"
    draft = [event for event in events if isinstance(event, Draft)][-1]
    assert draft.transcript.hypotheses is final.transcript.hypotheses
    assert events.index(draft) < next(i for i, event in enumerate(events) if isinstance(event, SpeechEnded))
    assert [json.loads(json.dumps(event_json(event)))["event"] for event in events][-2:] == ["speech_ended", "final"]


def test_the_evaluation_plays_in_real_time(whisper):
    summary, lines = evaluate_streaming(read_clips(DATA / "manifest.jsonl", ("text",)), whisper, limit=1)
    assert summary["n"] == len(lines) == 1 and summary["retractions"] == 0
    assert summary["endpoint_ms_median"] == pytest.approx(500, abs=150)
    assert 0 < summary["final_ms_median"] and summary["wer_final"] <= 0.5
