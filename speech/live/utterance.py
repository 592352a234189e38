"""The state of the utterance under way: its agreed words, and the cut from which its audio is decoded."""

from __future__ import annotations

import copy
import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..lists.nbest import distinct, varied, word_key
from ..sound.audio import Audio
from ..sound.segments import SpeechEnded
from ..transcript import Recognizer, Transcript, Word
from .agreement import UNSPACED, Agreement, aligned_prefix_length, split_words
from .events import Final
from .worker import Job

logger = logging.getLogger(__name__)

_MIN_REMAINDER = 1.0
"""Seconds at the end of the audio that are decoded every time, even if all their words are committed."""
_OVERLAP_WORDS = 2
"""Committed words behind a cut: the remainder must begin with them, or the cut went through a word."""
_MIN_ADVANCE = 0.5
"""Seconds by which a new cut must lie behind the one before."""
_MIN_PROBABILITY = 1e-4
"""Of a word, before its logarithm is taken."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """The point from which an utterance is decoded.

    Attributes:
        at: Seconds from the beginning of the utterance.
        words: The committed words before it, with times.
    """

    at: float = 0.0
    words: tuple[Word, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)

    def advanced(self, transcript: Transcript, committed: Sequence[str]) -> _Cut:
        """The last cut between two committed words that leaves enough to decode; this one, if there is none."""
        timed = transcript.hypotheses[0].words
        words = split_words(transcript.text, transcript.language)
        if len(timed) != len(words) or not _starts_with(words, committed):
            return self
        for count in range(len(committed) - _OVERLAP_WORDS, len(self.words), -1):
            at = (timed[count - 1].end + timed[count].start) / 2
            if at - self.at < _MIN_ADVANCE:
                return self
            if at <= transcript.duration - _MIN_REMAINDER:
                before_cut = tuple(
                    replace(word, text=text.strip()) for word, text in zip(timed, committed[:count], strict=False)
                )
                return _Cut(at, before_cut)
        return self

    def joined(self, remainder: Transcript, previous: Transcript, n_best: int) -> Transcript:
        """The list of the whole utterance, from the list of the audio after the cut.

        All its hypotheses begin with the words before the cut, each of which counts as one token. Each other beginning
        in the previous list is added with the best ending, as much less probable than this one as it was there.

        Args:
            remainder: The list of the audio after the cut.
            previous: The last list of the whole utterance.
            n_best: How many hypotheses at most.
        """
        log_prob = math.fsum(math.log(max(word.probability, _MIN_PROBABILITY)) for word in self.words)
        shifted = [
            replace(word, start=word.start + self.at, end=word.end + self.at) for word in remainder.hypotheses[0].words
        ]
        hypotheses = [
            replace(
                h,
                text=f"{self.text} {h.text}",
                log_prob=h.log_prob + log_prob,
                n_tokens=h.n_tokens + len(self.words),
                words=(*self.words, *shifted) if h.words else (),
            )
            for h in remainder.hypotheses
        ]
        before_cut = split_words(self.text, remainder.language)
        beginnings: dict[str, float] = {}
        for h in previous.hypotheses:
            words = split_words(h.text, remainder.language)
            beginning = "".join(words[: aligned_prefix_length(before_cut, words)]).strip()
            beginnings[beginning] = max(h.log_prob, beginnings.get(beginning, h.log_prob))
        same = [score for text, score in beginnings.items() if word_key(text) == word_key(self.text)]
        highest = max(same or beginnings.values())
        best, ending = hypotheses[0], remainder.hypotheses[0].text
        hypotheses += [
            replace(best, text=f"{text} {ending}", log_prob=best.log_prob + min(0.0, score - highest), words=())
            for text, score in beginnings.items()
            if text and word_key(text) != word_key(self.text)
        ]
        language = remainder.language
        return replace(remainder, hypotheses=varied(distinct(hypotheses, language=language), n_best, language=language))


@dataclass(slots=True)
class DecodingState:
    """What the finished decodes of an utterance have established.

    Attributes:
        agreement: The committed and the tentative words.
        latest: The last list of the whole utterance; None before the first.
        cut: Where the next decode may begin.
    """

    agreement: Agreement = field(default_factory=Agreement)
    latest: Transcript | None = None
    cut: _Cut = field(default_factory=_Cut)

    def copy(self) -> DecodingState:
        """A snapshot for another thread."""
        return DecodingState(copy.deepcopy(self.agreement), self.latest, self.cut)

    def update(self, job: Job) -> bool:
        """Take the result of the next finished decode; returns whether the words have changed."""
        transcript = job.transcript
        if job.misfit:
            self.cut = _Cut()
        if transcript is None or not transcript.is_speech:
            return False
        changed = self.agreement.update(transcript.text, transcript.language)
        self.latest = transcript
        if transcript.language not in UNSPACED:
            self.cut = self.cut.advanced(transcript, self.agreement.committed_words)
        return changed

    def decode(
        self, pending: Sequence[Job], recognizer: Recognizer, audio: Audio, n_best: int, *, whole: bool, retry: bool
    ) -> Transcript | None:
        """The list of the utterance so far; runs in the recogniser's thread, after the pending jobs.

        Args:
            pending: Jobs of this utterance that were submitted before this call.
            recognizer: Decodes.
            audio: The utterance so far.
            n_best: How many hypotheses at most.
            whole: Whether to decode from the beginning even where there is a cut.
            retry: Whether to decode from the beginning if the cut does not fit.

        Returns:
            None, if the cut does not fit and there is no retry.
        """
        for job in pending:
            self.update(job)
        cut, latest = self.cut, self.latest
        if cut.words and latest is not None and not whole:
            remainder = recognizer.transcribe(audio.slice(cut.at, audio.seconds), n_best=n_best, prompt=cut.text)
            expected = self.agreement.committed_words[len(cut.words) : -1][:_OVERLAP_WORDS]
            if remainder.is_speech and _starts_with(split_words(remainder.text, remainder.language), expected):
                return replace(cut.joined(remainder, latest, n_best), duration=audio.seconds)
            logger.debug("the cut at %.2f s does not fit", cut.at)
            if not retry:
                return None
        return recognizer.transcribe(audio, n_best=n_best)


def _starts_with(words: Sequence[str], prefix: Sequence[str]) -> bool:
    """Whether words begin with others, case and punctuation aside."""
    return [word_key(word) for word in words[: len(prefix)]] == [word_key(word) for word in prefix]


@dataclass(slots=True)
class Utterance:
    """The utterance under way.

    Attributes:
        next_partial: Seconds of the stream from which on the next partial is decoded.
        state: What its finished decodes have established.
        partial: The last decode for a partial.
        draft: The decode of its list in the present silence; None while speech goes on.
        decodes: The jobs whose results have not been applied, oldest first.
    """

    next_partial: float = 0.0
    state: DecodingState = field(default_factory=DecodingState)
    partial: Job | None = None
    draft: Job | None = None
    decodes: deque[Job] = field(default_factory=deque)


@dataclass(slots=True)
class EndedUtterance:
    """An utterance that is over, and the job that decodes its list.

    Attributes:
        event: Its audio and times.
        agreement: Its committed words.
        job: None until the list is asked for.
        last_try: Whether a failure of the job is final.
    """

    event: SpeechEnded
    agreement: Agreement
    job: Job | None
    last_try: bool = False

    def wait(self) -> None:
        """Wait until the list is decoded."""
        assert self.job is not None
        self.job.done.wait()

    def result(self) -> Final | Exception | None:
        """The final event, or the recogniser's error; None if the stream was closed before the decode began."""
        job, event = self.job, self.event
        if job is None or job.transcript is None:
            return job.error if job else None
        # A draft was made before the padding after the speech had come.
        transcript = replace(job.transcript, duration=event.audio.seconds, offset=event.start)
        return Final(transcript, self.agreement.committed, event.start, event.end)
