"""Finds words by their sound in all that may have been said: keywords, and the phrase that wakes an assistant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vivavoce.speech import Hypothesis, Transcript, VadOptions, WhisperOptions, distinct
from vivavoce.speech.lists.phonetics import alignments, omissions, phonemes, pronounce

from ..errors import ConfigError

KEYWORD_HEARING = WhisperOptions(
    language="en",
    beams_per_hypothesis=3,
    tails=(None,),
    no_speech_threshold=1.0,
    voice_threshold=0.0,
    vad=VadOptions(threshold=0.3, release=0.2, min_speech=0.06),
)
"""How to hear single words: what is no keyword the spotter refuses itself, so the recogniser passes on what it can."""


@dataclass(frozen=True, slots=True)
class KeywordOptions:
    """How like it something must sound.

    Attributes:
        tolerance: Which share of a keyword's phonemes may be misheard at even odds that it was said.
        sharpness: Nats that one more misheard phoneme costs.
        temperature: Of the list's log-probabilities; above 1 later hypotheses count for more.
        threshold: Probability from which on a keyword counts as said.

    Raises:
        ConfigError: If a value is out of range.
    """

    tolerance: float = 0.35
    sharpness: float = 4.0
    temperature: float = 2.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.tolerance <= 1 and 0 < self.threshold < 1):
            raise ConfigError("tolerance and threshold are shares between 0 and 1; use 0.35 and 0.5", stage="config")
        if min(self.sharpness, self.temperature) <= 0:
            raise ConfigError("sharpness and temperature must be positive; use 4.0 and 2.0", stage="config")


@dataclass(frozen=True, slots=True)
class Detection:
    """A keyword that was said.

    Attributes:
        keyword: As it was given to the spotter.
        probability: That it was said, over the whole list.
        hypothesis: Number of the hypothesis that says it best, 0 for the first.
        start: Where that hypothesis says it, in characters of its text.
        end: Where it is over.
    """

    keyword: str
    probability: float
    hypothesis: int
    start: int
    end: int


class KeywordSpotter:
    """Spots keywords in a list of hypotheses.

    Each hypothesis says with some probability that a keyword was said: certainly if one of its words sounds the same
    ("ate", "8" and "eight"), less the further the nearest sounds lie from it. Where several keywords claim the same
    words they compete. The list's posteriors weigh the hypotheses.

    Args:
        keywords: Words or phrases, in letters ("eight", not "8" is how people say it, but both are read).
        options: How like it something must sound.

    Raises:
        ConfigError: If there are no keywords, two are the same, or one cannot be said.
    """

    def __init__(self, keywords: Sequence[str], options: KeywordOptions | None = None) -> None:
        if isinstance(keywords, str) or not keywords:
            raise ConfigError(
                f"keywords must be a list of words, such as ['yes', 'no'], not {keywords!r}", stage="config"
            )
        self.keywords = tuple(keywords)
        self.options = options or KeywordOptions()
        self._sounds = [phonemes(keyword) for keyword in self.keywords]
        for keyword, sound in zip(self.keywords, self._sounds, strict=True):
            if not sound:
                raise ConfigError(f"the keyword {keyword!r} has no sound; write it as it is said", stage="config")
            first = self.keywords[self._sounds.index(sound)]
            if first != keyword or self.keywords.count(keyword) > 1:
                raise ConfigError(f"the keywords {first!r} and {keyword!r} sound the same; keep one", stage="config")
        self._even = np.array([self.options.tolerance * omissions()[list(sound)].sum() for sound in self._sounds])

    @property
    def prompt(self) -> str:
        """The keywords as a context for the recogniser, for `Recognizer.transcribe(prompt=…)`."""
        return ", ".join(self.keywords) + "."

    def spot(self, heard: Transcript | str) -> tuple[Detection, ...]:
        """The keywords that reach the threshold, most probable first."""
        return tuple(found for found in self.ranked(heard) if found.probability >= self.options.threshold)

    def ranked(self, heard: Transcript | str) -> tuple[Detection, ...]:
        """Every keyword, most probable first; none if there are no words."""
        said = _listed(heard)
        weights = said.posteriors(self.options.temperature)
        total = [0.0] * len(self.keywords)
        best: dict[int, tuple[float, Detection]] = {}
        for number, (hypothesis, weight) in enumerate(zip(said.hypotheses, weights, strict=True)):
            for keyword, (probability, start, end) in enumerate(self._in(hypothesis.text)):
                total[keyword] += weight * probability
                if keyword not in best or weight * probability > best[keyword][0]:
                    found = Detection(self.keywords[keyword], 0.0, number, start, end)
                    best[keyword] = (weight * probability, found)
        summed = [replace(detection, probability=total[keyword]) for keyword, (_, detection) in best.items()]
        return tuple(sorted(summed, key=lambda detection: -detection.probability))

    def _in(self, text: str) -> list[tuple[float, int, int]]:
        """For each keyword the probability that the text says it, and where it does so best."""
        words = pronounce(text)
        if not words:
            return []
        row = [phoneme for word in words for phoneme in word.phonemes]
        breaks = np.cumsum([0, *(len(word.phonemes) for word in words)])
        cost = alignments(self._sounds, row, breaks[:-1])[:, :, breaks[1:]]
        places = cost.reshape(len(cost), -1).argmin(axis=1)
        first, last = np.divmod(places, len(words))
        nats = self.options.sharpness * (self._even - cost.reshape(len(cost), -1).min(axis=1))
        # Those whose words overlap exclude each other; that none was said has nats 0.
        rivals = (first[:, None] <= last[None]) & (first[None] <= last[:, None])
        against = np.logaddexp(0.0, np.logaddexp.reduce(np.where(rivals, nats[None], -np.inf), axis=1))
        sure = np.exp(nats - against)
        return [
            (float(p), words[i].start, words[j].end)
            for p, i, j in zip(sure, first.tolist(), last.tolist(), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Wake:
    """Whether an assistant was called.

    Attributes:
        called: Whether the wake phrase was said.
        probability: That it was said.
        rest: What was said behind it, still as a list: the hypotheses that called, each from behind the phrase on. If
            nobody called, or nothing follows, a refusal with its reason.
    """

    called: bool
    probability: float
    rest: Transcript


class WakePhrase:
    """Waits to be called by its name.

    Args:
        phrase: Three syllables or more keep it from being heard by chance.
        options: How like it something must sound.

    Raises:
        ConfigError: If the phrase cannot be said.
    """

    def __init__(self, phrase: str, options: KeywordOptions | None = None) -> None:
        self.phrase = phrase
        self._spotter = KeywordSpotter([phrase], options)

    def listen(self, heard: Transcript | str) -> Wake:
        """Whether `heard` calls, and what it says behind the call."""
        said = _listed(heard)
        found = self._spotter.ranked(said)
        probability = found[0].probability if found else 0.0
        if probability < self._spotter.options.threshold:
            reason = said.reason or f"nobody said {self.phrase!r}"
            return Wake(False, probability, Transcript.nothing(reason, said.duration, said.no_speech_prob))
        rests = []
        for hypothesis in said.hypotheses:
            place = self._spotter.spot(hypothesis.text)
            rest = hypothesis.text[place[0].end :].lstrip(" ,.!?;:-–—…") if place else ""
            if pronounce(rest):
                rests.append(replace(hypothesis, text=rest, words=()))
        if not rests:
            nothing = Transcript.nothing(f"nothing was said behind {self.phrase!r}", said.duration, said.no_speech_prob)
            return Wake(True, probability, nothing)
        return Wake(True, probability, replace(said, hypotheses=distinct(rests, language=said.language)))


def _listed(heard: Transcript | str) -> Transcript:
    return Transcript((Hypothesis(heard, 0.0, 1),), "en", 0.0, 0.0) if isinstance(heard, str) else heard
