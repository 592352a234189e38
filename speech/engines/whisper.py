"""Whisper through CTranslate2, with the list of hypotheses that its beam search really found."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from ..errors import ModelError
from ..lists.judging import judge
from ..lists.nbest import distinct, varied
from ..sound.audio import Samples
from ..sound.segments import VadOptions, Window
from ..sound.vad import SileroDetector, VoiceDetector
from ..transcript import Calibration, Hypothesis, Transcript, Word
from .loading import pick_device
from .whisper_tokens import CONTEXT, WhisperTokens
from .windows import WINDOW_SECONDS, Hear, WindowedRecognizer, log_mel, token_limit, window_transcript

logger = logging.getLogger(__name__)

_FETCH = "run `vivavoce models fetch`, or name the folder of a Whisper model converted to CTranslate2"
_FRAMES_PER_SECOND = 50
"""Of the encoder's output, which word times are counted in; it takes twice as many."""
_SHORT_TAIL = 6.0
_LONG_TAIL = 10.0

_CALIBRATION = Calibration(temperature=0.965, other=-1.434, other_per_token=-0.0564)


@dataclass(frozen=True, slots=True)
class WhisperOptions:
    """How to decode, and when to refuse.

    Attributes:
        language: ISO 639-1 code; None detects it, once per recording, from the first window of speech.
        beams_per_hypothesis: Beam width for each hypothesis asked for (5 at least). Beams that differ only in case and
            punctuation merge, so a list of n needs about three times as many; with six there is something to choose.
        patience: Stop when beam width times this many hypotheses are finished (https://arxiv.org/abs/2204.05424).
        tails: Seconds of silence that the encoder sees after the speech, for each look at a window. None fills the
            encoder's 30 seconds, which it was trained with and which take much longer. What is hard to hear is heard a
            little differently every time: (6.0, 10.0) finds more than 10.0 alone, in twice the time.
        no_speech_threshold: If the no-speech probability is above this and
        log_prob_threshold: the best hypothesis has fewer nats per token than this, refuse.
        voice_threshold: If the voice detector gives the window's best segment less than this and
        voice_log_prob_threshold: the best hypothesis has fewer nats per token than this, refuse too: short bangs pass
            for words with either model alone. If both models doubt, refuse whatever the hypothesis has.
        completeness: A hypothesis with less than this share of the tokens of the one that is best per token has left
            something out: dropped.
        widen: While hypotheses are missing after all looks, search a beam of twice the width too.
        samples: Draw this many hypotheses at `sample_temperature` for each one that is missing even then; 0 draws none.
        sample_temperature: Above 1 draws unlikely words more often than the model thinks they are said.
        word_times: Say when each word of the best hypothesis was said; one more pass of the decoder.
        compression_threshold: A hypothesis that zlib compresses by more than this factor repeats itself: dropped.
        calibration: How sure a list may be of its first hypothesis (`vivavoce eval calibrate` fits it); the default was
            fitted on 489 English lists of Whisper base.
        compute_type: CTranslate2's name of a number format; "auto" is int8 on a CPU and float16 on a GPU.
        threads: CPU threads; 0 takes all that this process may use.
        vad: Which parts are speech.

    Raises:
        ValueError: If a value is out of range.
    """

    language: str | None = None
    beams_per_hypothesis: int = 6
    patience: float = 1.0
    tails: tuple[float | None, ...] = (_LONG_TAIL,)
    no_speech_threshold: float = 0.6
    log_prob_threshold: float = -1.0
    voice_threshold: float = 0.7
    voice_log_prob_threshold: float = -0.7
    completeness: float = 0.5
    compression_threshold: float = 2.4
    widen: bool = True
    samples: int = 2
    sample_temperature: float = 1.2
    word_times: bool = True
    calibration: Calibration | None = _CALIBRATION
    compute_type: str = "auto"
    threads: int = 0
    vad: VadOptions = field(default_factory=VadOptions)

    def __post_init__(self) -> None:
        if self.beams_per_hypothesis < 1:
            raise ValueError(f"beams_per_hypothesis must be at least 1, not {self.beams_per_hypothesis}; use 6")
        if self.patience <= 0:
            raise ValueError(f"patience must be positive, not {self.patience}; use 1.0")
        if not self.tails or any(tail is not None and tail < 0 for tail in self.tails):
            raise ValueError(f"tails must be seconds or None, at least one, not {self.tails}; use (10.0,)")
        if not (0 <= self.no_speech_threshold <= 1 and 0 <= self.voice_threshold <= 1):
            raise ValueError(
                f"no_speech_threshold={self.no_speech_threshold} and voice_threshold={self.voice_threshold} are "
                "probabilities; use 0.6 and 0.7"
            )
        if not 0 <= self.completeness <= 1:
            raise ValueError(f"completeness is a share, not {self.completeness}; use 0.5")
        if self.samples < 0 or self.sample_temperature <= 0:
            raise ValueError(
                f"samples={self.samples} must not be negative and sample_temperature={self.sample_temperature} must be "
                "positive; use 2 and 1.2"
            )
        if self.threads < 0:
            raise ValueError(f"threads must be 0 (all) or a number of threads, not {self.threads}")
        if self.vad.max_speech + 2 * self.vad.padding > WINDOW_SECONDS:
            raise ValueError(
                f"vad.max_speech={self.vad.max_speech} with a padding of {self.vad.padding} s on both sides does not "
                f"fit into Whisper's {WINDOW_SECONDS:.0f} s; use at most {WINDOW_SECONDS - 2 * self.vad.padding:g}"
            )

    def quick(self) -> WhisperOptions:
        """The same for a conversation: one look, with six seconds of silence, half as many beams, no times of words.

        Lists are there sooner, with somewhat more errors.
        """
        return replace(self, tails=(_SHORT_TAIL,), beams_per_hypothesis=3, word_times=False)


class WhisperRecognizer(WindowedRecognizer[WhisperOptions]):
    """A `Recognizer` on a Whisper model converted to CTranslate2.

    The voice detector decides first: sound without speech never reaches Whisper, and a pause of a second parts two
    windows. A window is looked at as often as there are tails: encoded, and searched for hypotheses, which become one
    list. The first look says the language; each may find that nobody spoke. Beam search ranks by log-probability per
    token, which keeps it from leaving sentences out; the list is ordered by the sums.

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
        self.device = pick_device(device, "CTranslate2")
        self._detector = detector or SileroDetector()
        folder = Path(model_dir)
        self._model = _load(folder, self.device, self.options)
        self._tokens = WhisperTokens(folder / "tokenizer.json", multilingual=self._model.is_multilingual, advice=_FETCH)
        if self.options.language is not None:
            self._tokens.start(self.options.language)  # refuses a language that the model does not know

    def with_options(self, options: WhisperOptions) -> Self:
        """A recogniser on the same loaded model that decodes otherwise; number format and threads stay as they are.

        Raises:
            ValueError: If the model does not know the language.
        """
        if options.language is not None:
            self._tokens.start(options.language)
        other = copy.copy(self)
        other.options = options
        return other

    def _hearing(self, n_best: int, prompt: str, hotwords: Sequence[str]) -> Hear:
        context = self._tokens.context(prompt, hotwords)
        return lambda window, language: self._hear(window, language, n_best, context)

    def _hear(self, window: Window, language: str | None, n_best: int, context: list[int]) -> Transcript:
        options, width = self.options, max(5, self.options.beams_per_hypothesis * n_best)
        search = _Search(self._model, self._tokens, window)

        def judged(language: str) -> tuple[list[Hypothesis], str]:
            return judge(
                search.best_per_token(),
                options,
                no_speech_prob=search.no_speech_prob,
                voice_prob=window.probability,
                language=language,
            )

        spoken, possible, reason = language or "", list[Hypothesis](), ""
        for mel in self._looks(window.audio.samples):
            encoded = self._encode(mel)
            spoken = spoken or self._language(encoded)
            search.on(encoded, context + self._tokens.start(spoken), token_limit(window, spoken))
            search.beam(width, options.patience)
            possible, reason = judged(spoken)
            if reason:
                break
        kept = distinct(possible, language=spoken)
        more: list[Callable[[int], None]] = []
        if options.widen:
            more.append(lambda _: search.beam(2 * width, options.patience))
        if options.samples:
            more.append(lambda missing: search.sample(options.samples * missing, options.sample_temperature))
        for look in more:
            if reason or len(kept) >= n_best or n_best == 1:
                break
            look(n_best - len(kept))
            possible, reason = judged(spoken)
            kept = distinct(possible, language=spoken)
        kept = varied(kept, n_best, language=spoken)
        if options.word_times and kept:
            kept = (replace(kept[0], words=search.words(kept[0].text, window.start)), *kept[1:])
        heard = window_transcript(
            window, kept, reason, language=spoken, no_speech_prob=search.no_speech_prob, n_best=n_best
        )
        return replace(heard, calibration=options.calibration)

    def _looks(self, samples: Samples) -> Iterator[Samples]:
        """What the encoder sees in each look; less where the speech is so long that tails are cut to the same."""
        frames = set()
        for tail in self.options.tails:
            mel = log_mel(samples, self._model.n_mels, tail)
            if mel.shape[-1] not in frames:
                frames.add(mel.shape[-1])
                yield mel

    def _encode(self, mel: Samples) -> Any:
        """One encoder pass: log-mel (1, n_mels, frames) to (1, frames / 2, width), left on the device."""
        import ctranslate2

        return self._model.encode(ctranslate2.StorageView.from_array(mel))

    def _language(self, encoded: Any) -> str:
        if not self._model.is_multilingual:
            return "en"
        token, probability = self._model.detect_language(encoded)[0][0]
        logger.debug("detected language %s with probability %.2f", token, probability)
        return str(token).strip("<|>")


class _Search:
    """What several searches found in one window.

    On one encoding all give the sum of the log-probabilities of a token sequence under the same distribution (a
    sample's are those at temperature 1), which is what teacher forcing would give: they compare without being computed
    again. Of encodings with other tails the higher sum counts: each is the same sound to the same model.
    """

    def __init__(self, model: Any, tokens: WhisperTokens, window: Window) -> None:
        self._model, self._tokens, self._window = model, tokens, window
        self._encoded: Any = None
        self._prompt: list[int] = []
        self._limit = 0
        self._found: dict[tuple[int, ...], Hypothesis] = {}
        self.no_speech_prob = 0.0

    def on(self, encoded: Any, prompt: list[int], limit: int) -> None:
        """Search in this encoding from now on, for at most so many tokens."""
        self._encoded, self._prompt, self._limit = encoded, prompt, limit

    def beam(self, width: int, patience: float) -> None:
        """Beam search; it ranks by log-probability per token, which keeps it from leaving sentences out."""
        wanted = max(1, round(width * min(1.0, patience)))
        result = self._generate(beam_size=width, patience=patience, num_hypotheses=wanted, return_no_speech_prob=True)
        self.no_speech_prob = result.no_speech_prob

    def sample(self, count: int, temperature: float) -> None:
        """Draw whole sequences."""
        self._generate(beam_size=1, num_hypotheses=count, sampling_topk=0, sampling_temperature=temperature)

    def best_per_token(self) -> list[Hypothesis]:
        """Everything found so far, each token sequence once."""
        return sorted(self._found.values(), key=lambda h: -h.log_prob / max(1, h.n_tokens - 1))

    def words(self, text: str, start: float) -> tuple[Word, ...]:
        """When the words of a text were said, in seconds; `start` is where the window begins.

        The decoder reads the tokens once more, and dynamic time warping follows its cross-attention (Radford et al.
        2022, as released in openai-whisper). A word's probability is the product of those of its tokens.
        """
        ids = next((list(ids) for ids, found in self._found.items() if found.text == text), [])
        frames = math.ceil(self._window.audio.seconds * _FRAMES_PER_SECOND)
        aligned = self._model.align(self._encoded, self._prompt, [ids], 2 * frames)[0]
        begins: dict[int, int] = {}
        for token, frame in aligned.alignments:
            begins.setdefault(token, frame)
        return tuple(
            Word(
                written,
                start + begins.get(first, frames) / _FRAMES_PER_SECOND,
                start + begins.get(last, frames) / _FRAMES_PER_SECOND,
                min(1.0, math.prod(aligned.text_token_probs[first:last])),
            )
            for written, first, last in self._tokens.words(ids)
        )

    def _generate(self, **how: Any) -> Any:
        result = self._model.generate(
            self._encoded,
            [self._prompt],
            length_penalty=1.0,
            max_length=min(CONTEXT, len(self._prompt) + self._limit),
            return_scores=True,
            **how,
        )[0]
        for ids, score in zip(result.sequences_ids, result.scores, strict=True):
            # A score is the sum of log-probabilities, the end's included, divided by the tokens without the end.
            log_prob = min(0.0, float(score) * max(1, len(ids)))
            known = self._found.get(tuple(ids))
            # The same sequence scores a little differently in searches of other widths, by rounding to 8 bits.
            if known is None or known.log_prob < log_prob:
                self._found[tuple(ids)] = Hypothesis(self._tokens.text(ids), log_prob, len(ids) + 1)
        return result


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
