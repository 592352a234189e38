"""The transcript of a long recording, corrected as one text, with a record of every edit.

corrected = FullTextCorrector(chooser, scorer).correct(windows)
corrected.text, corrected.edits[0]      # Edit(start=104, end=109, before="their", after="there", reason="chosen")
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal, TypeAlias, get_args

from ..transcript import Transcript
from .choosing import Chooser, FirstChooser, SentenceScorer
from .nbest import word_key

Reason: TypeAlias = Literal["chosen", "joined", "sentence"]
"""``chosen``: another hypothesis of the window; ``joined``: a sentence went on across two windows; ``sentence``: one
ended between them."""

_END = re.compile(r"[.!?…,;:\s]+$")


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement in the recogniser's text.

    Attributes:
        start: Position of its first character in the original text.
        end: Position behind its last character there; equal to `start` if something is put in.
        before: What stood there.
        after: What stands there now.
        reason: Why.
    """

    start: int
    end: int
    before: str
    after: str
    reason: Reason

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end or self.end - self.start != len(self.before):
            raise ValueError(f"{self.before!r} does not lie at {self.start} to {self.end}")
        if self.reason not in get_args(Reason):
            raise ValueError(f"reason must be one of {', '.join(get_args(Reason))}, not {self.reason!r}")


@dataclass(frozen=True, slots=True)
class CorrectedText:
    """A text and what was changed in it.

    Attributes:
        original: The recogniser's best, window after window.
        edits: In the order of the original, without overlap.
    """

    original: str
    edits: tuple[Edit, ...]

    def __post_init__(self) -> None:
        end = 0
        for edit in self.edits:
            if edit.start < end or self.original[edit.start : edit.end] != edit.before:
                raise ValueError(f"{edit.before!r} is not at {edit.start} of the original, or overlaps the edit before")
            end = edit.end

    @property
    def text(self) -> str:
        """The original with all edits made."""
        pieces, at = [], 0
        for edit in self.edits:
            pieces += [self.original[at : edit.start], edit.after]
            at = edit.end
        return "".join([*pieces, self.original[at:]])

    def to_json(self) -> str:
        """``{"original", "text", "edits": [{"start", "end", "from", "to", "reason"}]}``."""
        edits = [
            {"start": e.start, "end": e.end, "from": e.before, "to": e.after, "reason": e.reason} for e in self.edits
        ]
        return json.dumps({"original": self.original, "text": self.text, "edits": edits}, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> CorrectedText:
        """Read what ``to_json`` wrote; the text follows from the edits.

        Raises:
            ValueError: If it is not that, or an edit does not fit the original.
        """
        try:
            data = json.loads(line)
            edits = tuple(Edit(e["start"], e["end"], e["from"], e["to"], e["reason"]) for e in data["edits"])
            return cls(data["original"], edits)
        except (KeyError, TypeError) as error:
            raise ValueError(f"expected original and edits with start, end, from, to, reason: {error!r}") from error


class FullTextCorrector:
    """Corrects the windows of a long recording in order, each behind the text so far.

    Edit pairs with positions are the output form of ChFT (Tang et al. 2024, https://arxiv.org/abs/2409.07790).
    """

    def __init__(
        self,
        chooser: Chooser | None = None,
        scorer: SentenceScorer | None = None,
        *,
        margin: float = 2.0,
        context: int = 400,
    ) -> None:
        """Make a corrector.

        Args:
            chooser: Chooses in each window; by default the recogniser's best.
            scorer: Judges punctuation where two windows meet; without one it stays as it is.
            margin: Nats by which the scorer must prefer an edit.
            context: How many characters of the text so far are read before a window.

        Raises:
            ValueError: If the margin or the context is negative.
        """
        if not margin >= 0:
            raise ValueError(f"margin must be 0 or more, not {margin}")
        if context < 0:
            raise ValueError(f"context must be 0 or more, not {context}")
        self._chooser = chooser or FirstChooser()
        self._scorer = scorer
        self._margin = margin
        self._context = context

    def correct(self, windows: Sequence[Transcript]) -> CorrectedText:
        """Correct the windows of one recording.

        Args:
            windows: In order; refused ones contribute no words.
        """
        speech_windows = [window for window in windows if window.is_speech]
        texts: list[str] = []
        joins: list[Reason | None] = []
        for window in speech_windows:
            before = " ".join(texts)[-self._context :] if self._context else ""
            text = self._chooser.choose(window, context=before).text
            if texts:
                texts[-1], text, reason = self._joined(texts[-1], text)
                joins.append(reason)
            texts.append(text)
        edits: list[Edit] = []
        at = 0
        for number, (window, text) in enumerate(zip(speech_windows, texts, strict=True)):
            before_it, behind_it = [None, *joins][number], [*joins, None][number]
            edits += _edits(window.text, text, at, before_it, behind_it)
            at += len(window.text) + 1
        return CorrectedText(" ".join(window.text for window in speech_windows), tuple(edits))

    def _joined(self, left: str, right: str) -> tuple[str, str, Reason | None]:
        """Two neighbouring windows with the punctuation between them that the scorer prefers by the margin."""
        if self._scorer is None:
            return left, right, None
        readings = [(left, right, None), *_readings(left, right)]
        tail = self._context or len(left)
        scores = self._scorer.score([f"{a[-tail:]} {b}" for a, b, _ in readings])
        best = max(range(len(readings)), key=lambda i: scores[i])
        return readings[best if scores[best] - scores[0] > self._margin else 0]


def _readings(left: str, right: str) -> Iterator[tuple[str, str, Reason | None]]:
    """The sentence goes on across the join, or ends there."""
    unpunctuated = _END.sub("", left)
    if not unpunctuated or not right:
        return
    lower = right if right.startswith(("I ", "I'")) else right[:1].lower() + right[1:]
    upper = right[:1].upper() + right[1:]
    for a, b, reason in (
        (unpunctuated, lower, "joined"),
        (unpunctuated, right, "joined"),
        (unpunctuated + ".", upper, "sentence"),
    ):
        if (a, b) != (left, right):
            yield a, b, "joined" if reason == "joined" else "sentence"


def _edits(original: str, text: str, offset: int, before: Reason | None, behind: Reason | None) -> Iterator[Edit]:
    """What changes one window into its corrected form; `before` and `behind` say what its joins were changed for."""
    old = list(re.finditer(r"\S+", original))
    new = text.split()
    matcher = SequenceMatcher(None, [token[0] for token in old], new, autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            continue
        start, end, after = _span(original, old, (i, j), " ".join(new[k:m]))
        reason: Reason = "chosen"
        if [word_key(token[0]) for token in old[i:j]] == [word_key(word) for word in new[k:m]]:
            reason = (before if i == 0 else behind if j == len(old) else None) or "chosen"
        yield Edit(offset + start, offset + end, original[start:end], after, reason)


def _span(original: str, tokens: Sequence[re.Match[str]], place: tuple[int, int], after: str) -> tuple[int, int, str]:
    """Where an edit of some tokens begins and ends, and what goes there, with the spaces that come or go."""
    i, j = place
    if i < j and after:
        return tokens[i].start(), tokens[j - 1].end(), after
    if i < j:  # words go, and the space on one side of them
        if i:
            return tokens[i - 1].end(), tokens[j - 1].end(), ""
        return tokens[0].start(), tokens[j].start() if j < len(tokens) else tokens[j - 1].end(), ""
    if i < len(tokens):
        return tokens[i].start(), tokens[i].start(), after + " "
    at = tokens[-1].end() if tokens else len(original)
    return at, at, (" " + after if tokens else after)
