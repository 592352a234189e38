"""Partials, drafts and finals, on streams whose answer is known to the frame."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivavoce.speech import (
    FRAME,
    SPEECH_RATE,
    Audio,
    Hypothesis,
    Segmenter,
    SpeechEnded,
    SpeechStarted,
    Transcript,
    VadOptions,
    Word,
    distinct,
    frames,
)
from vivavoce.speech.live.agreement import Agreement
from vivavoce.speech.live.events import Draft, Final, Partial
from vivavoce.speech.live.recognizer import StreamingOptions, StreamingRecognizer
from vivavoce.speech.live.utterance import Known
from vivavoce.speech.live.worker import Job
from vivavoce.speech.testing import FakeDetector, FakeRecognizer

FRAME_SECONDS = FRAME / SPEECH_RATE
NEVER = StreamingOptions(first_partial=100.0)


def sound(*parts: tuple[float, float]) -> Audio:
    """Steps of (seconds, level) after one another."""
    return Audio(
        np.concatenate([np.full(round(s * SPEECH_RATE), level, np.float32) for s, level in parts]), SPEECH_RATE
    )


def stream(recognizer, *, options=NEVER, threaded=False, vad=None, partials=None) -> StreamingRecognizer:
    segmenter = Segmenter(FakeDetector(), vad or VadOptions(min_silence=0.5))
    return StreamingRecognizer(recognizer, segmenter, partials=partials, options=options, threaded=threaded)


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


ORDER = sound((0.5, 0), (1.0, 0.2), (1.0, 0))
PAUSING = sound((0.5, 0), (1.0, 0.2), (0.3, 0), (1.0, 0.2), (1.0, 0))


@pytest.mark.parametrize("threaded", [False, True], ids=["inline", "threaded"])
def test_an_utterance_is_started_drafted_ended_and_final(threaded):
    recognizer = FakeRecognizer(["A flat white."])
    with stream(recognizer, threaded=threaded) as listening:
        events = list(listening.walk(frames(ORDER)))
    started, ended, final = (of(kind, events)[0] for kind in (SpeechStarted, SpeechEnded, Final))
    assert final.transcript.text == "A flat white." and final is events[-1]
    assert (final.start, final.end) == (ended.start, ended.end) == (started.at, ended.end)
    assert final.transcript.offset == final.start
    assert final.transcript.duration == ended.audio.seconds
    assert len(recognizer.heard) == 1, "the draft is the final list"


def test_the_draft_is_decoded_when_silence_begins_and_holds_the_pre_roll():
    recognizer = FakeRecognizer(["A flat white."])
    listening = stream(recognizer)
    told = [(number * FRAME_SECONDS, e) for number, f in enumerate(frames(ORDER), 1) for e in listening.feed(f)]
    (at, draft), (confirmed, _) = ((at, e) for at, e in told if isinstance(e, Draft | SpeechEnded))
    assert at == draft.at == pytest.approx(1.5 + 0.064, abs=1.5 * FRAME_SECONDS)
    assert confirmed == pytest.approx(1.5 + 0.5, abs=1.5 * FRAME_SECONDS)
    (heard,) = recognizer.heard
    assert np.array_equal(heard.samples, ORDER.slice(at - heard.seconds, at).samples)
    assert heard.seconds == pytest.approx(0.3 + 1.0 + 0.064, abs=2 * FRAME_SECONDS)


def test_a_draft_is_thrown_away_if_speech_goes_on():
    recognizer = FakeRecognizer(["A flat.", "A flat white."])
    events = list(stream(recognizer).walk(frames(PAUSING)))
    assert [draft.transcript.text for draft in of(Draft, events)] == ["A flat.", "A flat white."]
    (final,) = of(Final, events)
    assert final.transcript.text == "A flat white."
    assert recognizer.heard[1].seconds > 2.3, "the second draft hears the whole utterance again"


def test_two_decodes_that_agree_commit_a_word():
    script = ["I", "I would like.", "I would like a", "I would like two flat whites", "I would like two flat whites."]
    options = StreamingOptions(first_partial=0.5, partial_every=0.2)
    events = list(stream(FakeRecognizer(script), options=options).walk(frames(ORDER)))
    partials = [(partial.committed, partial.tentative) for partial in of(Partial, events)]
    assert partials == [
        ("", "I"),
        ("I", " would like."),
        ("I would like", " a"),
        ("I would like", " two flat whites"),
        ("I would like two flat whites.", ""),
    ]
    assert partials[-1][0] == of(Partial, events)[-1].text
    assert not of(Final, events)[0].revised


def test_a_final_list_may_contradict_the_partials_and_says_so():
    options = StreamingOptions(first_partial=0.5, partial_every=0.2)
    listening = stream(FakeRecognizer(["A latte."]), partials=FakeRecognizer(["a flat white"]), options=options)
    (final,) = of(Final, listening.walk(frames(ORDER)))
    assert (final.committed, final.transcript.text, final.revised) == ("a flat white", "A latte.", True)


def test_languages_without_blanks_commit_signs():
    agreement = Agreement()
    agreement.hear("我想要一杯", "zh")
    agreement.hear("我想要一杯咖啡。", "zh")
    assert (agreement.committed, agreement.tentative) == ("我想要一杯", "咖啡。")


def test_a_decode_that_changes_committed_words_is_aligned_with_them():
    agreement = Agreement()
    for text in (
        "good bye my",
        "good bye my friend",
        "Goodbye my friend and thanks",
        "Goodbye my friend and thank you",
    ):
        agreement.hear(text, "en")
    assert agreement.committed == "good bye my friend and"
    assert agreement.tentative == " thank you"


WORDS = st.lists(st.sampled_from(["a", "B.", "b", "c,", "C!", "d", "—"]), max_size=8).map(" ".join)


@settings(max_examples=300)
@given(st.lists(WORDS, max_size=12), st.sampled_from(["en", "zh"]))
def test_what_is_committed_never_changes(texts, language):
    agreement = Agreement()
    committed = [""]
    for text in texts:
        agreement.hear(text, language)
        committed.append(agreement.committed)
    assert all(after.startswith(before) for before, after in itertools.pairwise(committed))
    if texts and texts[-1]:
        again = Agreement()
        again.hear(texts[-1], language)
        again.hear(texts[-1], language)
        assert again.committed.split() == texts[-1].split() and again.tentative == "", "agreement with itself is full"


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0.02, 2.0), st.sampled_from([0.0, 0.2])), min_size=1, max_size=8), st.booleans())
def test_there_is_one_final_for_each_utterance_in_order(parts, threaded):
    audio = sound(*parts)
    vad = VadOptions(min_silence=0.5, max_speech=2.0)
    options = StreamingOptions(first_partial=0.4, partial_every=0.2)
    with stream(FakeRecognizer(["a", "a b", "a b c"]), options=options, threaded=threaded, vad=vad) as listening:
        events = list(listening.walk(frames(audio)))
    ended = [event for event in Segmenter(FakeDetector(), vad).walk(frames(audio)) if isinstance(event, SpeechEnded)]
    assert [(e.start, e.end) for e in of(Final, events)] == [(e.start, e.end) for e in of(SpeechEnded, events)]
    assert [(e.start, e.end) for e in ended] == [(e.start, e.end) for e in of(SpeechEnded, events)]


def test_speech_without_end_is_cut_and_the_draft_of_a_later_moment_is_not_taken_for_it():
    recognizer = FakeRecognizer(["words"])
    vad = VadOptions(min_silence=0.5, max_speech=2.0)
    events = list(stream(recognizer, vad=vad).walk(frames(sound((4.0, 0.2)))))
    for ended, heard in zip(of(SpeechEnded, events), recognizer.heard, strict=True):
        assert np.array_equal(ended.audio.samples, heard.samples)


class Slow:
    """Answers when it is let."""

    def __init__(self, text="words"):
        self._inner = FakeRecognizer([text])
        self.started, self.let = threading.Event(), threading.Event()
        self.calls = 0

    def transcribe(self, audio, *, n_best=5, prompt="", hotwords=()):
        self.calls += 1
        self.started.set()
        assert self.let.wait(10)
        return self._inner.transcribe(audio, n_best=n_best, prompt=prompt)


def test_the_caller_does_not_wait_and_partials_do_not_queue():
    slow = Slow()
    options = StreamingOptions(first_partial=0.4, partial_every=0.1)
    with stream(slow, options=options, threaded=True) as listening:
        first, rest = itertools.tee(frames(ORDER))
        events = [event for frame in itertools.islice(first, 32) for event in listening.feed(frame)]
        assert slow.started.wait(10), "the first partial is being decoded"
        events += [event for frame in itertools.islice(rest, 32, None) for event in listening.feed(frame)]
        assert [type(event) for event in events] == [SpeechStarted, SpeechEnded]
        assert slow.calls == 1
        slow.let.set()
        (final,) = of(Final, listening.finish())
    assert final.transcript.text == "words"
    assert slow.calls == 2, "one partial and the draft"


def test_close_during_a_decode_waits_for_the_call_and_makes_no_other():
    slow = Slow()
    listening = stream(slow, threaded=True)
    for frame in frames(PAUSING):
        listening.feed(frame)
    assert slow.started.wait(10)
    closing = threading.Thread(target=listening.close)
    closing.start()
    while not listening._worker._closed:
        time.sleep(0.001)
    slow.let.set()
    closing.join(10)
    assert not closing.is_alive() and slow.calls == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "vivavoce-recognizer"]
    with pytest.raises(ValueError, match="closed"):
        listening.feed(np.zeros(FRAME, np.float32))


class Broken:
    """Fails in some of its calls."""

    def __init__(self, *fails):
        self._fails = list(fails)
        self._inner = FakeRecognizer(["words"])

    def transcribe(self, audio, *, n_best=5, prompt="", hotwords=()):
        if self._fails and self._fails.pop(0):
            raise RuntimeError("out of memory")
        return self._inner.transcribe(audio, n_best=n_best)


@pytest.mark.parametrize("threaded", [False, True], ids=["inline", "threaded"])
def test_a_draft_that_fails_is_tried_again(threaded, caplog):
    with stream(Broken(True), threaded=threaded) as listening:
        (final,) = of(Final, listening.walk(frames(ORDER)))
    assert final.transcript.text == "words"
    assert "out of memory" in caplog.text and caplog.records[0].levelno == logging.WARNING


def test_a_list_that_fails_twice_is_raised_in_its_place():
    listening = stream(Broken(True, True))
    events = []
    with pytest.raises(RuntimeError, match="out of memory"):
        for frame in frames(ORDER):
            events += listening.feed(frame)
    assert [type(event) for event in events] == [SpeechStarted, SpeechEnded], "nothing that came before is lost"
    again = [event for frame in frames(ORDER) for event in listening.feed(frame)]
    assert of(Final, again)[0].transcript.text == "words", "the stream goes on"


def test_what_was_no_speech_has_a_final_with_the_reason():
    refusing = FakeRecognizer(["words"])
    quiet = replace(refusing.transcribe(Audio.silence(1.0)), reason="only a door")
    (final,) = of(Final, stream(FakeRecognizer([quiet])).walk(frames(ORDER)))
    assert not final.transcript.is_speech and final.transcript.refusal == "only a door" and not final.revised


@pytest.mark.parametrize("changes", [{"n_best": 0}, {"first_partial": 0.0}, {"partial_every": -1}, {"draft_after": 0}])
def test_options_that_do_not_fit_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        StreamingOptions(**changes)


class Reader:
    """Hears one word in every 0.32 s that are louder than silence: which one, the level says. Word times are exact.

    What is cut within a word is heard as another one, and `mishears` of the first words of a whole utterance too, in
    its second hypothesis.
    """

    WORDS = ("", "one", "two", "three", "four", "five", "six", "seven", "eight")
    LENGTH = 5_120

    def __init__(self, *, breaks: bool = False) -> None:
        self.heard: list[tuple[float, str]] = []
        self._breaks = breaks

    def transcribe(self, audio, *, n_best=5, prompt="", hotwords=()):
        self.heard.append((audio.seconds, prompt))
        levels = np.round(audio.samples * 50).astype(int)
        edges = np.flatnonzero(np.diff(levels)) + 1
        spans = zip([0, *edges], [*edges, len(levels)], strict=True)
        words = []
        for start, end in spans:
            if levels[start] > 0 and end - start >= self.LENGTH // 2:
                name = "wrong" if self._breaks and prompt else self.WORDS[levels[start]]
                words.append(Word(name, start / SPEECH_RATE, end / SPEECH_RATE, 0.9))
        if not words:
            return Transcript.nothing("nobody spoke", audio.seconds)
        text = " ".join(word.text for word in words)
        best = Hypothesis(text, -1.0, len(words) + 1, tuple(words))
        other = Hypothesis(text.replace("one", "won"), -2.5, len(words) + 1)
        return Transcript(distinct([best, other], n_best=n_best), "en", 0.0, audio.seconds)


COUNTING = sound((0.512, 0), *((0.32, level / 50) for level in range(1, 9)), (1.0, 0))
OFTEN = StreamingOptions(first_partial=0.6, partial_every=0.32)


def counted(reader: Reader):
    segmenter = Segmenter(FakeDetector(level=0.005), VadOptions(min_silence=0.5))
    with StreamingRecognizer(reader, segmenter, options=OFTEN, threaded=False) as listening:
        return list(listening.walk(frames(COUNTING)))


def test_words_that_are_sure_are_not_heard_again():
    reader = Reader()
    events = counted(reader)
    (final,) = of(Final, events)
    assert final.transcript.text == "one two three four five six seven eight" and not final.revised
    seconds, prompt = reader.heard[-1]
    assert prompt.startswith("one two") and seconds < 2.0, "only the end is heard again, behind what was said"
    assert max(seconds for seconds, _ in reader.heard) < 2.4
    committed = [event.committed for event in of(Partial, events)]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(committed))
    words = final.transcript.hypotheses[0].words
    assert [word.text for word in words] == final.transcript.text.split()
    assert all(later.start >= earlier.end - 1e-6 for earlier, later in itertools.pairwise(words))


def test_what_else_the_beginning_may_have_been_stays_in_the_list():
    (final,) = of(Final, counted(Reader()))
    first, second = final.transcript.hypotheses
    assert second.text == first.text.replace("one", "won")
    assert first.log_prob - second.log_prob == pytest.approx(1.5)


def test_where_the_rest_does_not_fit_all_is_heard_again():
    reader = Reader(breaks=True)
    (final,) = of(Final, counted(reader))
    assert final.transcript.text == "one two three four five six seven eight"
    assert any(prompt for _, prompt in reader.heard) and not reader.heard[-1][1]


def test_no_partial_begins_where_the_voice_falls():
    quiet = sound((0.5, 0), (0.96, 0.2), (0.256, 0.008), (1.0, 0))
    reader = FakeRecognizer(["A flat white."])
    segmenter = Segmenter(FakeDetector(), VadOptions(min_silence=0.5, release=0.2))
    options = StreamingOptions(first_partial=1.1, partial_every=0.1)
    with StreamingRecognizer(reader, segmenter, options=options, threaded=False) as listening:
        events = list(listening.walk(frames(quiet)))
    levels = {round(float(np.abs(audio.samples[-FRAME:]).max()), 3) for audio in reader.heard}
    assert of(Final, events) and 0.2 in levels and 0.008 not in levels


def test_a_partial_that_does_not_fit_leaves_the_sound_to_the_next():
    reader = Reader(breaks=True)
    counted(reader)
    (misfit, _), (after, prompt) = next(pair for pair in itertools.pairwise(reader.heard) if pair[0][1])
    assert not prompt and after > misfit + 0.32, "heard from the beginning, and later sound than the misfit's"


def done(text: str) -> Job:
    job = Job(lambda: Transcript((Hypothesis(text, -1.0, 3),), "en", 0.0, 1.0), 1.0, 1.0)
    job.run()
    return job


def test_a_decode_that_two_threads_look_at_counts_once():
    known, second = Known(), done("one two three four")
    known.hear(done("one two"))
    copied = known.copy()
    known.hear(second)  # as the thread that feeds does, before the next decode begins
    recognizer = FakeRecognizer(["one two three four"])
    copied.decoded((second,), recognizer, Audio.silence(1.0), 1, again=True)
    assert copied.agreement.committed == known.agreement.committed == "one two"
