"""Whisper through CTranslate2, with the list of hypotheses that its beam search really found."""

from __future__ import annotations

import copy
import functools
import logging
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .asr import Hypothesis, Transcript
from .audio import Audio, Samples
from .errors import ModelError
from .nbest import distinct, joined, normalizer
from .source import speech_blocks
from .vad import SileroDetector, VadOptions, VoiceDetector, Window, speech_windows

logger = logging.getLogger(__name__)

_WINDOW_SECONDS = 30.0
_FRAMES_PER_SECOND = 100
_FRAMES = 3_000
_CONTEXT = 448
"""Tokens that Whisper's decoder takes, prompt included (Radford et al. 2022, https://arxiv.org/abs/2212.04356)."""
# Nobody says more; a decoder that loops is stopped here instead of at the end of its context.
_TOKENS_PER_SECOND = 25
_SPARE_TOKENS = 32
_FETCH = "run `vivavoce models fetch`, or name the folder of a Whisper model converted to CTranslate2"


@dataclass(frozen=True, slots=True)
class WhisperOptions:
    """How to decode, and when to refuse.

    Attributes:
        language: ISO 639-1 code; None detects it, once per recording, from the first window of speech.
        beams_per_hypothesis: Beam width for each hypothesis asked for (5 at least). Beams that differ only in case and
            punctuation merge, so a list of n needs about three times as many.
        patience: Stop when beam width times this many hypotheses are finished (https://arxiv.org/abs/2204.05424).
        tail: Seconds of silence that the encoder sees after the speech. None fills its window to 30 seconds, which it
            was trained with; 6 makes short utterances three times cheaper to encode, at some risk in accuracy.
        no_speech_threshold: If the no-speech probability is above this and
        log_prob_threshold: the best hypothesis has fewer nats per token than this, refuse.
        voice_threshold: If the voice detector gives the window's best segment less than this and
        voice_log_prob_threshold: the best hypothesis has fewer nats per token than this, refuse too: short bangs pass
            for words with either model alone.
        completeness: A hypothesis with less than this share of the tokens of the one that is best per token has left
            something out: dropped.
        compression_threshold: A hypothesis that zlib compresses by more than this factor repeats itself: dropped.
        compute_type: CTranslate2's name of a number format; "auto" is int8 on a CPU and float16 on a GPU.
        threads: CPU threads; 0 takes all that this process may use.
        vad: Which parts are speech.

    Raises:
        ValueError: If a value is out of range.
    """

    language: str | None = None
    beams_per_hypothesis: int = 3
    patience: float = 1.0
    tail: float | None = None
    no_speech_threshold: float = 0.6
    log_prob_threshold: float = -1.0
    voice_threshold: float = 0.7
    voice_log_prob_threshold: float = -0.7
    completeness: float = 0.8
    compression_threshold: float = 2.4
    compute_type: str = "auto"
    threads: int = 0
    vad: VadOptions = field(default_factory=VadOptions)

    def __post_init__(self) -> None:
        if self.beams_per_hypothesis < 1:
            raise ValueError(f"beams_per_hypothesis must be at least 1, not {self.beams_per_hypothesis}; use 3")
        if self.patience <= 0:
            raise ValueError(f"patience must be positive, not {self.patience}; use 1.0")
        if self.tail is not None and self.tail < 0:
            raise ValueError(f"tail must be seconds or None, not {self.tail}")
        if not (0 <= self.no_speech_threshold <= 1 and 0 <= self.voice_threshold <= 1):
            raise ValueError(
                f"no_speech_threshold={self.no_speech_threshold} and voice_threshold={self.voice_threshold} are "
                "probabilities; use 0.6 and 0.7"
            )
        if not 0 <= self.completeness <= 1:
            raise ValueError(f"completeness is a share, not {self.completeness}; use 0.8")
        if self.threads < 0:
            raise ValueError(f"threads must be 0 (all) or a number of threads, not {self.threads}")
        if self.vad.max_speech + 2 * self.vad.padding > _WINDOW_SECONDS:
            raise ValueError(
                f"vad.max_speech={self.vad.max_speech} with a padding of {self.vad.padding} s on both sides does not "
                f"fit into Whisper's {_WINDOW_SECONDS:.0f} s; use at most {_WINDOW_SECONDS - 2 * self.vad.padding:g}"
            )


class WhisperRecognizer:
    """A `Recognizer` on a Whisper model converted to CTranslate2.

    The voice detector decides first: sound without speech never reaches Whisper, and a pause of a second parts two
    windows. Each window of speech is encoded once; language, no-speech probability and hypotheses come from that one
    encoding. Beam search ranks by log-probability per token, which keeps it from leaving sentences out; the list is
    ordered by the sums.

    Safe to use from several threads at once.

    Args:
        model_dir: Folder with `model.bin`, `config.json`, `tokenizer.json`.
        options: How to decode, and when to refuse.
        detector: Default: Silero.
        device: "cpu", "cuda", or "auto": a GPU where CTranslate2 sees one.

    Raises:
        ModelError: If the folder is missing, incomplete or broken, or there is no GPU for "cuda".
        ValueError: If the model does not know the language, or the device has another name.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str],
        *,
        options: WhisperOptions | None = None,
        detector: VoiceDetector | None = None,
        device: str = "auto",
    ) -> None:
        self.options = options or WhisperOptions()
        self.device = _device(device)
        self._detector = detector or SileroDetector()
        folder = Path(model_dir)
        self._model = _load(folder, self.device, self.options)
        self._tokens = _Tokens(folder / "tokenizer.json", multilingual=self._model.is_multilingual)
        if self.options.language is not None:
            self._tokens.start(self.options.language)  # refuses a language that the model does not know
        self._features = _features(self._model.n_mels)

    def transcribe(self, audio: Audio, *, n_best: int = 5, prompt: str = "") -> Transcript:
        """Recognise audio of any rate and length; more than 30 seconds are recognised in windows and joined.

        Args:
            audio: What was recorded.
            n_best: How many different hypotheses at most.
            prompt: Context; its end is kept if it is too long.

        Returns:
            The list, or a refusal with its reason if nobody spoke.

        Raises:
            ValueError: If `n_best` is less than 1.
        """
        windows = list(self.transcribe_long(audio, n_best=n_best, prompt=prompt))
        return joined(windows, duration=audio.seconds, n_best=n_best)

    def transcribe_long(
        self, source: Audio | str | os.PathLike[str], *, n_best: int = 5, prompt: str = ""
    ) -> Iterator[Transcript]:
        """Recognise a recording window by window; a file of any length in the memory of about two windows.

        Yields:
            One list per window of at most 30 seconds of speech. `offset + duration` is how far the recording is done;
            stretches without speech are passed over.

        Raises:
            AudioError: If the file cannot be read.
            ValueError: If `n_best` is less than 1.
        """
        if n_best < 1:
            raise ValueError(f"n_best must be at least 1, not {n_best}")
        return self._transcribe(speech_blocks(source), n_best, self._tokens.context(prompt))

    def _transcribe(self, blocks: Iterable[Audio], n_best: int, context: list[int]) -> Iterator[Transcript]:
        language = self.options.language
        # A copy per recording: the stream of another thread must not run through this one's state.
        detector = copy.copy(self._detector)
        for window in speech_windows(blocks, detector, self.options.vad, longest=_WINDOW_SECONDS):
            encoded = self._encode(window.audio.samples)
            language = language or self._language(encoded)
            yield self._decode(encoded, window, language, n_best, context)

    def _encode(self, samples: Samples) -> Any:
        """One encoder pass: float32 (n,) to (1, frames / 2, width), left on the device."""
        import ctranslate2

        mel = self._features(samples)[:, :_FRAMES]
        frames = _FRAMES
        if self.options.tail is not None:
            # Whole seconds, so that the allocator of CTranslate2 sees few sizes.
            seconds = math.ceil(mel.shape[1] / _FRAMES_PER_SECOND + self.options.tail)
            frames = min(_FRAMES, seconds * _FRAMES_PER_SECOND)
        # Silence in log-mel is the floor, 8 decades (2 after scaling) below the loudest bin, not 0.
        padded = np.full((1, mel.shape[0], frames), mel.max() - 2.0, dtype=np.float32)
        padded[0, :, : mel.shape[1]] = mel[:, :frames]
        return self._model.encode(ctranslate2.StorageView.from_array(padded))

    def _language(self, encoded: Any) -> str:
        if not self._model.is_multilingual:
            return "en"
        token, probability = self._model.detect_language(encoded)[0][0]
        logger.debug("detected language %s with probability %.2f", token, probability)
        return str(token).strip("<|>")

    def _decode(self, encoded: Any, window: Window, language: str, n_best: int, context: list[int]) -> Transcript:
        prompt = context + self._tokens.start(language)
        beams = max(5, self.options.beams_per_hypothesis * n_best)
        allowed = int(window.audio.seconds * _TOKENS_PER_SECOND) + _SPARE_TOKENS
        result = self._model.generate(
            encoded,
            [prompt],
            beam_size=beams,
            patience=self.options.patience,
            num_hypotheses=beams,
            length_penalty=1.0,
            max_length=min(_CONTEXT, len(prompt) + allowed),
            return_scores=True,
            return_no_speech_prob=True,
        )[0]
        heard = [
            # A score is the sum of log-probabilities, the end's included, divided by the tokens without the end.
            Hypothesis(self._tokens.text(ids), float(score) * max(1, len(ids)), len(ids) + 1)
            for ids, score in zip(result.sequences_ids, result.scores, strict=True)
        ]
        kept, reason = self._judge(heard, result.no_speech_prob, window.probability, language)
        duration = window.end - window.start
        if reason:
            logger.debug("refused %.2f s: %s", duration, reason)
            return replace(Transcript.nothing(reason, duration, result.no_speech_prob), offset=window.start)
        hypotheses = distinct(kept, language=language, n_best=n_best)
        return Transcript(hypotheses, language, result.no_speech_prob, duration, offset=window.start)

    def _judge(
        self, heard: list[Hypothesis], no_speech_prob: float, voice_prob: float, language: str
    ) -> tuple[list[Hypothesis], str]:
        """The hypotheses that can have been said, or the reason why nothing was; `heard` is best per token first."""
        options = self.options
        kept = [h for h in heard if _compression(h.text) <= options.compression_threshold]
        if not kept:
            return [], "the recogniser only repeated itself, so nothing intelligible was said"
        # A decoder may skip a whole sentence, and the sum over fewer tokens is then the higher one: among what is left,
        # sums compare (18 windows of 25 s of several sentences: WER 16.9 without this, 14.2 with it).
        kept = [h for h in kept if h.n_tokens >= options.completeness * kept[0].n_tokens]
        best = max(kept, key=lambda h: h.log_prob)
        silent = no_speech_prob > options.no_speech_threshold and best.mean_log_prob < options.log_prob_threshold
        voiceless = voice_prob < options.voice_threshold and best.mean_log_prob < options.voice_log_prob_threshold
        if silent or voiceless:
            return [], (
                f"this does not sound like speech (no-speech probability {no_speech_prob:.2f}, "
                f"voice {voice_prob:.2f}, {best.mean_log_prob:.1f} nats per token)"
            )
        wordless = normalizer(language)
        if not wordless(best.text):
            return [], "there were sounds but no words"
        return [h for h in kept if wordless(h.text)], ""


class _Tokens:
    """Whisper's special tokens by name, and text to and from the others."""

    def __init__(self, path: Path, *, multilingual: bool) -> None:
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(os.fspath(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"the tokenizer {path} is broken ({error}); {_FETCH}", stage="load") from error
        self._multilingual = multilingual
        self._end = self._id("<|endoftext|>")
        self._previous = self._id("<|startofprev|>")
        self._start = self._id("<|startoftranscript|>")

    def start(self, language: str) -> list[int]:
        """Tokens that ask for a transcript without timestamps.

        Raises:
            ValueError: If the model does not know the language.
        """
        if not self._multilingual:
            if language != "en":
                raise ValueError(f"this is an English-only model; it cannot hear {language!r}: use a multilingual one")
            return [self._start, self._id("<|notimestamps|>")]
        spoken = self._tokenizer.token_to_id(f"<|{language}|>")
        if spoken is None or not language.isalpha() or len(language) > 3:
            raise ValueError(f"Whisper knows no language {language!r}; use a code such as 'en', 'de' or 'zh'")
        return [self._start, spoken, self._id("<|transcribe|>"), self._id("<|notimestamps|>")]

    def context(self, prompt: str) -> list[int]:
        """`prompt` as what was said before; its last half context at most."""
        if not prompt.strip():
            return []
        ids = self._tokenizer.encode(" " + prompt.strip(), add_special_tokens=False).ids
        return [self._previous, *ids[-(_CONTEXT // 2 - 1) :]]

    def text(self, ids: Iterable[int]) -> str:
        return str(self._tokenizer.decode([i for i in ids if i < self._end])).strip()

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ModelError(f"the tokenizer has no {token}, so this is no Whisper model; {_FETCH}", stage="load")
        return int(found)


def _device(device: str) -> str:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', not {device!r}")
    if device == "cpu":
        return device
    import ctranslate2

    if ctranslate2.get_cuda_device_count() > 0:
        return "cuda"
    if device == "cuda":
        raise ModelError("CTranslate2 sees no CUDA device; use device='auto' or 'cpu'", stage="load")
    return "cpu"


def _load(folder: Path, device: str, options: WhisperOptions) -> Any:
    missing = [name for name in ("model.bin", "config.json", "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        what = "does not exist" if not folder.is_dir() else f"has no {', '.join(missing)}"
        raise ModelError(f"the Whisper model folder {folder} {what}; {_FETCH}", stage="load")
    import ctranslate2

    compute_type = options.compute_type
    if compute_type == "auto":
        compute_type = "int8" if device == "cpu" else "float16"
    try:
        return ctranslate2.models.Whisper(
            os.fspath(folder),
            device=device,
            compute_type=compute_type,
            intra_threads=options.threads or _cpus(),
        )
    except Exception as error:  # RuntimeError, ValueError and pybind11's own, by what is broken
        raise ModelError(f"cannot load the Whisper model in {folder}: {error}; {_FETCH}", stage="load") from error


def _cpus() -> int:
    """CPUs that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _features(n_mels: int) -> Any:
    from faster_whisper.feature_extractor import FeatureExtractor

    return FeatureExtractor(feature_size=n_mels)


def _compression(text: str) -> float:
    """How many times zlib shortens a text; Whisper's measure of a decoder that loops (appendix of the paper)."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0
