"""Instructions in plain words become metadata filters: "only after 2020, nothing from Bath".

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
_DATE = rf"(?:\d{{1,2}}(?:st|nd|rd|th)? )?(?:{_MONTH}) \d{{4}}|\d{{4}}-\d\d(?:-\d\d)?(?!\d)"
_AMOUNT = r"[-+]?[$€£]?\d+(?:[.,]\d+)*"
_VALUE = rf"(?:{_DATE}|{_AMOUNT})"
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
_MIN_SCORE = 0.9  # of the mention of a value that is misspelt or misheard
_MAX_VALUES = 5000  # keys with more values are not searched for names


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
        facets: Keys and values of the index.
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
            parts.append(_read_clause(clause, known, facets, sound))
    if not parts:
        raise InstructionNotUnderstood(f"The instruction {instruction!r} says nothing. {_available_keys(known)}")
    return _joined("$and", parts)


def _read_clause(clause: str, known: Sequence[Facet], facets: Facets, sound: Sound) -> Where:
    mentioned = [facet for facet in known if facet.key not in ("source", "title") and _names_key(facet, clause)]
    parts: list[Where] = []
    while (comparison := _compared(clause, known, mentioned)) is not None:
        part, clause = comparison
        parts.append(part)
    consumed = {word for facet in mentioned for word in _key_words(facet)} | (_UNITS if parts else frozenset())
    remaining = [term for term in terms(clause) if term not in _FILLERS and _stem(term) not in consumed]
    if remaining or not parts:
        parts.append(_selection(clause, remaining, known, mentioned, facets, sound))
    combined = _joined("$and", parts)
    return {"$not": combined} if _NEGATED.search(clause) else combined


def _selection(
    clause: str,
    remaining: Sequence[str],
    known: Sequence[Facet],
    mentioned: Sequence[Facet],
    facets: Facets,
    sound: Sound,
) -> Where:
    """The filter of a clause without its comparisons: values, flags, or words; `remaining` are the terms to explain."""
    values = dict(_named_values(clause, mentioned, facets)) or dict(_named_values(clause, known, facets))
    flags = [{facet.key: 1} for facet in mentioned if _is_flag(facet)]
    if _MENTIONING.search(clause) and not values:
        words_sought = [term for term in remaining if not _MENTIONING.fullmatch(term)]
        if words_sought:
            return {"$document": {"$and": [{"$regex": rf"(?i)\b{_singular_stem(word)}"} for word in words_sought]}}
    covered = {word for words in values.values() for word in words}
    unknown = [term for term in remaining if _stem(term) not in covered]
    if unknown:
        for facet, names in _text_values(mentioned or known, facets):
            mentions = NameFinder(names, sound).find(" ".join(unknown), limit=1)
            if mentions and mentions[0].score >= _MIN_SCORE:
                return {facet.key: mentions[0].name}
    if unknown or not (values or flags):
        unread = " ".join(unknown) or clause
        raise InstructionNotUnderstood(f"No metadata here answers to {unread!r}. {_available_keys(known)}")
    alternatives = [{facet.key: value} for facet, value in values]
    return _joined("$and", [*flags, *([_joined("$or", alternatives)] if alternatives else [])])


def _joined(operator: str, parts: Sequence[Where]) -> Where:
    return {operator: list(parts)} if len(parts) > 1 else parts[0]


# --- comparisons ------------------------------------------------------------------------------------------------------


Bounds = Sequence[tuple[str, str]]  # what an operator compares with


def _compared(clause: str, known: Sequence[Facet], mentioned: Sequence[Facet]) -> tuple[Where, str] | None:
    """The filter of the first comparison in a clause, and the clause without it."""
    comparison = _bounds(clause)
    if comparison is None:
        return None
    bounds, (start, end) = comparison
    is_date = any(re.fullmatch(_DATE, value) for _, value in bounds) or (
        all(re.fullmatch(r"[12]\d{3}", value) for _, value in bounds)
    )
    candidates = [facet for facet in mentioned if _fits(facet, bounds, is_date)]
    if not candidates:
        candidates = [
            facet for facet in known if facet.key not in ("source", "title") and _fits(facet, bounds, is_date)
        ]
    dated = [facet for facet in candidates if _is_time(facet)]
    if is_date and dated:
        candidates = dated
    if not candidates:
        if _BARE.match(clause, start):
            return None  # a number in a name, perhaps
        raise InstructionNotUnderstood(f"Nothing here can be compared as {clause!r} wants it. {_available_keys(known)}")
    keys = sorted({facet.key for facet in candidates})
    if len(keys) > 1:
        raise InstructionNotUnderstood(f"{clause!r} may be about {' or '.join(keys)}: name the one that is meant.")
    where = _joined("$or", [_joined("$and", list(_within(facet, bounds))) for facet in candidates])
    return where, f"{clause[:start]} {clause[end:]}"


def _bounds(clause: str) -> tuple[Bounds, tuple[int, int]] | None:
    """Operators and values of the first comparison in a clause, and its span in characters."""
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


def _fits(facet: Facet, bounds: Bounds, is_date: bool) -> bool:
    if facet.kind == "text":
        return is_date and _is_time(facet)
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
    """Start of a day, month or year, and of the next, in ISO 8601 to its own precision."""
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


def _text_values(candidates: Sequence[Facet], facets: Facets) -> Iterator[tuple[Facet, list[str]]]:
    for facet in candidates:
        if facet.kind == "text" and facet.count <= _MAX_VALUES:
            yield facet, [value for value in facets.values(facet.key) if isinstance(value, str)]


def _named_values(
    clause: str, candidates: Sequence[Facet], facets: Facets
) -> Iterator[tuple[tuple[Facet, str], frozenset[str]]]:
    """The facet values that a clause names, each with its identifying stems."""
    stems = {*map(_stem, terms(clause))}
    matches = {
        (facet, value): words
        for facet, values in _text_values(candidates, facets)
        for value in values
        if (words := _identifying_stems(value)) and words <= stems
    }
    for (facet, value), words in matches.items():  # "New York" is not meant where "New York City" is said
        if not any(words < other_words for other_words in matches.values()):
            yield (facet, value), words


def _identifying_stems(value: str) -> frozenset[str]:
    """Stems of the content words of a value; of all its words if it has no others."""
    words = terms(value)
    return frozenset(map(_stem, [word for word in words if word not in STOPWORDS] or words))


def _is_flag(facet: Facet) -> bool:
    return facet.kind == "number" and {facet.lowest, facet.highest} <= {0, 1}


def _names_key(facet: Facet, clause: str) -> bool:
    """Whether a clause mentions the key of a facet."""
    words = _key_words(facet)
    return bool(words) and words <= {*map(_stem, terms(clause))}


def _key_words(facet: Facet) -> set[str]:
    return {*map(_stem, terms(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", facet.key.rpartition(".")[2])))}


def _stem(word: str) -> str:
    return re.sub(r"(?<=\w\w)(?:ies|y)$", "i", re.sub(r"(?<=\w\w[^s])s$", "", word))


def _singular_stem(word: str) -> str:
    """The beginning that a word and its plural share."""
    return re.sub(r"(?<=\w\w)(?:ies|y|s)$", "", word)


def _available_keys(known: Sequence[Facet]) -> str:
    listed = [facet for facet in known if facet.key not in ("source", "title")]
    ranges = ", ".join(f"{facet.key} ({facet.lowest} to {facet.highest})" for facet in listed)
    return f"What can be asked for: {ranges or 'title and source, by their names'}."
