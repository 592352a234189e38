"""What recognisers share between a recording and its lists: windows of speech, heard one after the other."""

from __future__ import annotations

import copy
import functools
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from ..lists.judging import Thresholds, judge
from ..lists.nbest import distinct, joined, varied
from ..sound.audio import Audio, Samples
from ..sound.segments import VadOptions, Window, speech_windows
from ..sound.source import speech_blocks
from ..sound.vad import VoiceDetector
from ..transcript import Hypothesis, Transcript

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 30.0
"""Whisper's window; other engines take the same one."""

_FRAMES = 3_000
_FRAMES_PER_SECOND = 100
# Nobody says more; a decoder that loops is stopped here instead of at the end of its context. English is what Whisper's
# tokens were made for; other scripts take up to three tokens a sign.
_TOKENS_PER_SECOND = {"en": 12}
_MOST_TOKENS_PER_SECOND = 25
_SPARE_SECONDS = 1.3

Hear: TypeAlias = Callable[[Window, str | None], Transcript]
"""Recognises one window of speech, in a language, or in the one that it detects."""


class _Listening(Protocol):
    """What every engine's options say."""

    @property
    def vad(self) -> VadOptions: ...
    @property
    def language(self) -> str | None: ...


Options = TypeVar("Options", bound=_Listening)


class WindowedRecognizer(ABC, Generic[Options]):
    """What the engines share: a recording is heard window by window, and the windows' lists become one."""

    options: Options
    _detector: VoiceDetector

    def transcribe(
        self, audio: Audio, *, n_best: int = 5, prompt: str = "", hotwords: Sequence[str] = ()
    ) -> Transcript:
        """Recognise audio of any rate and length; more than 30 seconds are recognised in windows and joined.

        Args:
            audio: What was recorded.
            n_best: How many different hypotheses at most.
            prompt: Context; its end is kept if it is too long. A CTC model hears without context and does not use it.
            hotwords: Words that are likely to be said. Whisper reads them before the context; for a CTC model, phrases
                count word by word.

        Returns:
            The list, or a refusal with its reason if nobody spoke.

        Raises:
            ValueError: If `n_best` is less than 1.
        """
        windows = list(self.transcribe_long(audio, n_best=n_best, prompt=prompt, hotwords=hotwords))
        return joined(windows, duration=audio.seconds, n_best=n_best)

    def transcribe_long(
        self,
        source: Audio | str | os.PathLike[str],
        *,
        n_best: int = 5,
        prompt: str = "",
        hotwords: Sequence[str] = (),
    ) -> Iterator[Transcript]:
        """Recognise a recording window by window; a file of any length in the memory of about two windows.

        The language of the first window with words is that of the rest.

        Yields:
            One list per window of at most 30 seconds of speech. `offset + duration` is how far the recording is done;
            stretches without speech are passed over.

        Raises:
            AudioError: If the file cannot be read.
            ValueError: If `n_best` is less than 1.
        """
        # Checked when the call is made, not when the first window is asked for.
        if n_best < 1:
            raise ValueError(f"n_best must be at least 1, not {n_best}")
        return self._heard(source, self._hearing(n_best, prompt, hotwords))

    def _heard(self, source: Audio | str | os.PathLike[str], hear: Hear) -> Iterator[Transcript]:
        language = self.options.language
        # A copy per recording: the stream of another thread must not run through this one's state.
        detector = copy.copy(self._detector)
        for window in speech_windows(speech_blocks(source), detector, self.options.vad, longest=WINDOW_SECONDS):
            transcript = hear(window, language)
            language = language or transcript.language or None
            yield transcript

    @abstractmethod
    def _hearing(self, n_best: int, prompt: str, hotwords: Sequence[str]) -> Hear:
        """What recognises one window of this recording after the other."""


def window_transcript(
    window: Window,
    kept: Sequence[Hypothesis],
    reason: str,
    *,
    language: str,
    no_speech_prob: float,
    n_best: int,
) -> Transcript:
    """What was heard in a window: the list of what was kept, or the refusal if there is a reason."""
    duration = window.end - window.start
    if reason:
        logger.debug("refused %.2f s: %s", duration, reason)
        return replace(Transcript.nothing(reason, duration, no_speech_prob), offset=window.start)
    hypotheses = distinct(kept, language=language, n_best=n_best)
    return Transcript(hypotheses, language, no_speech_prob, duration, offset=window.start)


def beam_transcript(
    window: Window,
    beams: Sequence[Hypothesis],
    thresholds: Thresholds,
    *,
    language: str,
    no_speech_prob: float,
    n_best: int,
) -> Transcript:
    """What one search of a Whisper decoder heard in a window: its beams judged, merged and chosen from.

    Args:
        window: Where it was heard.
        beams: All that the search finished, best per token first.
        thresholds: When to refuse.
        language: ISO 639-1 code.
        no_speech_prob: The model's probability that nobody spoke, [0, 1].
        n_best: How many different hypotheses at most.
    """
    kept, reason = judge(
        beams, thresholds, no_speech_prob=no_speech_prob, voice_prob=window.probability, language=language
    )
    chosen = varied(distinct(kept, language=language), n_best, language=language)
    return window_transcript(window, chosen, reason, language=language, no_speech_prob=no_speech_prob, n_best=n_best)


def log_mel(samples: Samples, n_mels: int, tail: float | None = None) -> Samples:
    """What Whisper's encoder takes: float32 (n,) at 16 kHz to log-mel (1, n_mels, frames), 100 frames a second.

    Args:
        samples: At most 30 seconds.
        n_mels: 80, or 128 for the newest models.
        tail: Seconds of silence after the speech; None fills up to 30 seconds.
    """
    mel = _features(n_mels)(samples)[:, :_FRAMES]
    frames = _FRAMES
    if tail is not None:
        # Whole seconds, so that the allocators see few sizes.
        frames = min(_FRAMES, math.ceil(mel.shape[1] / _FRAMES_PER_SECOND + tail) * _FRAMES_PER_SECOND)
    # Silence in log-mel is the floor, 8 decades (2 after scaling) below the loudest bin, not 0.
    padded = np.full((1, mel.shape[0], frames), mel.max() - 2.0, dtype=np.float32)
    padded[0, :, : mel.shape[1]] = mel[:, :frames]
    return padded


@functools.cache
def _features(n_mels: int) -> Any:
    from faster_whisper.feature_extractor import FeatureExtractor

    return FeatureExtractor(feature_size=n_mels)


def token_limit(window: Window, language: str) -> int:
    """How many tokens Whisper may write for a window of speech in a language."""
    rate = _TOKENS_PER_SECOND.get(language, _MOST_TOKENS_PER_SECOND)
    return int((window.audio.seconds + _SPARE_SECONDS) * rate)
