"""CTC models of transformers (wav2vec 2.0 and its family), with a prefix beam search that keeps its list.

A CTC model says for each 20 ms which letter is spoken, or none (the blank); a text is as probable as all the ways of
stretching it over the frames together (Graves et al. 2006, https://doi.org/10.1145/1143844.1143891).
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..lists.judging import compression, worded
from ..lists.nbest import distinct
from ..sound.audio import SPEECH_RATE, Samples
from ..sound.segments import VadOptions, Window
from ..sound.vad import SileroDetector, VoiceDetector
from ..transcript import Hypothesis, Transcript, Word
from .loading import pick_device, quiet_loading
from .windows import WINDOW_SECONDS, Hear, WindowedRecognizer, window_transcript

Labels: TypeAlias = tuple[int, ...]
LogProbs: TypeAlias = NDArray[np.float64]

_ADVICE = "name the folder of a CTC model in transformers' format, such as facebook/wav2vec2-base-960h"
_BEAMS_PER_HYPOTHESIS = 3
_NEVER = -math.inf


class WordScorer(Protocol):
    """A language model that speaks up at each word of the beam search."""

    def score(self, before: Sequence[str], word: str) -> float:
        """What is added when `word` follows the words `before`: a log-probability in nats, weighted as you like."""
        ...


@dataclass(frozen=True, slots=True)
class CTCOptions:
    """How to decode.

    Attributes:
        language: ISO 639-1 code of what the model hears; it cannot tell.
        beam_width: Texts that the search carries from frame to frame; three for each hypothesis asked for at least.
        label_threshold: A letter with less than this log-probability (nats) in a frame is not tried there.
        hotword_bonus: Nats that each likely word is worth to the search, in parts while it is being spelt.
        no_speech_threshold: Refuse if the model's probability of the empty text is above this.
        compression_threshold: A hypothesis that zlib compresses by more than this factor repeats itself: dropped.
        vad: Which parts are speech.

    Raises:
        ValueError: If a value is out of range.
    """

    language: str = "en"
    beam_width: int = 50
    label_threshold: float = -7.0
    hotword_bonus: float = 4.0
    no_speech_threshold: float = 0.5
    compression_threshold: float = 2.4
    vad: VadOptions = field(default_factory=VadOptions)

    def __post_init__(self) -> None:
        if not self.language:
            raise ValueError("language is empty; a CTC model cannot detect it, so give a code such as 'en'")
        if self.beam_width < 1:
            raise ValueError(f"beam_width must be at least 1, not {self.beam_width}; use 50")
        if self.label_threshold >= 0:
            raise ValueError(f"label_threshold is a log-probability, not {self.label_threshold}; use -7.0")
        if self.hotword_bonus < 0:
            raise ValueError(f"hotword_bonus must be 0 or more nats, not {self.hotword_bonus}; use 4.0")
        if not 0 <= self.no_speech_threshold <= 1:
            raise ValueError(f"no_speech_threshold is a probability, not {self.no_speech_threshold}; use 0.5")
        if self.vad.max_speech + 2 * self.vad.padding > WINDOW_SECONDS:
            raise ValueError(
                f"vad.max_speech={self.vad.max_speech} with a padding of {self.vad.padding} s on both sides does not "
                f"fit into {WINDOW_SECONDS:.0f} s; use at most {WINDOW_SECONDS - 2 * self.vad.padding:g}"
            )


class CTCRecognizer(WindowedRecognizer[CTCOptions]):
    """A `Recognizer` on a CTC model: small, quick, and there for languages that Whisper lacks.

    The search looks for texts; what it finds is then scored over all alignments, so `log_prob` is exactly the model's
    log-probability of the text. Likely words and the scorer decide which texts are found and kept; they have no part
    in `log_prob`, which orders the list.

    Safe to use from several threads at once, if the scorer is.

    Args:
        model_dir: Folder with `config.json`, weights, `preprocessor_config.json` and the tokenizer.
        options: How to decode.
        scorer: A language model for the search.
        detector: Default: Silero.
        device: "cpu", "cuda", or "auto": a GPU where torch sees one.

    Raises:
        ModelError: If the folder is missing, incomplete or broken, or there is no GPU for "cuda".
        ValueError: If the device has another name.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str],
        *,
        options: CTCOptions | None = None,
        scorer: WordScorer | None = None,
        detector: VoiceDetector | None = None,
        device: str = "auto",
    ) -> None:
        self.options = options or CTCOptions()
        self.device = pick_device(device, "torch")
        self._scorer = scorer
        self._model, self._features, tokenizer = _load(Path(model_dir), self.device)
        self._blank = int(tokenizer.pad_token_id)
        self._pieces = _pieces(tokenizer, self._model.config.vocab_size)
        self._detector = detector or SileroDetector()

    def _hearing(self, n_best: int, prompt: str, hotwords: Sequence[str]) -> Hear:
        return lambda window, _: self._hear(window, n_best, hotwords)

    def _hear(self, window: Window, n_best: int, hotwords: Sequence[str]) -> Transcript:
        options = self.options
        log_probs = self._log_probs(window.audio.samples)
        bias = _Bias(self._pieces, hotwords, options.hotword_bonus, self._scorer)
        found = prefix_beam_search(
            log_probs,
            blank=self._blank,
            beam_width=max(options.beam_width, _BEAMS_PER_HYPOTHESIS * n_best),
            label_threshold=options.label_threshold,
            extra=bias if bias else None,
        )
        scores = label_log_probs(log_probs, found, blank=self._blank)
        heard = [
            Hypothesis(self._text(labels), min(0.0, float(score)), max(1, len(labels)))
            for labels, score in zip(found, scores, strict=True)
        ]
        no_speech_prob = min(1.0, math.exp(log_probs[:, self._blank].sum()))
        kept, reason = self._judge(heard, no_speech_prob)
        merged = distinct(kept, language=options.language)
        # Likely words may bring a text into the list; its place there is by what was heard.
        chosen = sorted(merged, key=lambda h: -h.log_prob - bias.of_text(h.text))[:n_best]
        spelt = {h.text: labels for h, labels in reversed(list(zip(heard, found, strict=True)))}
        timed = [replace(h, words=self._words(log_probs, spelt[h.text], window)) for h in chosen]
        return window_transcript(
            window, timed, reason, language=options.language, no_speech_prob=no_speech_prob, n_best=n_best
        )

    def _log_probs(self, samples: Samples) -> LogProbs:
        """Float32 (n,) at 16 kHz to float64 (frames, vocabulary), only letters and the blank possible."""
        import torch

        with torch.inference_mode():
            given = self._features(samples, sampling_rate=SPEECH_RATE, return_tensors="pt").to(self.device)
            logits = self._model(**given).logits[0].double()
            silent = [label for label, piece in enumerate(self._pieces) if piece is None and label != self._blank]
            logits[:, silent] = _NEVER
            log_probs: LogProbs = logits.log_softmax(-1).cpu().numpy()
        return log_probs

    def _text(self, labels: Labels) -> str:
        return " ".join("".join(self._pieces[label] or "" for label in labels).split())

    def _words(self, log_probs: LogProbs, labels: Labels, window: Window) -> tuple[Word, ...]:
        """When each word was said, and how sure its letters are: the geometric mean of their best frames."""
        frames = label_frames(log_probs, labels, blank=self._blank)
        seconds = window.audio.seconds / len(log_probs)
        groups: list[list[int]] = [[]]
        for i, label in enumerate(labels):
            piece = self._pieces[label] or ""
            if piece.startswith(" "):
                groups.append([])
            if piece.strip():
                groups[-1].append(i)
        words = []
        for group in filter(None, groups):
            (start, _), (_, last) = frames[group[0]], frames[group[-1]]
            peaks = [float(log_probs[slice(frames[i][0], frames[i][1] + 1), labels[i]].max()) for i in group]
            words.append(
                Word(
                    self._text(tuple(labels[i] for i in group)),
                    window.start + start * seconds,
                    window.start + (last + 1) * seconds,
                    math.exp(math.fsum(peaks) / len(peaks)),
                )
            )
        return tuple(words)

    def _judge(self, heard: list[Hypothesis], no_speech_prob: float) -> tuple[list[Hypothesis], str]:
        """The hypotheses that can have been said, or the reason why nothing was."""
        if no_speech_prob > self.options.no_speech_threshold:
            return [], f"this does not sound like speech (no-speech probability {no_speech_prob:.2f})"
        kept = [h for h in heard if compression(h.text) <= self.options.compression_threshold]
        if not kept:
            return [], "the recogniser only repeated itself, so nothing intelligible was said"
        return worded(kept, max(kept, key=lambda h: h.log_prob), self.options.language)


def prefix_beam_search(
    log_probs: LogProbs,
    *,
    blank: int,
    beam_width: int,
    label_threshold: float = _NEVER,
    extra: Callable[[Labels], float] | None = None,
) -> list[Labels]:
    """The label sequences that a CTC model finds likeliest, best first (Hannun et al. 2014, arXiv:1408.2873).

    Each sequence is carried once, with the probability of all its alignments that are still in the beam, apart by
    whether they end in a blank: only behind a blank can the last label come again.

    Args:
        log_probs: Nats, shape (frames, labels).
        blank: The label that means nothing.
        beam_width: Sequences kept after each frame.
        label_threshold: Labels below it are not tried in a frame.
        extra: Nats that a sequence is worth beyond what was heard; asked once for each.
    """
    worth: dict[Labels, float] = {(): 0.0}
    beams: dict[Labels, tuple[float, float]] = {(): (0.0, _NEVER)}
    for frame in log_probs:
        labels = [int(label) for label in np.flatnonzero(frame >= label_threshold) if label != blank]
        grown = _grown(beams, frame.tolist(), labels, blank)
        for sequence in grown.keys() - worth.keys():
            worth[sequence] = extra(sequence) if extra else 0.0
        best = sorted(grown, key=lambda sequence: -_sum(*grown[sequence]) - worth[sequence])[:beam_width]
        beams = {sequence: grown[sequence] for sequence in best}
    return [sequence for sequence in beams if _sum(*beams[sequence]) > _NEVER]


def _grown(
    beams: dict[Labels, tuple[float, float]], frame: list[float], labels: list[int], blank: int
) -> dict[Labels, tuple[float, float]]:
    """The sequences after one more frame: log-probability of the alignments with a blank at the end, and without."""
    ended: dict[Labels, float] = defaultdict(lambda: _NEVER)
    spoken: dict[Labels, float] = defaultdict(lambda: _NEVER)
    for sequence, (in_blank, in_label) in beams.items():
        whole = _sum(in_blank, in_label)
        last = sequence[-1] if sequence else blank
        ended[sequence] = whole + frame[blank]
        if sequence:
            spoken[sequence] = _sum(spoken[sequence], in_label + frame[last])
        for label in labels:
            longer = (*sequence, label)
            spoken[longer] = _sum(spoken[longer], (in_blank if label == last else whole) + frame[label])
    return {sequence: (ended[sequence], spoken[sequence]) for sequence in ended.keys() | spoken.keys()}


def label_log_probs(log_probs: LogProbs, sequences: Sequence[Labels], *, blank: int) -> NDArray[np.float64]:
    """The log-probability of each sequence over all its alignments: CTC's forward score, in nats, shape (n,).

    Args:
        log_probs: Nats, shape (frames, labels).
        sequences: n sequences of labels without blanks.
        blank: The label that means nothing.
    """
    import torch

    # Only the columns that are used: vocabularies of syllables have thousands.
    used = sorted({label for sequence in sequences for label in sequence})
    place = {label: i for i, label in enumerate(used, start=1)}
    targets = np.zeros((len(sequences), max(1, *(len(sequence) for sequence in sequences))), dtype=np.int64)
    for row, sequence in zip(targets, sequences, strict=True):
        row[: len(sequence)] = [place[label] for label in sequence]
    columns = torch.from_numpy(log_probs[:, [blank, *used]])
    lost = torch.nn.functional.ctc_loss(
        columns[:, None].expand(-1, len(sequences), -1),
        torch.from_numpy(targets),
        torch.full((len(sequences),), len(log_probs)),
        torch.tensor([len(sequence) for sequence in sequences]),
        reduction="none",
    )
    scores: NDArray[np.float64] = -lost.numpy()
    return scores


def label_frames(log_probs: LogProbs, labels: Labels, *, blank: int) -> list[tuple[int, int]]:
    """The first and the last frame of each label in the likeliest alignment (Viterbi).

    Args:
        log_probs: Nats, shape (frames, labels); at least as many frames as the labels need.
        labels: Without blanks.
        blank: The label that means nothing.
    """
    # Before, between and behind the labels there may be blanks: state 2 i + 1 is label i.
    states = np.full(2 * len(labels) + 1, blank)
    states[1::2] = labels
    skips = np.zeros(len(states), dtype=bool)  # where the blank between two labels may be left out
    skips[3::2] = states[3::2] != states[1:-2:2]
    score = np.full(len(states), _NEVER)
    score[:2] = log_probs[0, states[:2]]
    moves = np.zeros((len(log_probs), len(states)), dtype=np.int64)
    for time, frame in enumerate(log_probs[1:], start=1):
        ways = np.full((3, len(states)), _NEVER)
        ways[0], ways[1, 1:], ways[2, 2:] = score, score[:-1], np.where(skips[2:], score[:-2], _NEVER)
        moves[time] = ways.argmax(axis=0)
        score = ways.max(axis=0) + frame[states]
    state = len(states) - 1 - int(len(states) > 1 and score[-2] > score[-1])
    frames: dict[int, tuple[int, int]] = {}
    for time in range(len(log_probs) - 1, -1, -1):
        if state % 2:
            frames[state // 2] = (time, frames.get(state // 2, (time, time))[1])
        state -= int(moves[time, state])
    return [frames[i] for i in range(len(labels))]


class _Said(NamedTuple):
    """A label sequence as words."""

    words: tuple[str, ...]
    """Those that are complete."""
    partial: str
    """The beginning of the next."""
    worth: float
    """Nats, of the complete words."""


class _Bias:
    """What a label sequence is worth beyond what was heard: likely words, and what the scorer says."""

    def __init__(
        self, pieces: Sequence[str | None], hotwords: Sequence[str], bonus: float, scorer: WordScorer | None
    ) -> None:
        self._pieces = pieces
        self._hotwords = {word.casefold() for phrase in hotwords for word in phrase.split()}
        self._bonus = bonus
        self._scorer = scorer
        self._said: dict[Labels, _Said] = {(): _Said((), "", 0.0)}
        # How much of a likely word has been spelt: without a part of the bonus on the way, it would be pruned before
        # its last letter.
        self._spelt: dict[str, float] = {}
        for word in self._hotwords:
            for end in range(1, len(word) + 1):
                self._spelt[word[:end]] = max(self._spelt.get(word[:end], 0.0), end / len(word))

    def __bool__(self) -> bool:
        return bool(self._hotwords) or self._scorer is not None

    def __call__(self, labels: Labels) -> float:
        """Nats; the sequence one label shorter has been asked before."""
        words, partial, worth = self._said[labels[:-1]]
        *complete, partial = (partial + (self._pieces[labels[-1]] or "")).split(" ")
        for word in filter(None, complete):
            worth += self._of_word(words, word)
            words = (*words, word)
        self._said[labels] = _Said(words, partial, worth)
        return worth + self._bonus * self._spelt.get(partial.casefold(), 0.0)

    def of_text(self, text: str) -> float:
        """Nats that a finished text is worth."""
        words = tuple(text.split())
        return math.fsum(self._of_word(words[:i], word) for i, word in enumerate(words))

    def _of_word(self, before: tuple[str, ...], word: str) -> float:
        bonus = self._bonus if word.casefold() in self._hotwords else 0.0
        return bonus + (self._scorer.score(before, word) if self._scorer else 0.0)


def _sum(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))


def _pieces(tokenizer: Any, size: int) -> list[str | None]:
    """What each label writes, " " between two words; None for those that write nothing."""
    between = getattr(tokenizer, "word_delimiter_token", None)
    # Some tokenizers count the mark between words among the special ones.
    steering = set(tokenizer.all_special_tokens) - {between}
    pieces: list[str | None] = [None] * size
    for token, label in tokenizer.get_vocab().items():
        if label < size and token not in steering:
            # Tokenizers of word pieces write the blank as a lower block in front of a word.
            pieces[label] = " " if token == between else token.replace("\u2581", " ")
    return pieces


def _load(folder: Path, device: str) -> tuple[Any, Any, Any]:
    """Model, feature extractor and tokenizer."""
    missing = [name for name in ("config.json", "preprocessor_config.json") if not (folder / name).is_file()]
    if missing:
        what = "does not exist" if not folder.is_dir() else f"has no {', '.join(missing)}"
        raise ModelError(f"the CTC model folder {folder} {what}; {_ADVICE}", stage="load")
    import transformers

    extractors: Any = transformers.AutoFeatureExtractor
    try:
        with quiet_loading():
            model = transformers.AutoModelForCTC.from_pretrained(folder)
        features = extractors.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # OSError, ValueError, SafetensorError and others, by what is broken
        raise ModelError(f"cannot load the CTC model in {folder}: {error}; {_ADVICE}", stage="load") from error
    if features.sampling_rate != SPEECH_RATE or tokenizer.pad_token_id is None:
        raise ModelError(
            f"the model in {folder} hears {features.sampling_rate} Hz and its blank is {tokenizer.pad_token}; a CTC "
            f"model for this engine hears {SPEECH_RATE} Hz and has a padding token as its blank",
            stage="load",
        )
    return model.float().to(device).eval(), features, tokenizer
