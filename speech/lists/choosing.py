"""Which of the things that may have been said is passed on.

A chooser reads the list of a transcript and takes one reading, or puts one together from several. The language model
that some of them ask is injected: anything with ``score``.

LanguageChooser(scorer).choose(transcript).text
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..transcript import Transcript
from .confusion import ConfusionNetwork, key
from .evidence import BY_HAND, EVIDENCE, evidence
from .nbest import normalizer, word_distances


class SentenceScorer(Protocol):
    """Tells how probable sentences are as language."""

    def score(self, texts: Sequence[str], *, context: str = "") -> Sequence[float]:
        """Log-probability of each whole text behind a context, in nats: sums over tokens, not divided by length."""
        ...

    def lengths(self, texts: Sequence[str]) -> Sequence[int]:
        """How many tokens each sum is of, at least 1."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen.

    Attributes:
        text: For display; "" if nobody spoke.
        method: Name of the chooser.
        index: Place in the list, 0 for the recogniser's best; None if it was put together from several or if nobody
            spoke.
        confidence: Probability of this reading as the chooser sees it, [0, 1].
        abstained: Whether the chooser preferred another reading, and kept the recogniser's best because it was not
            sure enough.
    """

    text: str
    method: str
    index: int | None
    confidence: float
    abstained: bool = False


class Chooser(Protocol):
    """Takes one reading of a transcript."""

    def choose(self, transcript: Transcript, *, context: str = "") -> Choice:
        """Choose.

        Args:
            transcript: A list of one comes back unchanged; an empty one gives an empty choice.
            context: What was said before.
        """
        ...


class FirstChooser:
    """The recogniser's best."""

    def choose(self, transcript: Transcript, *, context: str = "") -> Choice:
        """See ``Chooser.choose``; the context is not used."""
        return _first(transcript, "1best")


class RoverChooser:
    """The likeliest word of every slot of the confusion network (ROVER, Fiscus 1997)."""

    def __init__(self, *, temperature: float = 1.0) -> None:
        """Make one; `temperature` flattens or sharpens the posteriors that vote, see ``Transcript.posteriors``."""
        self._temperature = _positive("temperature", temperature)

    def choose(self, transcript: Transcript, *, context: str = "") -> Choice:
        """See ``Chooser.choose``; the context is not used. The confidence is that of the least certain slot."""
        if len(transcript.hypotheses) < 2:
            return _first(transcript, "rover")
        network = ConfusionNetwork.of(transcript, temperature=self._temperature)
        text = network.best()
        same = [i for i, h in enumerate(transcript.hypotheses) if _keys(h.text) == _keys(text)]
        confidence = min((slot.choices[0].probability for slot in network.slots), default=0.0)
        if same:
            return Choice(transcript.hypotheses[same[0]].text, "rover", same[0], confidence)
        return Choice(text, "rover", None, confidence)


class BayesChooser:
    """The hypothesis with the fewest expected word errors (minimum Bayes risk).

    Risk of h = sum over g of P(g) * word errors between h and g (Stolcke, König & Weintraub 1997,
    https://doi.org/10.21437/Eurospeech.1997-75).
    """

    def __init__(self, *, temperature: float = 1.0) -> None:
        """Make one; `temperature` flattens or sharpens the posteriors, see ``Transcript.posteriors``."""
        self._temperature = _positive("temperature", temperature)

    def choose(self, transcript: Transcript, *, context: str = "") -> Choice:
        """See ``Chooser.choose``; the context is not used."""
        if len(transcript.hypotheses) < 2:
            return _first(transcript, "mbr")
        posteriors = np.array(transcript.posteriors(self._temperature))
        index = int(_risks(transcript, posteriors).argmin())
        return Choice(transcript.hypotheses[index].text, "mbr", index, float(posteriors[index]))


@dataclass(frozen=True, slots=True)
class LanguageOptions:
    """How much what is said counts against what it sounds like.

    Attributes:
        weights: Of what speaks for a reading, by its name in ``evidence.EVIDENCE``; what is not named does not count.
        longest: How many hypotheses are read.

    Raises:
        ValueError: If there is no such evidence, or a value is out of range.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: BY_HAND)
    longest: int = 8

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if name not in EVIDENCE or not math.isfinite(weight):
                raise ValueError(f"weights has {name}={weight}; give numbers for some of {', '.join(EVIDENCE)}")
        if self.longest < 1:
            raise ValueError(f"longest must be at least 1, not {self.longest}")


class LanguageChooser:
    """Rescores the list with a language model, and stays with the recogniser's best unless more speaks for another.

    What speaks for a reading is counted by ``evidence.evidence``, and weighed: how likely it is as sound and as
    language, how much it sounds like the best, and, since noisy speech gives readings that lie far apart, the spread of
    the list. ``evidence.fit_weights`` learns the weights from lists of which it is known what was said.

    Two things a language model does not know, and they are never changed for its sake: which number was said, and that
    a word was said which the sentence would read well without. English only: of other languages, whose sounds it does
    not know, the recogniser's best is kept.
    """

    def __init__(self, scorer: SentenceScorer, *, options: LanguageOptions | None = None, method: str = "lm") -> None:
        """Put one together.

        Args:
            scorer: The language model.
            options: Weights; the defaults are set by hand, for SmolLM2-135M and the scores of Whisper.
            method: What its choices are called.
        """
        self.options = options or LanguageOptions()
        self._scorer = scorer
        self._method = method

    def choose(self, transcript: Transcript, *, context: str = "") -> Choice:
        """See ``Chooser.choose``; the language model reads the hypotheses behind the context."""
        texts = [hypothesis.text for hypothesis in transcript.hypotheses[: self.options.longest]]
        if len(texts) < 2 or transcript.language not in ("en", ""):
            return _first(transcript, self._method)
        seen = self.weigh(transcript, texts, context=context)
        weights = np.array([self.options.weights.get(name, 0.0) for name in EVIDENCE])
        gains = seen @ weights
        caution = list(EVIDENCE).index("other")
        preferred = int((gains - seen[:, caution] * weights[caution]).argmax())
        gains[[not may_replace(texts[0], text) for text in texts]] = -np.inf
        index = int(gains.argmax())
        chances = np.exp(gains - gains[index])
        return Choice(texts[index], self._method, index, float(1.0 / chances.sum()), abstained=index != preferred)

    def weigh(self, transcript: Transcript, texts: Sequence[str], *, context: str = "") -> NDArray[np.float64]:
        """What speaks for the first readings of a list; float64, shape (len(texts), len(EVIDENCE))."""
        plain = [sentence(text) for text in texts]
        return evidence(transcript, plain, self._scorer.score(plain, context=context), self._scorer.lengths(plain))


def may_replace(best: str, text: str) -> bool:
    """Whether both have the same numbers, and the text is not the best one with words left out."""
    normalize = normalizer("en")
    old, new = normalize(best).split(), normalize(text).split()
    if [word for word in old if _has_digit(word)] != [word for word in new if _has_digit(word)]:
        return False
    rest = iter(old)
    return old == new or len(new) >= len(old) or not all(word in rest for word in new)


def _has_digit(word: str) -> bool:
    return any(sign.isdigit() for sign in word)


def sentence(text: str) -> str:
    """A text as one plain written sentence: "I said so." for "i SAID, so".

    Hypotheses differ in how they are written, and a language model would judge that too.
    """
    text = re.sub(r"[^\w\s'\-$%&]|(?<!\w)['\-]|['\-](?!\w)", " ", text.lower().replace("’", "'"))
    text = re.sub(r"\bi\b", "I", " ".join(text.split()))
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _first(transcript: Transcript, method: str) -> Choice:
    if not transcript.hypotheses:
        return Choice("", method, None, 0.0)
    return Choice(transcript.text, method, 0, transcript.posteriors()[0])


def _keys(text: str) -> list[str]:
    return [key(word) for word in text.split() if key(word)]


def _risks(transcript: Transcript, posteriors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected word errors of each hypothesis; float64, shape (n,)."""
    words = [_keys(hypothesis.text) for hypothesis in transcript.hypotheses]
    return word_distances(words) @ posteriors


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be positive, not {value}")
    return value
