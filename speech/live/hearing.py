"""Streaming with fast options: a recogniser configured for low latency, and the stream that uses it."""

from __future__ import annotations

from dataclasses import replace

from ..engines.whisper import WhisperRecognizer
from ..sound.endpointing import EndpointOptions
from ..sound.segments import Segmenter, VadOptions
from ..transcript import Recognizer
from .recognizer import StreamingOptions, StreamingRecognizer

_TAIL = 2.0
"""Seconds of silence that Whisper's encoder sees after the speech."""


def quickened(recognizer: Recognizer) -> tuple[Recognizer, Recognizer]:
    """The recogniser for final lists and the one for partials, on the model that is loaded.

    Whisper gets its `quick` options, with fewer beams and no samples; its partials have word times, so that the stream
    need not decode the beginning of an utterance again and again. Other recognisers are taken as they are.
    """
    if not isinstance(recognizer, WhisperRecognizer):
        return recognizer, recognizer
    quick = replace(
        recognizer.options.quick(), tails=(_TAIL,), beams_per_hypothesis=2, patience=0.5, widen=False, samples=0
    )
    partials = replace(quick, beams_per_hypothesis=1, patience=1.0, word_times=True)
    return recognizer.with_options(quick), recognizer.with_options(partials)


def listening(
    lists: Recognizer,
    partials: Recognizer,
    *,
    n_best: int = 5,
    endpoint_delay: float | None = None,
    threaded: bool = True,
) -> StreamingRecognizer:
    """A streaming recogniser made of two recognisers, which may be the same.

    Args:
        lists: Makes the final lists.
        partials: Makes the partials.
        n_best: Length of the final lists at most.
        endpoint_delay: Seconds of silence that end an utterance; by default they adapt to the speaker's pauses.
        threaded: Whether recognisers run in a thread of their own; without, each answer is waited for.

    Raises:
        ValueError: If the delay is not positive.
    """
    options = StreamingOptions(n_best=n_best)
    return StreamingRecognizer(lists, _segmenter(endpoint_delay), partials=partials, options=options, threaded=threaded)


def _segmenter(endpoint_delay: float | None) -> Segmenter:
    if endpoint_delay is None:
        return Segmenter(endpoint=EndpointOptions())
    if endpoint_delay <= 0:
        raise ValueError(f"The endpoint delay must be positive seconds, not {endpoint_delay}")
    return Segmenter(options=VadOptions(min_silence=endpoint_delay, padding=min(VadOptions().padding, endpoint_delay)))
