"""The events of a streaming recogniser: partials during speech, drafts in silences, and the final N-best list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ..lists.nbest import word_key
from ..sound.segments import SpeechEnded, SpeechStarted
from ..transcript import Transcript
from .agreement import split_words


@dataclass(frozen=True, slots=True)
class Partial:
    """The words recognised so far in the utterance under way.

    Attributes:
        committed: Words that two successive decodes agreed on. Later partials of the utterance begin with this very
            string: case and punctuation of a committed word do not change either.
        tentative: What the last decode heard after them; may be anything else next time.
        at: Seconds from the beginning of the stream, up to which was heard.
    """

    committed: str
    tentative: str
    at: float

    @property
    def text(self) -> str:
        """Committed and tentative words together."""
        return f"{self.committed}{self.tentative}".strip()


@dataclass(frozen=True, slots=True)
class Draft:
    """The N-best list decoded in a silence: final if the utterance ends there, void if speech goes on.

    Attributes:
        transcript: The list of hypotheses of the utterance so far.
        at: Seconds from the beginning of the stream, up to which was heard.
    """

    transcript: Transcript
    at: float


@dataclass(frozen=True, slots=True)
class Final:
    """The N-best list of an utterance that is over.

    The list comes from a decode of the whole utterance and is not bound to the words that were committed on the way:
    `revised` says whether the best hypothesis contradicts them.

    Attributes:
        transcript: The list; without hypotheses, and with a reason, if it was not speech after all. Its `offset` is
            where the utterance starts in the stream.
        committed: The words that the last partial was sure of.
        start: Seconds from the beginning of the stream, padding included.
        end: Seconds.
    """

    transcript: Transcript
    committed: str
    start: float
    end: float

    @property
    def revised(self) -> bool:
        """Whether the best hypothesis does not begin with the committed words, case and punctuation aside."""
        committed, final = (
            [word_key(word) for word in split_words(text, self.transcript.language)]
            for text in (self.committed, self.transcript.text)
        )
        return final[: len(committed)] != committed


StreamEvent: TypeAlias = SpeechStarted | Partial | Draft | SpeechEnded | Final
