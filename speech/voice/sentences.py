"""Cuts text into what can be spoken at once, while the text is still being written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_LIMIT = 200
"""Characters after which a sentence is cut at a comma: the listener should not wait for its end."""

# What may end a sentence: marks with whatever closes behind them, if a blank follows; marks of scripts without blanks
# alone; an end of line.
_END = re.compile(r"""(?P<marks>[.!?…]+)["'”’»)\]*_]*|[。！？]+[”’」』）]*|\n""")
# Sources behind the marks, such as [menu.md], belong to the sentence if they stand in its line and a blank follows. The
# second pattern matches, to the end of the text, what may still become a longer row of sources.
_SOURCES = re.compile(r"(?:[^\S\n]*\[[^\]\n]{1,80}\])*(?=\s)")
_SOURCES_BEGUN = re.compile(r"(?:[^\S\n]*\[[^\]\n]{1,80}\])*[^\S\n]*(?:\[[^\]\n]{0,80}\]?)?")
_CLAUSE = re.compile(r"(?:[,;:]|\s[—–-])(?=\s)|—|[，、；：]")
_ALWAYS_GO_ON = frozenset(
    "mr mrs ms dr prof st sr jr rev hon gen col sgt capt lt mt messrs vs e.g i.e cf approx no nos vol fig p pp ca"
    " jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
_MAY_END = frozenset("a.m p.m am pm etc inc ltd co corp u.s u.k".split())
# Words with a capital that go on after "7 a.m.": no sentence of an assistant begins by a bare one of these.
_GOES_ON_WITH = re.compile(
    r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?\b|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b"
    r"|(?:January|February|March|April|May|June|July|August|September|October|November|December)\b"
)


def sentences(pieces: Iterable[str], *, limit: int = _LIMIT) -> Iterator[str]:
    """Sentences of a streamed text, each as soon as what follows shows that it has ended.

    Abbreviations ("Dr. Smith"), initials, decimals ("3.50"), times ("7 a.m. Monday") and ellipses inside a sentence do
    not end it; an end of line does. A sentence longer than `limit` is cut at its last comma before that, or at a blank.
    What comes out does not depend on how the text was cut into pieces.

    Args:
        pieces: The text as it is written, e.g. tokens; a list of one string for a finished text.
        limit: Characters.

    Raises:
        ValueError: If `limit` is less than 20.
    """
    if limit < 20:
        raise ValueError(f"limit must be at least 20 characters, not {limit}; 200 sounds natural")
    return _sentences(pieces, limit)


def _sentences(pieces: Iterable[str], limit: int) -> Iterator[str]:
    text = ""
    for piece in pieces:
        text = (text + piece).lstrip()
        while (cut := _boundary(text, limit)) is not None:
            if sentence := text[:cut].strip():
                yield sentence
            text = text[cut:].lstrip()
    # A last blank line lets everything that waits for its successor see that there is none.
    text = text.rstrip() + "\n\n"
    while text.lstrip():
        cut = _boundary(text, limit) or len(text)
        if sentence := text[:cut].strip():
            yield sentence
        text = text[cut:].lstrip()


def _boundary(text: str, limit: int) -> int | None:
    """Where the first sentence ends; None while that cannot be known.

    A decision may rest only on signs that nothing written later can change: a candidate that the text ends in waits.
    """
    start = 0
    while (match := _END.search(text, start)) and match.end() <= limit:
        end = _candidate(text, match)
        if end is None:
            return None
        if end > limit:
            break
        ends = end > 0 and _ends(text, match, end)
        if ends is None:
            return None
        if ends:
            return end
        start = max(end, match.end())
    return _forced(text, limit) if len(text) > limit else None


def _candidate(text: str, match: re.Match[str]) -> int | None:
    """Where a sentence ends if it ends by these marks, 0 if it does not; None if that has not been written yet."""
    if match.group() == "\n":
        return match.end()
    if match["marks"] is None:
        return match.end() if match.end() < len(text) else None
    if _SOURCES_BEGUN.fullmatch(text, match.end()):
        return None
    sources = _SOURCES.match(text, match.end())
    return sources.end() if sources else 0


def _forced(text: str, limit: int) -> int:
    clauses = [match.end() for match in _CLAUSE.finditer(text, 0, limit) if match.end() >= limit // 5]
    if clauses:
        return clauses[-1]
    blank = text.rfind(" ", 0, limit)
    return blank if blank > 0 else limit


def _ends(text: str, match: re.Match[str], end: int) -> bool | None:
    """Whether a candidate ends its sentence; None if what follows has not been written yet."""
    if match["marks"] is None:
        return True
    if re.match(r"[^\S\n]*\n", text[end:]):
        return True
    following = text[end:].lstrip()
    if match["marks"] != ".":
        # "Wait... what?" goes on; "Really? Yes." and "Hm… Yes." do not.
        return not following[0].islower()
    if following[0].islower():
        return False
    return _period_ends(text, match, following)


def _period_ends(text: str, match: re.Match[str], following: str) -> bool | None:
    before = text[: match.start()].split()
    word = before[-1].lstrip("(\"'“‘[*_").lower() if before else ""
    if word in _MAY_END:
        # The whole next word is needed to tell "7 a.m. Monday" from "7 a.m. More".
        if not re.match(r"\S+\s", following):
            return None
        return _GOES_ON_WITH.match(following) is None
    if word in ("no", "nos"):
        return not following[0].isdigit()  # "No. 7", but "No. We do not."
    if re.fullmatch(r"\d+", word) and not before[:-1]:
        return False  # the number of a list item
    initial = len(word) == 1 and word.isalpha() and word != "i" and before[-1][-1:].isupper()
    return word not in _ALWAYS_GO_ON and not initial
