"""Which documents are meant: a filter over their metadata, written as Chroma writes it, becomes SQL.

::

    {"year": {"$gt": 2020}}                       {"$or": [{"city": "Bath"}, {"stars": {"$in": [4, 5]}}]}
    {"city": "Bath", "stars": 4}                  {"tags": {"$contains": "vegan"}, "$not": {"closed": True}}

Several keys in one filter all have to hold. ``$ne`` and ``$nin`` hold for a document without the key as well. A value
that is a list holds for each of its items, one that is a mapping under keys joined by dots, as in
``{"address.city": "Bath"}``.
``source`` and ``title`` are the document's own, of every document. What its metadata has under these two names stays in
the metadata, and is filtered for as ``metadata.source`` and ``metadata.title``.

``$document`` looks at the words instead, letter by letter: ``{"$document": {"$contains": "oat milk"}}`` holds for
documents of which some passage holds them, and ``$regex`` for those in which the regular expression is found.
``$not_contains`` and ``$not_regex`` are their opposites, and ``$and`` and ``$or`` join several. Regular expressions are
those of Python's ``re``; they are run by the package regex, which can be stopped, and which takes combining marks, such
as the vowel signs of Hindi, for parts of a word. One that takes longer than `REGEX_SECONDS` is refused.
"""

from __future__ import annotations

import functools
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import regex  # type: ignore[import-untyped]

Where: TypeAlias = Mapping[str, Any]
"""A filter; see above."""

Fact: TypeAlias = tuple[str, str | int | float]

REGEX_SECONDS = 5.0
"""How long the regular expressions of one statement may take in all: nobody else can search meanwhile."""

_OWN = ("source", "title")
_SINGLE = frozenset((str, int, float))
_COMPARED = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_LISTED = "a list of texts, numbers or booleans"
_HOLDING = "SELECT document FROM facts WHERE key = ? AND value"
_WORDS = {"$contains": "instr(text, ?)", "$regex": "text REGEXP ?"}


def facts(metadata: Mapping[str, Any], source: str, title: str) -> Iterator[Fact]:
    """What can be filtered for: key and value, several of one key for a list."""
    yield "source", source
    yield "title", title
    for key, value in metadata.items():
        if type(value) in _SINGLE:  # nearly all of them
            yield _filtered(key), value
        else:
            for inner, part in _flattened(key, value):
                yield _filtered(inner), part


def shadowed(metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata has a key that the document has of its own."""
    return any(key in metadata for key in _OWN)


def of_metadata(where: Any) -> Any:
    """The same filter where ``source`` and ``title`` mean what the metadata has under these names, as Chroma's do."""
    if not isinstance(where, Mapping):
        return where
    renamed: dict[str, Any] = {}
    for key, wanted in where.items():
        if key in ("$and", "$or") and isinstance(wanted, list | tuple):
            renamed[key] = [*map(of_metadata, wanted)]
        else:
            renamed[_filtered(key)] = of_metadata(wanted) if key == "$not" else wanted
    return renamed


def _filtered(key: str) -> str:
    """What a key of the metadata is called in a filter."""
    return f"metadata.{key}" if key in _OWN else key


def _flattened(key: str, value: Any) -> Iterator[Fact]:
    if isinstance(value, Mapping):
        for inner, part in value.items():
            yield from _flattened(f"{key}.{inner}", part)
        return
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, str | int | float):
            yield key, _plain(item)


def condition(where: Where) -> tuple[str, list[Any]]:
    """An SQL expression about ``document``, and its values.

    Raises:
        ValueError: If the filter is malformed; the message says where.
    """
    if not isinstance(where, Mapping) or not where:
        raise ValueError(f"A filter is a mapping such as {{'year': {{'$gt': 2020}}}}, not {where!r}.")
    parts, values = [], []
    for key, wanted in where.items():
        sql, given = _joined(key, wanted) if key.startswith("$") else _about(key, wanted)
        parts.append(sql)
        values += given
    return "(" + " AND ".join(parts) + ")", values


def _joined(operator: str, wanted: Any) -> tuple[str, list[Any]]:
    if operator == "$not":
        sql, values = condition(wanted)
        return f"NOT {sql}", values
    if operator == "$document":
        return _holds(wanted)
    if operator not in ("$and", "$or"):
        raise ValueError(f"There is no operator {operator!r} here; there are $and, $or, $not and $document.")
    return _several(operator, wanted, condition)


def _several(operator: str, wanted: Any, build: Callable[[Any], tuple[str, list[Any]]]) -> tuple[str, list[Any]]:
    if isinstance(wanted, str) or not isinstance(wanted, Sequence) or not wanted:
        raise ValueError(f"{operator} takes a list of filters, not {wanted!r}.")
    parts = [build(one) for one in wanted]
    joint = " AND " if operator == "$and" else " OR "
    return "(" + joint.join(sql for sql, _ in parts) + ")", [value for _, values in parts for value in values]


def _holds(wanted: Any) -> tuple[str, list[Any]]:
    """About the words of a document."""
    if not isinstance(wanted, Mapping) or len(wanted) != 1:
        raise ValueError(f"$document takes one condition such as {{'$contains': 'oat milk'}}, not {wanted!r}.")
    ((operator, value),) = wanted.items()
    if operator in ("$and", "$or"):
        return _several(operator, value, _holds)
    test = _WORDS.get(operator.replace("not_", ""))
    if test is None:
        known = "$contains, $not_contains, $regex, $not_regex, $and and $or"
        raise ValueError(f"There is no operator {operator!r} in $document; there are {known}.")
    if not isinstance(value, str) or not value:
        raise ValueError(f"{operator} takes a text that is not empty, not {value!r}.")
    if "regex" in operator:
        try:
            _expression(value)
        except (re.error, regex.error) as error:
            raise ValueError(f"{operator} takes a regular expression; {value!r} is none ({error}).") from error
    sql = f"document IN (SELECT document FROM passages WHERE {test})"
    return (f"NOT {sql}" if "not_" in operator else sql), [value]


class Matching:
    """What SQLite has to call for ``text REGEXP pattern``. For one connection, which one thread at a time uses."""

    def __init__(self) -> None:
        """Make one that has not matched anything yet."""
        self._left = REGEX_SECONDS
        self._error: ValueError | None = None

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Limit the time of all that is matched inside.

        Raises:
            ValueError: If it takes longer; SQLite itself says no more than that a function raised something.
        """
        self._left, self._error = REGEX_SECONDS, None
        try:
            yield
        except sqlite3.OperationalError:
            if self._error is not None:
                raise self._error from None
            raise

    def __call__(self, pattern: str, text: str) -> bool:
        """Whether the pattern is found in the text."""
        began = time.monotonic()
        end = began + self._left
        while True:
            try:
                hit = _expression(pattern).search(text, timeout=max(end - time.monotonic(), 0.001))
                break
            except TimeoutError:
                # The package counts processor time, of all threads: where others work, it runs ahead of the clock.
                if time.monotonic() >= end:
                    self._error = ValueError(
                        f"The pattern {pattern!r} of $regex took longer than {REGEX_SECONDS:g} s: simplify it."
                    )
                    raise self._error from None
        self._left -= time.monotonic() - began
        return hit is not None


_TOKENS = r"\\N\{[^}]*\}|\\.|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<brace>\{(?!\d*,?\d*\}))"


@functools.lru_cache(maxsize=100)
def _expression(pattern: str) -> Any:
    """Compile a regular expression of Python's ``re``.

    What means more to the package regex is escaped: a brace that is no quantifier (fuzzy matching), and a bracket
    inside a set (classes such as ``[:alpha:]``).
    """

    def literal(token: re.Match[str]) -> str:
        if token["set"]:
            return "[" + re.sub(r"(?s)\\.|\[", lambda part: "\\[" if part[0] == "[" else part[0], token["set"][1:])
        return "\\{" if token["brace"] else token[0]

    comments = r"#[^\n]*|" if re.compile(pattern).flags & re.VERBOSE else ""
    return regex.compile(re.sub(f"(?s){comments}{_TOKENS}", literal, pattern), regex.VERSION0)


def _about(key: str, wanted: Any) -> tuple[str, list[Any]]:
    if not isinstance(wanted, Mapping):
        return _in(key, [wanted])
    if not wanted:
        raise ValueError(f"{key!r} needs an operator, such as {{'$gt': 2020}}, or a value.")
    parts, values = [], []
    for operator, value in wanted.items():
        if operator not in _OPERATORS:
            raise ValueError(f"There is no operator {operator!r}; there are {', '.join(_OPERATORS)}.")
        sql, given = _OPERATORS[operator](key, value)
        parts.append(sql)
        values += given
    return " AND ".join(parts), values


def _in(key: str, wanted: Any) -> tuple[str, list[Any]]:
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise ValueError(f"What {key!r} is compared with must be {_LISTED}, not {wanted!r}.")
    if any(not isinstance(value, str | int | float) for value in wanted):
        raise ValueError(f"{key!r} can only be compared with a text, a number or a boolean, not with {wanted!r}.")
    # One parameter however many values there are: SQLite allows only so many.
    return f"document IN ({_HOLDING} IN (SELECT value FROM json_each(?)))", [key, json.dumps([*map(_plain, wanted)])]


def _not_in(key: str, wanted: Any) -> tuple[str, list[Any]]:
    sql, values = _in(key, wanted)
    return f"NOT {sql}", values


def _compared(operator: str) -> Callable[[str, Any], tuple[str, list[Any]]]:
    sign = _COMPARED[operator]

    def build(key: str, wanted: Any) -> tuple[str, list[Any]]:
        if not isinstance(wanted, str | int | float):
            raise ValueError(f"{operator} compares {key!r} with a number or a text, not with {wanted!r}.")
        # SQLite finds every text greater than every number: compare like with like.
        kinds = "('text')" if isinstance(wanted, str) else "('integer', 'real')"
        return f"document IN ({_HOLDING} {sign} ? AND typeof(value) IN {kinds})", [key, _plain(wanted)]

    return build


def _exists(key: str, wanted: Any) -> tuple[str, list[Any]]:
    if not isinstance(wanted, bool):
        raise ValueError(f"$exists takes true or false, not {wanted!r}.")
    sql = "document IN (SELECT document FROM facts WHERE key = ?)"
    return (sql if wanted else f"NOT {sql}"), [key]


_OPERATORS: Mapping[str, Callable[[str, Any], tuple[str, list[Any]]]] = {
    "$eq": lambda key, value: _in(key, [value]),
    "$ne": lambda key, value: _not_in(key, [value]),
    "$in": _in,
    "$nin": _not_in,
    "$contains": lambda key, value: _in(key, [value]),
    **{operator: _compared(operator) for operator in _COMPARED},
    "$exists": _exists,
}


def _plain(value: str | int | float) -> str | int | float:
    return int(value) if isinstance(value, bool) else value
