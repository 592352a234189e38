"""Whisper through OpenAI's own package, with all the beams of its search."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..sound.audio import Samples
from ..sound.segments import Window
from ..sound.vad import SileroDetector, VoiceDetector
from ..transcript import Hypothesis, Transcript
from .loading import pick_device, torch_number_format
from .whisper import WhisperOptions
from .whisper_tokens import check_language, context_ids
from .windows import Hear, WindowedRecognizer, beam_transcript, log_mel, token_limit

if TYPE_CHECKING:
    import torch

_INSTALL = "pip install 'vivavoce[whisper]'"


class OpenAIWhisperRecognizer(WindowedRecognizer[WhisperOptions]):
    """A `Recognizer` on the package `openai-whisper`, the reference that the other engines are measured against.

    The same windows, options and refusals as `WhisperRecognizer`. The package keeps only the best of its beams; the
    list here is all that its beam search finished.

    Safe to use from several threads, one of which decodes at a time: the package keeps its cache in the model.

    Args:
        model: A checkpoint (`.pt`), or the name of one that the package downloads: "base", "small.en", "turbo", ….
        options: `tails` and `threads` are CTranslate2's and must keep their defaults (`torch.set_num_threads` sets the
            number of threads). One search is made, no samples are drawn, and words have no times.
        detector: Default: Silero.
        device: "cpu", "cuda", or "auto": a GPU where torch sees one.

    Raises:
        ImportError: If `openai-whisper` is not installed.
        ModelError: If the checkpoint is missing or broken, or there is no GPU for "cuda".
        ValueError: If the model does not know the language, or an option is not for this engine.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        options: WhisperOptions | None = None,
        detector: VoiceDetector | None = None,
        device: str = "auto",
    ) -> None:
        self.options = options or WhisperOptions()
        torch_only(self.options)
        self.device = pick_device(device, "torch")
        self._dtype = torch_number_format(self.options.compute_type, self.device)
        self._whisper = _package()
        self._model = _load(self._whisper, model, self.device)
        self._tokenizer = _tokenizer(self._whisper, self._model)
        self._lock = threading.Lock()
        if self.options.language is not None:
            known = self._whisper.tokenizer.LANGUAGES if self._model.is_multilingual else ()
            check_language(self.options.language, known)
        self._detector = detector or SileroDetector()

    def _hearing(self, n_best: int, prompt: str, hotwords: Sequence[str]) -> Hear:
        context = context_ids(self._tokenizer.encode, prompt, hotwords)
        return lambda window, language: self._hear(window, language, n_best, context)

    def _hear(self, window: Window, language: str | None, n_best: int, context: list[int]) -> Transcript:
        import torch

        with self._lock, torch.inference_mode():
            encoded = self._encode(window.audio.samples)
            language = language or self._language(encoded)
            heard, no_speech_prob = self._search(encoded, window, language, n_best, context)
        return beam_transcript(
            window, heard, self.options, language=language, no_speech_prob=no_speech_prob, n_best=n_best
        )

    def _encode(self, samples: Samples) -> torch.Tensor:
        """Float32 (n,) to (1, 1500, width), on the device."""
        import torch

        mel = torch.from_numpy(log_mel(samples, self._model.dims.n_mels))
        encoded: torch.Tensor = self._model.encoder(mel.to(self.device, self._dtype))
        return encoded

    def _language(self, encoded: torch.Tensor) -> str:
        if not self._model.is_multilingual:
            return "en"
        _, probabilities = self._model.detect_language(encoded)
        return str(max(probabilities[0], key=probabilities[0].get))

    def _search(
        self, encoded: torch.Tensor, window: Window, language: str, n_best: int, context: list[int]
    ) -> tuple[list[Hypothesis], float]:
        """Everything that the beam search finished, best per token first, and the no-speech probability."""
        decoding = self._whisper.decoding
        limit = token_limit(window, language)
        options = decoding.DecodingOptions(
            language=language,
            beam_size=max(5, self.options.beams_per_hypothesis * n_best),
            patience=self.options.patience,
            sample_len=limit,
            prompt=context or None,
            without_timestamps=True,
            fp16=encoded.dtype.itemsize == 2,
        )
        task = decoding.DecodingTask(self._model, options)
        task.sequence_ranker = ranker = _Witness(task.sequence_ranker)
        result = task.run(encoded)[0]
        heard = [
            Hypothesis(self._tokenizer.decode(ids).strip(), log_prob, len(ids) + 1)
            for ids, log_prob in ranker.beams
            if len(ids) < limit  # one that was cut off has no end, and its sum does not compare
        ]
        heard.sort(key=lambda h: -h.log_prob / max(1, h.n_tokens - 1))
        return heard, float(result.no_speech_prob)


class _Witness:
    """Ranks as another ranker does, and remembers what there was to rank: token ids and summed log-probabilities."""

    def __init__(self, ranker: Any) -> None:
        self._ranker = ranker
        self.beams: list[tuple[list[int], float]] = []

    def rank(self, tokens: Sequence[Sequence[Any]], sum_logprobs: Sequence[Sequence[float]]) -> Any:
        """The index of the best sequence of each group."""
        self.beams = [(ids.tolist(), log_prob) for ids, log_prob in zip(tokens[0], sum_logprobs[0], strict=True)]
        return self._ranker.rank(tokens, sum_logprobs)


def torch_only(options: WhisperOptions) -> None:
    """Refuse what only CTranslate2 can do.

    Raises:
        ValueError: If `tails` or `threads` is set.
    """
    if options.tails != WhisperOptions().tails:
        raise ValueError(
            f"tails={options.tails} needs CTranslate2; this engine always encodes 30 seconds: leave it out"
        )
    if options.threads:
        raise ValueError(
            f"threads={options.threads} is for CTranslate2; this engine takes torch's: call torch.set_num_threads"
        )


def _package() -> Any:
    try:
        import whisper
        import whisper.decoding
        import whisper.tokenizer
    except ImportError as error:
        raise ImportError(f"This engine needs the package openai-whisper: {_INSTALL}") from error
    if not hasattr(whisper, "load_model"):
        raise ImportError(f"The package `whisper` in {whisper.__file__} is not OpenAI's: {_INSTALL}")
    return whisper


def _tokenizer(whisper: Any, model: Any) -> Any:
    with warnings.catch_warnings():
        # The package reads its vocabulary once and leaves closing the file to Python.
        warnings.simplefilter("ignore", ResourceWarning)
        return whisper.tokenizer.get_tokenizer(model.is_multilingual, num_languages=model.num_languages)


def _load(whisper: Any, model: str | os.PathLike[str], device: str) -> Any:
    name = os.fspath(model)
    if not Path(name).is_file() and name not in whisper.available_models():
        raise ModelError(
            f"there is no Whisper checkpoint {name!r}; name a .pt file, or one of "
            f"{', '.join(whisper.available_models())}",
            stage="load",
        )
    try:
        return whisper.load_model(name, device=device).eval()
    except Exception as error:  # URLError, RuntimeError, KeyError, UnpicklingError, by what is broken
        raise ModelError(
            f"cannot load the Whisper checkpoint {name!r}: {error}; fetch it again, or name a .pt file of OpenAI's",
            stage="load",
        ) from error
