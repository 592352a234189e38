"""Filtering a decoder's hypotheses, and refusing audio that is not speech."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Protocol

from ..transcript import Hypothesis
from .nbest import normalizer


class Thresholds(Protocol):
    """When a Whisper engine refuses; `WhisperOptions` has them and says what each one is."""

    @property
    def no_speech_threshold(self) -> float: ...  # noqa: D102
    @property
    def log_prob_threshold(self) -> float: ...  # noqa: D102
    @property
    def voice_threshold(self) -> float: ...  # noqa: D102
    @property
    def voice_log_prob_threshold(self) -> float: ...  # noqa: D102
    @property
    def completeness(self) -> float: ...  # noqa: D102
    @property
    def compression_threshold(self) -> float: ...  # noqa: D102


def judge(
    hypotheses: Sequence[Hypothesis],
    thresholds: Thresholds,
    *,
    no_speech_prob: float,
    voice_prob: float,
    language: str,
) -> tuple[list[Hypothesis], str]:
    """The acceptable hypotheses, or none and the reason for the refusal.

    Args:
        hypotheses: What a Whisper decoder found for one window, best per token first.
        thresholds: When to refuse.
        no_speech_prob: The model's probability that nobody spoke, [0, 1].
        voice_prob: The voice detector's probability that somebody did, [0, 1].
        language: ISO 639-1 code.

    Returns:
        What is left, in the order of `hypotheses`, and ""; or nothing and a sentence.
    """
    accepted = [h for h in hypotheses if compression(h.text) <= thresholds.compression_threshold]
    if not accepted:
        return [], "the recogniser only repeated itself, so nothing intelligible was said"
    # A decoder may skip a whole sentence, and the sum over fewer tokens is then the higher one: among what is left,
    # sums compare.
    accepted = [h for h in accepted if h.n_tokens >= thresholds.completeness * accepted[0].n_tokens]
    best = max(accepted, key=lambda h: h.log_prob)
    silent, voiceless = no_speech_prob > thresholds.no_speech_threshold, voice_prob < thresholds.voice_threshold
    # Where both models doubt, the decoder's own belief does not count: it is sure of the "you" that music begins with.
    if (
        (silent and voiceless)
        or (silent and best.mean_log_prob < thresholds.log_prob_threshold)
        or (voiceless and best.mean_log_prob < thresholds.voice_log_prob_threshold)
    ):
        return [], (
            f"this does not sound like speech (no-speech probability {no_speech_prob:.2f}, "
            f"voice {voice_prob:.2f}, {best.mean_log_prob:.1f} nats per token)"
        )
    return worded(accepted, best, language)


def worded(accepted: Iterable[Hypothesis], best: Hypothesis, language: str) -> tuple[list[Hypothesis], str]:
    """The hypotheses that have words; none, and the reason, if the best one has only sounds and marks."""
    words = normalizer(language)
    if not words(best.text):
        return [], "there were sounds but no words"
    return [h for h in accepted if words(h.text)], ""


def compression(text: str) -> float:
    """How many times zlib shortens a text; Whisper's measure of a decoder that loops (appendix of the paper)."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0
