"""Voice activity detection: the probability of speech in each frame."""

from __future__ import annotations

import functools
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from .audio import Samples

FRAME = 512
"""Samples per frame: 32 ms at 16 kHz."""

_CONTEXT = 64  # samples of the frame before that the model sees with each frame
_LEAD = 4  # frames of silence fed before the first one of a stream
# Larger blocks are not faster, and this one keeps what a call allocates below a few MB.
_FRAMES_PER_CALL = 256


class VoiceDetector(Protocol):
    """Gives the probability of speech in each frame of one stream.

    Detectors are cheap to copy: `copy.copy(detector)` followed by `reset()` must follow another stream without
    touching this one's state. That is how a recogniser serves several threads with the one detector that it was given.
    """

    def probability(self, frame: Samples) -> float:
        """How probable it is that somebody speaks in the next frame: float32, [-1, 1], 16 kHz, shape (512,)."""
        ...

    def reset(self) -> None:
        """Clear the state; the next frame begins a new stream."""
        ...


@runtime_checkable
class BatchVoiceDetector(VoiceDetector, Protocol):
    """A detector that is faster on many frames at once; whole recordings use it where it is there."""

    def probabilities(self, frames: Samples) -> NDArray[np.float32]:
        """The same as `probability` of each of the next frames: shape (n, 512) to shape (n,)."""
        ...


class SileroDetector:
    """Silero VAD (https://github.com/snakers4/silero-vad), from the weights inside the `silero-vad` wheel.

    Runs the wheel's sequence model in ONNX Runtime on one thread, without torch: 0.05 ms per frame, and the same
    numbers whether frames come one by one or together. Each stream starts behind an eighth of a second of
    silence: without that lead the model misses one in eight single words cut close.

    Raises:
        ModelError: If the weights are not there or ONNX Runtime does not take them.
    """

    def __init__(self) -> None:
        self._session = _silero_session()
        self.reset()

    def reset(self) -> None:
        """Clear the state; the next frame begins a new stream."""
        # The state is replaced by each call and never written into, so copies of a detector do not share it.
        self._hidden = self._cell = np.zeros((1, 1, 128), dtype=np.float32)
        self._context = np.zeros(_CONTEXT, dtype=np.float32)
        self.probabilities(np.zeros((_LEAD, FRAME), dtype=np.float32))

    def probability(self, frame: Samples) -> float:
        """How probable it is that somebody speaks in the next frame.

        Args:
            frame: float32, [-1, 1], 16 kHz, shape (512,).

        Raises:
            ValueError: If the frame has another shape.
        """
        if frame.shape != (FRAME,):
            raise ValueError(f"a frame has shape ({FRAME},), not {frame.shape}; cut the sound with speech.frames")
        return float(self.probabilities(frame[None])[0])

    def probabilities(self, frames: Samples) -> NDArray[np.float32]:
        """The same for the next n frames at once: shape (n, 512) to shape (n,).

        Raises:
            ValueError: If the frames have another shape.
        """
        if frames.ndim != 2 or frames.shape[1] != FRAME:
            raise ValueError(f"frames have shape (n, {FRAME}), not {frames.shape}; cut the sound with speech.frames")
        probabilities = [np.zeros(0, dtype=np.float32)]
        for first in range(0, len(frames), _FRAMES_PER_CALL):
            block = frames[first : first + _FRAMES_PER_CALL]
            # The model sees each frame behind the last 4 ms of the one before.
            contexts = np.concatenate([self._context[None], block[:-1, -_CONTEXT:]])
            inputs = {"input": np.concatenate([contexts, block], axis=1), "h": self._hidden, "c": self._cell}
            outputs, self._hidden, self._cell = self._session.run(["speech_probs", "hn", "cn"], inputs)
            self._context = block[-1, -_CONTEXT:].copy()
            probabilities.append(outputs.reshape(-1))
        return np.concatenate(probabilities)


@functools.cache
def _silero_session() -> Any:
    from importlib.util import find_spec

    import onnxruntime

    # find_spec does not execute the package, whose __init__ would import torch.
    spec = find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("the package silero-vad is not installed; run: pip install 'silero-vad>=6,<7'", stage="load")
    path = f"{spec.submodule_search_locations[0]}/data/silero_vad_16k_sequence.onnx"
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.log_severity_level = 3  # warnings about unused initialisers of the graph
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common base for its own errors
        raise ModelError(
            f"cannot load {path}: {error}; run: pip install --force-reinstall 'silero-vad>=6,<7'", stage="load"
        ) from error
