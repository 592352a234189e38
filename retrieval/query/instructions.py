"""What an instruction in plain words leaves to be searched: "only after 2020, nothing from Bath" becomes a filter.

Retrieval models mostly take an instruction for more words to look for, and miss what it keeps out (FollowIR, Weller et
al. 2024, https://arxiv.org/abs/2403.15246). What an instruction can say of metadata is read here against the keys and
values that an index has, so that it holds for every passage that is found, and one that cannot be read is refused, not
passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..errors import InstructionNotUnderstood
from .filters import Where
from .keyword import STOPWORDS, terms
from .mentions import NameFinder, Sound
from .sounds import spelled_sound

_MONTHS = "january february march april may june july august september october november december".split()
_MONTH = "|".join(f"{month[:3]}(?:{month[3:]})?" if len(month) > 3 else month for month in _MONTHS)
_WHEN = rf"(?:\d{{1,2}}(?:st|nd|rd|th)? )?(?:{_MONTH}) \d{{4}}|\d{{4}}-\d\d(?:-\d\d)?(?!\d)"
_AMOUNT = r"[-+]?[$€£]?\d+(?:[.,]\d+)*"
_VALUE = rf"(?:{_WHEN}|{_AMOUNT})"
_NOT = (
    "not|no|none|nothing|never|without|except|excluding|exclude|omit|skip|avoid|ignore|ignoring|other than|"
    "don't|isn't|aren't"
)
_TIMES = {
    "$gt": "after|later than|newer than|more recent than|past",
    "$gte": "since|starting(?: from| in)?",
    "$lt": "before|earlier than|older than|prior to",
    "$lte": "until|till|up to|by",
}
_SIZES = {
    "$gt": "more than|greater than|over|above|exceeding|higher than|longer than|dearer than",
    "$gte": "at least|no less than|not less than|minimum",
    "$lt": "less than|fewer than|under|below|lower than|cheaper than|shorter than",
    "$lte": "at most|no more than|not more than|maximum|within",
    "$eq": "exactly|in|on|of|from|during|for|is|equals?",
}
_SIGNS = {re.compile(rf"\b(?:{words})\b"): sign for table in (_SIZES, _TIMES) for sign, words in table.items()}
_COMPARED = "|".join((*_SIZES.values(), *_TIMES.values()))
_BETWEEN = re.compile(rf"\bbetween\s+({_VALUE})\s+and\s+({_VALUE})")
_SIGNED = re.compile(rf"\b({_COMPARED})\s+(?:the |year |end of )*({_VALUE})")
_OPEN = {  # what may follow a value
    "$gte": re.compile(r"\s*(?:onwards?|on|and (?:later|newer|more|up|above)|or (?:later|newer|more|above)|\+)(?!\w)"),
    "$lte": re.compile(r"\s*(?:and|or) (?:earlier|older|less|fewer|below|under)\b"),
}
_BARE = re.compile(rf"(?<![\w.])({_VALUE})")
_CLAUSES = re.compile(
    rf"\s*(?:[;!?\n]|,(?!\d)|\.(?!\d)|\bbut\b|\band\b(?=\s+(?:only|{_NOT}|{_COMPARED}|between)\b))\s*"
)
_NEGATED = re.compile(rf"\b(?:{_NOT})\b")
_MENTIONING = re.compile(r"\b(?:mention|contain|say|nam|includ)(?:s|ing|e|es|ed)?\b|\bwithout\b|\bwords?\b")
_FILLERS = STOPWORDS | frozenset(
    """
    answer answers any anything article articles ask consider document documents else ever everything excluding
    except exclude file files find from handbook ignore ignoring in include including information items item
    list look looking mention mentioning mentions never none nothing of ones only one omit page pages passage
    passages please prefer published records other relevant restrict result results search show skip avoid
    source sources stuff take things thing text texts title titled use using value values were with without word
    words written
    """.split()
)
_UNITS = frozenset("dollar euro pound cent year month day date dated time hour minute second old".split())
_SURE = 0.9  # of a value that was heard and not read
_VALUES = 5000  # of a key with more than this, no names are looked for


@dataclass(frozen=True, slots=True)
class Facet:
    """A key of the metadata.

    Attributes:
        key: Its name.
        kind: Whether these are its texts or its numbers; one with both is two.
        lowest: The first of its values, sorted.
        highest: The last one.
        count: How many different values it has.
    """

    key: str
    kind: Literal["text", "number"]
    lowest: Any
    highest: Any
    count: int


class Facets(Protocol):
    """What instructions are read against; ``LocalKnowledge`` is one."""

    def facets(self) -> Sequence[Facet]:
        """All keys."""
        ...

    def values(self, key: str) -> Sequence[Any]:
        """All values of a key."""
        ...


def read_instruction(instruction: str, facets: Facets, sound: Sound = spelled_sound) -> Where:
    """Read an instruction as a filter.

    Understood are comparisons with dates and numbers ("since March 2020", "between 3 and 5 stars", "cheaper than 4"),
    values ("only Bath or Bristol", "nothing about the wine list"), keys that are true or false ("only vegan"), and
    words ("mentioning oat milk"). Clauses are told apart by commas, and all have to hold.

    Args:
        instruction: In plain words.
        facets: What there is.
        sound: How a word sounds, for values that were misheard; see ``NameFinder``.

    Returns:
        The filter.

    Raises:
        InstructionNotUnderstood: If a clause says nothing that the metadata knows, or it could be about several keys.
    """
    known = facets.facets()
    parts: list[Where] = []
    for clause in _CLAUSES.split(instruction.strip().lower().replace("’", "'")):
        if clause and not {*terms(clause)} <= _FILLERS:
            parts.append(_read(clause, known, facets, sound))
    if not parts:
        raise InstructionNotUnderstood(f"The instruction {instruction!r} says nothing. {_offer(known)}")
    return _joined("$and", parts)


def _read(clause: str, known: Sequence[Facet], facets: Facets, sound: Sound) -> Where:
    named = [facet for facet in known if facet.key not in ("source", "title") and _names(facet, clause)]
    parts: list[Where] = []
    while (found := _compared(clause, known, named)) is not None:
        part, clause = found
        parts.append(part)
    told = {word for facet in named for word in _key_words(facet)} | (_UNITS if parts else frozenset())
    left = [term for term in terms(clause) if term not in _FILLERS and _stem(term) not in told]
    if left or not parts:
        parts.append(_chosen(clause, left, known, named, facets, sound))
    both = _joined("$and", parts)
    return {"$not": both} if _NEGATED.search(clause) else both


def _chosen(
    clause: str,
    left: Sequence[str],
    known: Sequence[Facet],
    named: Sequence[Facet],
    facets: Facets,
    sound: Sound,
) -> Where:
    """What a clause says of values, of keys that are true or false, or of words; `left` are those that must count."""
    values = dict(_valued(clause, named, facets)) or dict(_valued(clause, known, facets))
    flags = [{facet.key: 1} for facet in named if _is_flag(facet)]
    if _MENTIONING.search(clause) and not values:
        wanted = [term for term in left if not _MENTIONING.fullmatch(term)]
        if wanted:
            return {"$document": {"$and": [{"$regex": rf"(?i)\b{_beginning(word)}"} for word in wanted]}}
    covered = {word for words in values.values() for word in words}
    unknown = [term for term in left if _stem(term) not in covered]
    if unknown:
        for facet, listed in _texts(named or known, facets):
            heard = NameFinder(listed, sound).find(" ".join(unknown), limit=1)
            if heard and heard[0].score >= _SURE:
                return {facet.key: heard[0].name}
    if unknown or not (values or flags):
        what = " ".join(unknown) or clause
        raise InstructionNotUnderstood(f"No metadata here answers to {what!r}. {_offer(known)}")
    either = [{facet.key: value} for facet, value in values]
    return _joined("$and", [*flags, *([_joined("$or", either)] if either else [])])


def _joined(how: str, parts: Sequence[Where]) -> Where:
    return {how: list(parts)} if len(parts) > 1 else parts[0]


# --- comparisons ------------------------------------------------------------------------------------------------------


Bounds = Sequence[tuple[str, str]]  # what an operator compares with


def _compared(clause: str, known: Sequence[Facet], named: Sequence[Facet]) -> tuple[Where, str] | None:
    """The first comparison of a clause, and what is left of the clause without it."""
    read = _bounds(clause)
    if read is None:
        return None
    bounds, (start, end) = read
    timed = any(re.fullmatch(_WHEN, value) for _, value in bounds) or (
        all(re.fullmatch(r"[12]\d{3}", value) for _, value in bounds)
    )
    fitting = [facet for facet in named if _fits(facet, bounds, timed)]
    if not fitting:
        fitting = [facet for facet in known if facet.key not in ("source", "title") and _fits(facet, bounds, timed)]
    dated = [facet for facet in fitting if _is_time(facet)]
    if timed and dated:
        fitting = dated
    if not fitting:
        if _BARE.match(clause, start):
            return None  # a number in a name, perhaps
        raise InstructionNotUnderstood(f"Nothing here can be compared as {clause!r} wants it. {_offer(known)}")
    keys = sorted({facet.key for facet in fitting})
    if len(keys) > 1:
        raise InstructionNotUnderstood(f"{clause!r} may be about {' or '.join(keys)}: name the one that is meant.")
    found = _joined("$or", [_joined("$and", list(_within(facet, bounds))) for facet in fitting])
    return found, f"{clause[:start]} {clause[end:]}"


def _bounds(clause: str) -> tuple[Bounds, tuple[int, int]] | None:
    """What a clause compares with, and where it says so."""
    if match := _BETWEEN.search(clause):
        return [("$gte", match[1]), ("$lte", match[2])], match.span()
    if match := _SIGNED.search(clause):
        sign, value = next(sign for words, sign in _SIGNS.items() if words.fullmatch(match[1])), match[2]
    elif match := _BARE.search(clause):
        sign, value = "$eq", match[1]
    else:
        return None
    start, end = match.span()
    for wider, words in _OPEN.items():
        if sign == "$eq" and (more := words.match(clause, end)):
            sign, end = wider, more.end()
    return [(sign, value)], (start, end)


def _fits(facet: Facet, bounds: Bounds, timed: bool) -> bool:
    if facet.kind == "text":
        return timed and _is_time(facet)
    return not _is_flag(facet) and all(re.fullmatch(_AMOUNT, value) for _, value in bounds)


def _is_time(facet: Facet) -> bool:
    if facet.kind == "text":
        return all(re.match(r"\d{4}(-\d\d){0,2}(?!\d)", str(value)) for value in (facet.lowest, facet.highest))
    return bool(1000 <= facet.lowest and facet.highest < 3000)


def _within(facet: Facet, bounds: Bounds) -> Iterator[Where]:
    for sign, value in bounds:
        yield from _bound(facet, sign, value)


def _bound(facet: Facet, sign: str, value: str) -> Iterator[Where]:
    if facet.kind == "number":
        number = float(re.sub(r"[$€£]", "", value).replace(",", ""))
        yield {facet.key: {sign: int(number) if number.is_integer() else number}}
        return
    # Dates as texts sort as dates do. A span of time ends where the next one begins.
    begins, ends = _span(value)
    if sign in ("$gte", "$eq"):
        yield {facet.key: {"$gte": begins}}
    if sign in ("$lte", "$eq"):
        yield {facet.key: {"$lt": ends}}
    if sign == "$gt":
        yield {facet.key: {"$gte": ends}}
    if sign == "$lt":
        yield {facet.key: {"$lt": begins}}


def _span(value: str) -> tuple[str, str]:
    """When a day, a month or a year begins, and when the next one does, as ISO 8601 to its own precision."""
    if match := re.fullmatch(r"(\d{4})(?:-(\d\d))?(?:-(\d\d))?", value):
        year, month, day = match.groups()
    else:
        day, month, year = re.fullmatch(r"(?:(\d{1,2})\w* )?(\w+) (\d{4})", value).groups()  # type: ignore[union-attr]
        month = f"{1 + [name[:3] for name in _MONTHS].index(month[:3]):02}"
    if day is not None:
        return f"{year}-{month}-{int(day):02}", f"{year}-{month}-{int(day) + 1:02}"
    if month is not None:
        return f"{year}-{month}", f"{year}-{int(month) + 1:02}"
    return year, f"{int(year) + 1}"


# --- values -----------------------------------------------------------------------------------------------------------


def _texts(among: Sequence[Facet], facets: Facets) -> Iterator[tuple[Facet, list[str]]]:
    for facet in among:
        if facet.kind == "text" and facet.count <= _VALUES:
            yield facet, [value for value in facets.values(facet.key) if isinstance(value, str)]


def _valued(clause: str, among: Sequence[Facet], facets: Facets) -> Iterator[tuple[tuple[Facet, str], frozenset[str]]]:
    """The values that a clause names, with the words that they are told by."""
    asked = {*map(_stem, terms(clause))}
    found = {
        (facet, value): words
        for facet, values in _texts(among, facets)
        for value in values
        if (words := _telling(value)) and words <= asked
    }
    for (facet, value), words in found.items():  # "New York" is not meant where "New York City" is said
        if not any(words < others for others in found.values()):
            yield (facet, value), words


def _telling(value: str) -> frozenset[str]:
    """The words that a value is told by."""
    words = terms(value)
    return frozenset(map(_stem, [word for word in words if word not in STOPWORDS] or words))


def _is_flag(facet: Facet) -> bool:
    return facet.kind == "number" and {facet.lowest, facet.highest} <= {0, 1}


def _names(facet: Facet, clause: str) -> bool:
    """Whether a clause speaks of a key by its name."""
    words = _key_words(facet)
    return bool(words) and words <= {*map(_stem, terms(clause))}


def _key_words(facet: Facet) -> set[str]:
    return {*map(_stem, terms(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", facet.key.rpartition(".")[2])))}


def _stem(word: str) -> str:
    return re.sub(r"(?<=\w\w)(?:ies|y)$", "i", re.sub(r"(?<=\w\w[^s])s$", "", word))


def _beginning(word: str) -> str:
    """What a word and its plural begin with."""
    return re.sub(r"(?<=\w\w)(?:ies|y|s)$", "", word)


def _offer(known: Sequence[Facet]) -> str:
    owned = [facet for facet in known if facet.key not in ("source", "title")]
    told = ", ".join(f"{facet.key} ({facet.lowest} to {facet.highest})" for facet in owned)
    return f"What can be asked for: {told or 'title and source, by their names'}."
