"""Transcripts: a recogniser's output as a distribution over hypotheses, not a single string."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .sound.audio import Audio


@dataclass(frozen=True, slots=True)
class Word:
    """One word and when it was said.

    Attributes:
        text: The word as it is written in its hypothesis.
        start: Seconds from the beginning of the audio.
        end: Seconds.
        probability: [0, 1].
    """

    text: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One thing that may have been said.

    Attributes:
        text: For display: case and punctuation as the recogniser wrote them.
        log_prob: Sum of the log-probabilities of all its tokens, in nats, not divided by length: only sums compare.
        n_tokens: How many log-probabilities were summed, the end token included.
        words: Its words with times, where the recogniser gives them.
    """

    text: str
    log_prob: float
    n_tokens: int
    words: tuple[Word, ...] = ()

    @property
    def mean_log_prob(self) -> float:
        """Nats per token."""
        return self.log_prob / max(1, self.n_tokens)


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard in a piece of audio.

    Attributes:
        hypotheses: Best first, no two the same up to case and punctuation; empty if nobody spoke.
        language: ISO 639-1 code, "" if nobody spoke.
        no_speech_prob: The recogniser's probability that nobody spoke, [0, 1].
        duration: Seconds of audio.
        reason: Why there is no hypothesis, a sentence; "" if there is one.
        offset: Seconds from the beginning of the recording, for a window of a long one.
        calibration: How sure the list may be of its first hypothesis, where that was measured for its recogniser.
    """

    hypotheses: tuple[Hypothesis, ...]
    language: str
    no_speech_prob: float
    duration: float
    reason: str = ""
    offset: float = 0.0
    calibration: Calibration | None = None

    @classmethod
    def nothing(cls, reason: str, duration: float, no_speech_prob: float = 1.0) -> Transcript:
        """Nobody spoke, or nothing that can be recognised, for a stated reason."""
        return cls((), "", no_speech_prob, duration, reason)

    @property
    def text(self) -> str:
        """The best hypothesis; "" if nobody spoke."""
        return self.hypotheses[0].text if self.hypotheses else ""

    @property
    def is_speech(self) -> bool:
        """Whether anything was recognised."""
        return bool(self.hypotheses)

    @property
    def refusal(self) -> str | None:
        """Why nothing was recognised; None if something was."""
        return None if self.hypotheses else self.reason

    def posteriors(self, temperature: float = 1.0) -> tuple[float, ...]:
        """Probability of each hypothesis among those listed: softmax(log_prob / temperature), shape (n,).

        Args:
            temperature: Above 1 flattens. Sums over tokens make a recogniser sharper than it is right, so a
                temperature fitted on held-out speech (Guo et al. 2017, https://arxiv.org/abs/1706.04599) calibrates it.

        Raises:
            ValueError: If the temperature is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}; 1.0 leaves the scores as they are")
        if not self.hypotheses:
            return ()
        scores = np.array([hypothesis.log_prob for hypothesis in self.hypotheses]) / temperature
        weights = np.exp(scores - scores.max())
        return tuple((weights / weights.sum()).tolist())

    @property
    def entropy(self) -> float:
        """Entropy of the posteriors in nats: 0 if only one thing can have been said, at most log(n)."""
        return -math.fsum(p * math.log(p) for p in self.posteriors() if p > 0) or 0.0

    @property
    def confidence(self) -> float:
        """Probability that the best hypothesis is what was said; 0 if nobody spoke.

        Without a calibration it is the posterior among those listed, which is too sure.
        """
        if self.calibration is not None:
            return self.calibration.confidence(self)
        return max(self.posteriors(), default=0.0)

    @property
    def margin(self) -> float:
        """How far the best posterior lies above the second; 1 if there is no second, 0 if nobody spoke."""
        first, second, *_ = (*self.posteriors(), 0.0, 0.0)
        return first - second


@dataclass(frozen=True, slots=True)
class Calibration:
    """How sure a list may be that its best hypothesis is exactly what was said.

    Something that is not in the list may have been said too. It takes part in the softmax with a score of its own,
    `other + other_per_token · n_tokens`: the longer a sentence, the more ways there are to mishear it. All numbers are
    fitted on lists of which it is known whether the best hypothesis is right (temperature: Guo et al. 2017,
    https://arxiv.org/abs/1706.04599).

    Attributes:
        temperature: What scores are divided by.
        other: Nats.
        other_per_token: Nats per token of the best hypothesis.

    Raises:
        ValueError: If the temperature is not positive.
    """

    temperature: float
    other: float
    other_per_token: float

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")

    def confidence(self, transcript: Transcript) -> float:
        """Probability that the best hypothesis is right; 0 if nobody spoke."""
        if not transcript.hypotheses:
            return 0.0
        best = transcript.hypotheses[0]
        scores = [hypothesis.log_prob for hypothesis in transcript.hypotheses]
        scaled = np.array([*scores, self.other + self.other_per_token * best.n_tokens]) / self.temperature
        weights = np.exp(scaled - scaled.max())
        return float(weights[0] / weights.sum())

    @classmethod
    def fit(cls, transcripts: Sequence[Transcript], right: Sequence[bool]) -> Calibration:
        """Fit the parameters to lists of which it is known whether they are right (maximum likelihood).

        Args:
            transcripts: Lists of which none is empty.
            right: Whether the best hypothesis is what was said.

        Raises:
            ValueError: If there are fewer than 20 lists, or all best hypotheses are right, or all are wrong.
            ImportError: If the `train` extra is not installed.
        """
        if len(right) < 20 or all(right) or not any(right):
            raise ValueError(
                f"{len(right)} lists with {sum(right)} right ones do not tell how sure to be: give at least 20, "
                "some right and some wrong"
            )
        try:
            from scipy.optimize import minimize
        except ImportError as error:
            raise ImportError("Fitting a calibration needs SciPy: pip install 'vivavoce[train]'") from error

        def negative_log_likelihood(numbers: Sequence[float]) -> float:
            candidate = cls(math.exp(numbers[0]), numbers[1], numbers[2])
            chances = np.clip([candidate.confidence(transcript) for transcript in transcripts], 1e-6, 1 - 1e-6)
            return float(-np.mean(np.log(np.where(right, chances, 1 - chances))))

        fitted = minimize(negative_log_likelihood, [0.0, -2.0, 0.0], method="Nelder-Mead").x
        return cls(math.exp(fitted[0]), float(fitted[1]), float(fitted[2]))


class Recognizer(Protocol):
    """Turns audio into a list of what may have been said."""

    def transcribe(
        self, audio: Audio, *, n_best: int = 5, prompt: str = "", hotwords: Sequence[str] = ()
    ) -> Transcript:
        """Recognise audio of any rate and length.

        Args:
            audio: What was recorded. Silence and noise are no error: the transcript says that nobody spoke.
            n_best: How many different hypotheses at most; fewer if fewer differ, never copies.
            prompt: What was said before, as context.
            hotwords: Words that are likely to be said, such as names; hypotheses with them become likelier.
        """
        ...
