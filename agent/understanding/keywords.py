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
    """Options for spotting keywords by their sound.

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
        options: How closely the sound must match.

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
        self._tolerated_cost = np.array(
            [self.options.tolerance * omissions()[list(sound)].sum() for sound in self._sounds]
        )

    @property
    def prompt(self) -> str:
        """The keywords as a context for the recogniser, for `Recognizer.transcribe(prompt=…)`."""
        return ", ".join(self.keywords) + "."

    def spot(self, heard: Transcript | str) -> tuple[Detection, ...]:
        """The keywords that reach the threshold, most probable first."""
        return tuple(detection for detection in self.ranked(heard) if detection.probability >= self.options.threshold)

    def ranked(self, heard: Transcript | str) -> tuple[Detection, ...]:
        """Every keyword, most probable first; none if there are no words."""
        listed = _listed(heard)
        weights = listed.posteriors(self.options.temperature)
        total = [0.0] * len(self.keywords)
        best: dict[int, tuple[float, Detection]] = {}
        for number, (hypothesis, weight) in enumerate(zip(listed.hypotheses, weights, strict=True)):
            for keyword, (probability, start, end) in enumerate(self._match(hypothesis.text)):
                total[keyword] += weight * probability
                if keyword not in best or weight * probability > best[keyword][0]:
                    detection = Detection(self.keywords[keyword], 0.0, number, start, end)
                    best[keyword] = (weight * probability, detection)
        summed = [replace(detection, probability=total[keyword]) for keyword, (_, detection) in best.items()]
        return tuple(sorted(summed, key=lambda detection: -detection.probability))

    def _match(self, text: str) -> list[tuple[float, int, int]]:
        """For each keyword the probability that the text contains it, and the best span in characters."""
        words = pronounce(text)
        if not words:
            return []
        sounds = [phoneme for word in words for phoneme in word.phonemes]
        breaks = np.cumsum([0, *(len(word.phonemes) for word in words)])
        cost = alignments(self._sounds, sounds, breaks[:-1])[:, :, breaks[1:]]
        places = cost.reshape(len(cost), -1).argmin(axis=1)
        first, last = np.divmod(places, len(words))
        nats = self.options.sharpness * (self._tolerated_cost - cost.reshape(len(cost), -1).min(axis=1))
        # Those whose words overlap exclude each other; that none was said has nats 0.
        rivals = (first[:, None] <= last[None]) & (first[None] <= last[:, None])
        log_partition = np.logaddexp(0.0, np.logaddexp.reduce(np.where(rivals, nats[None], -np.inf), axis=1))
        probabilities = np.exp(nats - log_partition)
        return [
            (float(p), words[i].start, words[j].end)
            for p, i, j in zip(probabilities, first.tolist(), last.tolist(), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Wake:
    """The result of listening for a wake phrase.

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
    """Detects a wake phrase, and cuts off what was said behind it.

    Args:
        phrase: Three syllables or more keep it from being heard by chance.
        options: How closely the sound must match.

    Raises:
        ConfigError: If the phrase cannot be said.
    """

    def __init__(self, phrase: str, options: KeywordOptions | None = None) -> None:
        self.phrase = phrase
        self._spotter = KeywordSpotter([phrase], options)

    def listen(self, heard: Transcript | str) -> Wake:
        """Whether `heard` calls, and what it says behind the call."""
        listed = _listed(heard)
        ranked = self._spotter.ranked(listed)
        probability = ranked[0].probability if ranked else 0.0
        if probability < self._spotter.options.threshold:
            reason = listed.reason or f"nobody said {self.phrase!r}"
            return Wake(False, probability, Transcript.nothing(reason, listed.duration, listed.no_speech_prob))
        remainders = []
        for hypothesis in listed.hypotheses:
            detections = self._spotter.spot(hypothesis.text)
            remainder = hypothesis.text[detections[0].end :].lstrip(" ,.!?;:-–—…") if detections else ""
            if pronounce(remainder):
                remainders.append(replace(hypothesis, text=remainder, words=()))
        if not remainders:
            nothing = Transcript.nothing(
                f"nothing was said behind {self.phrase!r}", listed.duration, listed.no_speech_prob
            )
            return Wake(True, probability, nothing)
        return Wake(True, probability, replace(listed, hypotheses=distinct(remainders, language=listed.language)))


def _listed(heard: Transcript | str) -> Transcript:
    return Transcript((Hypothesis(heard, 0.0, 1),), "en", 0.0, 0.0) if isinstance(heard, str) else heard
