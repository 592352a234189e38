"""Tools for testing what is built on this folder: deterministic fakes, and the contract of each protocol.

check_recognizer(MyRecognizer())     # raises AssertionError with a sentence that says what is wrong
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from .lists.nbest import normalizer
from .sound.audio import SPEECH_RATE, Audio, Samples
from .sound.vad import FRAME, BatchVoiceDetector, VoiceDetector
from .transcript import Hypothesis, Recognizer, Transcript
from .voice.sentences import sentences
from .voice.tts import Synthesizer, speakable

_AUDIBLE = 0.01


class FakeRecognizer:
    """Hears what its script says, one entry per call, and the last entry from then on; in silence it hears nothing.

    Args:
        script: Transcripts, or texts that become a transcript with a single hypothesis.

    Attributes:
        heard: The audio of each call.
        prompts: The prompt of each call.
        hotwords: The likely words of each call.
    """

    def __init__(self, script: Sequence[Transcript | str]) -> None:
        if not script:
            raise ValueError("the script is empty; give at least one transcript or text")
        self._script = [_certain(entry) if isinstance(entry, str) else entry for entry in script]
        self._next = 0
        self.heard: list[Audio] = []
        self.prompts: list[str] = []
        self.hotwords: list[tuple[str, ...]] = []

    def transcribe(
        self, audio: Audio, *, n_best: int = 5, prompt: str = "", hotwords: Sequence[str] = ()
    ) -> Transcript:
        """The script's next transcript, cut to `n_best`."""
        if n_best < 1:
            raise ValueError(f"n_best must be at least 1, not {n_best}")
        self.heard.append(audio)
        self.prompts.append(prompt)
        self.hotwords.append(tuple(hotwords))
        if audio.rms < _AUDIBLE:
            return Transcript.nothing("nobody spoke", audio.seconds)
        scripted = self._script[min(self._next, len(self._script) - 1)]
        self._next += 1
        return replace(scripted, hypotheses=scripted.hypotheses[:n_best], duration=audio.seconds)


class FakeDetector:
    """Takes loud frames for speech: probability 0.5 at `level`, by the frame's RMS."""

    def __init__(self, level: float = _AUDIBLE) -> None:
        self._level = level

    def probability(self, frame: Samples) -> float:
        """rms² / (rms² + level²)."""
        if frame.shape != (FRAME,):
            raise ValueError(f"a frame has shape ({FRAME},), not {frame.shape}; cut the sound with speech.frames")
        power = float(np.mean(np.square(frame, dtype=np.float64)))
        return power / (power + self._level**2)

    def reset(self) -> None:
        """Nothing to forget."""


class FakeSynthesizer:
    """Says each word as a tone of a tenth of a second, its pitch by the word's length."""

    rate = SPEECH_RATE

    def speak(self, text: str) -> Iterator[Audio]:
        """One piece per sentence."""
        time = np.arange(self.rate // 10) / self.rate
        for sentence in sentences([speakable(text)]):
            words = [word for word in sentence.split() if any(sign.isalnum() for sign in word)]
            tones = [0.3 * np.sin(2 * np.pi * (200 + 20 * len(word)) * time) for word in words]
            if tones:
                yield Audio(np.concatenate(tones).astype(np.float32), self.rate)


def check_recognizer(recognizer: Recognizer, speech: Audio | None = None) -> None:
    """The contract of `Recognizer`.

    Args:
        recognizer: What is checked.
        speech: A recording of somebody speaking; without it only silence is tried.

    Raises:
        AssertionError: If the contract is broken.
    """
    for quiet in (Audio.silence(0), Audio.silence(0.01), Audio.silence(2.0), Audio.silence(1.0, rate=44_100)):
        transcript = recognizer.transcribe(quiet)
        assert isinstance(transcript, Transcript), f"transcribe returns a Transcript, not {type(transcript).__name__}"
        assert not transcript.is_speech, f"{quiet} is silent, but {transcript.text!r} was heard in it"
        assert transcript.refusal, "a transcript without hypotheses says why, in `reason`"
        _same_length(transcript, quiet)
    _refuses_zero(recognizer)
    if speech is None:
        return
    transcript = recognizer.transcribe(speech, n_best=5, prompt="")
    assert transcript.is_speech, f"nothing was heard in the speech: {transcript.refusal}"
    _check_list(transcript, 5)
    _same_length(transcript, speech)
    _check_list(recognizer.transcribe(speech, n_best=1), 1)
    _check_list(
        recognizer.transcribe(speech.resampled(8_000), n_best=2, prompt="Good morning.", hotwords=["coffee"]), 2
    )


def _same_length(transcript: Transcript, audio: Audio) -> None:
    assert math.isclose(transcript.duration, audio.seconds, abs_tol=0.01), (
        f"duration is that of the audio, {audio.seconds:.2f} s, not {transcript.duration:.2f} s"
    )


def _refuses_zero(recognizer: Recognizer) -> None:
    try:
        recognizer.transcribe(Audio.silence(0.1), n_best=0)
    except ValueError:
        return
    raise AssertionError("n_best=0 raises ValueError")


def _check_list(transcript: Transcript, n_best: int) -> None:
    hypotheses = transcript.hypotheses
    assert 1 <= len(hypotheses) <= n_best, f"n_best={n_best} was asked for, {len(hypotheses)} hypotheses came"
    scores = [hypothesis.log_prob for hypothesis in hypotheses]
    assert all(math.isfinite(score) and score <= 1e-6 for score in scores), f"log_prob is at most 0, not {scores}"
    assert scores == sorted(scores, reverse=True), f"the best hypothesis comes first, not {scores}"
    assert all(hypothesis.n_tokens >= 1 for hypothesis in hypotheses), "n_tokens is at least 1"
    assert all(hypothesis.text == hypothesis.text.strip() for hypothesis in hypotheses), "texts have no blanks around"
    same = normalizer(transcript.language)
    words = [same(hypothesis.text) for hypothesis in hypotheses]
    assert all(words), "a hypothesis without words does not belong into the list"
    assert len(set(words)) == len(words), f"hypotheses differ in more than case and punctuation, not {words}"
    assert transcript.language, "language is set when somebody spoke"
    assert 0 <= transcript.no_speech_prob <= 1, f"no_speech_prob is a probability, not {transcript.no_speech_prob}"


def check_detector(detector: VoiceDetector) -> None:
    """The contract of `VoiceDetector`, and of `BatchVoiceDetector` if it has `probabilities`.

    Raises:
        AssertionError: If the contract is broken.
    """
    sound = np.random.default_rng(0).normal(0, 0.1, (20, FRAME)).astype(np.float32)
    detector.reset()
    first = [detector.probability(frame) for frame in sound]
    assert all(isinstance(p, float) and 0 <= p <= 1 for p in first), f"probabilities are floats in [0, 1], not {first}"
    detector.reset()
    assert [detector.probability(frame) for frame in sound] == first, "after reset() the same sound gives the same"
    detector.reset()
    alone = []
    for frame in sound:
        alone.append(detector.probability(frame))
        other = copy.copy(detector)
        other.reset()
        other.probability(frame[::-1])
    assert alone == first, "a copy that is reset hears another stream, without effect on the original"
    detector.reset()
    silence = np.zeros(FRAME, dtype=np.float32)
    assert max(detector.probability(silence) for _ in range(20)) < 0.5, "silence is not speech"
    try:
        detector.probability(silence[:-1])
    except ValueError:
        pass
    else:
        raise AssertionError(f"a frame of another length than {FRAME} raises ValueError")
    if isinstance(detector, BatchVoiceDetector):
        detector.reset()
        halves = [*detector.probabilities(sound[:7]), *detector.probabilities(sound[7:])]
        assert np.allclose(halves, first, atol=1e-5), "probabilities() gives what probability() gives frame by frame"


def check_synthesizer(synthesizer: Synthesizer) -> None:
    """The contract of `Synthesizer`.

    Raises:
        AssertionError: If the contract is broken.
    """
    for unspeakable in ("", "  \n ", "...", "—", "[menu.md]", "https://example.org/menu"):
        pieces = list(synthesizer.speak(unspeakable))
        assert not pieces, f"nothing is to be said in {unspeakable!r}, but {len(pieces)} pieces came"
    spoken = synthesizer.speak("Good morning. A flat white is three pounds.")
    assert inspect.isgenerator(spoken) or isinstance(spoken, Iterator), "speak returns an iterator, not a finished list"
    pieces = list(spoken)
    assert len(pieces) >= 2, f"two sentences come as two pieces at least, not {len(pieces)}"
    assert len({piece.rate for piece in pieces}) == 1, "all pieces have one rate"
    assert all(piece.seconds > 0 and piece.rms > 0 for piece in pieces), "pieces can be heard"
    once, plain = (
        Audio.join(synthesizer.speak(text)).seconds for text in ("A **flat** white [menu.md].", "A flat white.")
    )
    assert math.isclose(once, plain, rel_tol=0.05), "marks and sources are not said"


def _certain(text: str) -> Transcript:
    tokens = len(text.split()) + 1
    return Transcript((Hypothesis(text, -0.1 * tokens, tokens),), "en", 0.01, 0.0)
