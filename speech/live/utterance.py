"""The utterance under way: what is known of it, and where its sound may be cut, so that little is heard twice."""

from __future__ import annotations

import copy
import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..lists.nbest import distinct, varied
from ..sound.audio import Audio
from ..sound.segments import SpeechEnded
from ..transcript import Recognizer, Transcript, Word
from .agreement import UNSPACED, Agreement, bare, matched, word_pieces
from .events import Final
from .worker import Job

logger = logging.getLogger(__name__)

_HEARD_AGAIN = 1.0
"""Seconds before now that every decode hears, however sure it is of the words in them,"""
_OVERLAP = 2
"""and committed words: they show whether the sound was cut between two words."""
_SAVED = 0.5
"""Seconds by which a later cut must shorten what is decoded."""
_LEAST = 1e-4
"""Of a word's probability, before its logarithm is taken."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where an utterance is decoded from.

    Attributes:
        at: Seconds from its beginning.
        words: What was said before, with times.
    """

    at: float = 0.0
    words: tuple[Word, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)

    def later(self, transcript: Transcript, committed: Sequence[str]) -> _Cut:
        """The last cut between two committed words that leaves enough to hear; this one, if there is none."""
        words = transcript.hypotheses[0].words
        heard = word_pieces(transcript.text, transcript.language)
        if len(words) != len(heard) or not _begins(heard, committed):
            return self
        for count in range(len(committed) - _OVERLAP, len(self.words), -1):
            at = (words[count - 1].end + words[count].start) / 2
            if at - self.at < _SAVED:
                return self
            if at <= transcript.duration - _HEARD_AGAIN:
                said = tuple(
                    replace(word, text=piece.strip()) for word, piece in zip(words, committed[:count], strict=False)
                )
                return _Cut(at, said)
        return self

    def joined(self, rest: Transcript, earlier: Transcript, n_best: int) -> Transcript:
        """A list of the whole utterance, from the list of what comes after the cut.

        All its hypotheses begin alike; each word of the beginning counts as one token. Each other beginning that the
        earlier list had gets the best ending, and is as much less probable than this one as it was there.
        """
        log_prob = math.fsum(math.log(max(word.probability, _LEAST)) for word in self.words)
        shifted = [
            replace(word, start=word.start + self.at, end=word.end + self.at) for word in rest.hypotheses[0].words
        ]
        listed = [
            replace(
                h,
                text=f"{self.text} {h.text}",
                log_prob=h.log_prob + log_prob,
                n_tokens=h.n_tokens + len(self.words),
                words=(*self.words, *shifted) if h.words else (),
            )
            for h in rest.hypotheses
        ]
        known = word_pieces(self.text, rest.language)
        beginnings: dict[str, float] = {}
        for h in earlier.hypotheses:
            pieces = word_pieces(h.text, rest.language)
            beginning = "".join(pieces[: matched(known, pieces)]).strip()
            beginnings[beginning] = max(h.log_prob, beginnings.get(beginning, h.log_prob))
        same = [score for text, score in beginnings.items() if bare(text) == bare(self.text)]
        highest = max(same or beginnings.values())
        best, ending = listed[0], rest.hypotheses[0].text
        listed += [
            replace(best, text=f"{text} {ending}", log_prob=best.log_prob + min(0.0, score - highest), words=())
            for text, score in beginnings.items()
            if text and bare(text) != bare(self.text)
        ]
        hypotheses = varied(distinct(listed, language=rest.language), n_best, language=rest.language)
        return replace(rest, hypotheses=hypotheses)


@dataclass(slots=True)
class Known:
    """What the decodes of an utterance have found out so far."""

    agreement: Agreement = field(default_factory=Agreement)
    latest: Transcript | None = None
    cut: _Cut = field(default_factory=_Cut)

    def copy(self) -> Known:
        """What is known at this moment, for another thread."""
        return Known(copy.deepcopy(self.agreement), self.latest, self.cut)

    def hear(self, job: Job) -> bool:
        """Take the next decode, which is done; returns whether the words have changed."""
        transcript = job.transcript
        if job.misfit:
            self.cut = _Cut()
        if transcript is None or not transcript.is_speech:
            return False
        changed = self.agreement.hear(transcript.text, transcript.language)
        self.latest = transcript
        if transcript.language not in UNSPACED:
            self.cut = self.cut.later(transcript, self.agreement.pieces)
        return changed

    def decoded(
        self, pending: Sequence[Job], recognizer: Recognizer, audio: Audio, n_best: int, *, again: bool
    ) -> Transcript | None:
        """The list of the utterance so far; runs in the thread of the recogniser, when the pending ones are done.

        Returns:
            Nothing, if the cut does not fit and the sound is not to be heard `again` from its beginning.
        """
        for job in pending:
            self.hear(job)
        cut, latest = self.cut, self.latest
        if cut.words and latest is not None:
            rest = recognizer.transcribe(audio.slice(cut.at, audio.seconds), n_best=n_best, prompt=cut.text)
            expected = self.agreement.pieces[len(cut.words) : -1][:_OVERLAP]
            if rest.is_speech and _begins(word_pieces(rest.text, rest.language), expected):
                return replace(cut.joined(rest, latest, n_best), duration=audio.seconds)
            logger.debug("the cut at %.2f s does not fit", cut.at)
            if not again:
                return None
        return recognizer.transcribe(audio, n_best=n_best)


def _begins(pieces: Sequence[str], with_: Sequence[str]) -> bool:
    """Whether words begin with others, case and punctuation aside."""
    return [bare(piece) for piece in pieces[: len(with_)]] == [bare(piece) for piece in with_]


@dataclass(slots=True)
class Utterance:
    """The utterance under way."""

    next_partial: float = 0.0
    known: Known = field(default_factory=Known)
    partial: Job | None = None
    draft: Job | None = None
    decodes: deque[Job] = field(default_factory=deque)


@dataclass(slots=True)
class Ended:
    """An utterance that is over, and the call that makes its list."""

    event: SpeechEnded
    agreement: Agreement
    job: Job | None
    last_try: bool = False

    def wait(self) -> None:
        """Wait until the list is made."""
        assert self.job is not None
        self.job.done.wait()

    def told(self) -> Final | Exception | None:
        """Nothing, if the stream was closed before the call began."""
        job, event = self.job, self.event
        if job is None or job.transcript is None:
            return job.error if job else None
        # A draft was made before the padding after the speech had come.
        transcript = replace(job.transcript, duration=event.audio.seconds, offset=event.start)
        return Final(transcript, self.agreement.committed, event.start, event.end)
