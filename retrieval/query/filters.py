"""Metadata filters in Chroma's syntax, compiled to SQL.

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

_DOCUMENT_KEYS = ("source", "title")
_SCALARS = frozenset((str, int, float))
_COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_DOCUMENTS_WITH = "SELECT document FROM facts WHERE key = ? AND value"
_TEXT_TESTS = {"$contains": "instr(text, ?)", "$regex": "text REGEXP ?"}


def facts(metadata: Mapping[str, Any], source: str, title: str) -> Iterator[Fact]:
    """Filterable facts of a document: key and value, one for each item of a list."""
    yield "source", source
    yield "title", title
    for key, value in metadata.items():
        if type(value) in _SCALARS:  # nearly all of them
            yield _filter_key(key), value
        else:
            for inner, part in _flattened(key, value):
                yield _filter_key(inner), part


def shadowed(metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata uses a key that is reserved for the document: ``source`` or ``title``."""
    return any(key in metadata for key in _DOCUMENT_KEYS)


def of_metadata(where: Any) -> Any:
    """The filter with ``source`` and ``title`` taken as keys of the metadata, as Chroma does."""
    if not isinstance(where, Mapping):
        return where
    renamed: dict[str, Any] = {}
    for key, operand in where.items():
        if key in ("$and", "$or") and isinstance(operand, list | tuple):
            renamed[key] = [*map(of_metadata, operand)]
        else:
            renamed[_filter_key(key)] = of_metadata(operand) if key == "$not" else operand
    return renamed


def _filter_key(key: str) -> str:
    """The filter key of a key of the metadata: prefixed if it is reserved."""
    return f"metadata.{key}" if key in _DOCUMENT_KEYS else key


def _flattened(key: str, value: Any) -> Iterator[Fact]:
    if isinstance(value, Mapping):
        for inner, part in value.items():
            yield from _flattened(f"{key}.{inner}", part)
        return
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, str | int | float):
            yield key, _sql_value(item)


def condition(where: Where) -> tuple[str, list[Any]]:
    """An SQL expression about ``document``, and its values.

    Raises:
        ValueError: If the filter is malformed; the message says where.
    """
    if not isinstance(where, Mapping) or not where:
        raise ValueError(f"A filter is a mapping such as {{'year': {{'$gt': 2020}}}}, not {where!r}.")
    parts, values = [], []
    for key, operand in where.items():
        sql, parameters = _logical(key, operand) if key.startswith("$") else _key_condition(key, operand)
        parts.append(sql)
        values += parameters
    return "(" + " AND ".join(parts) + ")", values


def _logical(operator: str, operand: Any) -> tuple[str, list[Any]]:
    if operator == "$not":
        sql, values = condition(operand)
        return f"NOT {sql}", values
    if operator == "$document":
        return _document_condition(operand)
    if operator not in ("$and", "$or"):
        raise ValueError(f"There is no operator {operator!r} here; there are $and, $or, $not and $document.")
    return _junction(operator, operand, condition)


def _junction(operator: str, operands: Any, build: Callable[[Any], tuple[str, list[Any]]]) -> tuple[str, list[Any]]:
    if isinstance(operands, str) or not isinstance(operands, Sequence) or not operands:
        raise ValueError(f"{operator} takes a list of filters, not {operands!r}.")
    parts = [build(operand) for operand in operands]
    joint = " AND " if operator == "$and" else " OR "
    return "(" + joint.join(sql for sql, _ in parts) + ")", [value for _, values in parts for value in values]


def _document_condition(operand: Any) -> tuple[str, list[Any]]:
    """The SQL condition of ``$document``, on the texts of a document's passages."""
    if not isinstance(operand, Mapping) or len(operand) != 1:
        raise ValueError(f"$document takes one condition such as {{'$contains': 'oat milk'}}, not {operand!r}.")
    ((operator, value),) = operand.items()
    if operator in ("$and", "$or"):
        return _junction(operator, value, _document_condition)
    test = _TEXT_TESTS.get(operator.replace("not_", ""))
    if test is None:
        known = "$contains, $not_contains, $regex, $not_regex, $and and $or"
        raise ValueError(f"There is no operator {operator!r} in $document; there are {known}.")
    if not isinstance(value, str) or not value:
        raise ValueError(f"{operator} takes a text that is not empty, not {value!r}.")
    if "regex" in operator:
        try:
            _compiled(value)
        except (re.error, regex.error) as error:
            raise ValueError(f"{operator} takes a regular expression; {value!r} is none ({error}).") from error
    sql = f"document IN (SELECT document FROM passages WHERE {test})"
    return (f"NOT {sql}" if "not_" in operator else sql), [value]


class Matching:
    """SQLite's ``REGEXP`` function with a time limit, for one connection that one thread at a time uses."""

    def __init__(self) -> None:
        """Start with the whole time limit left."""
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
        start = time.monotonic()
        deadline = start + self._left
        while True:
            try:
                match = _compiled(pattern).search(text, timeout=max(deadline - time.monotonic(), 0.001))
                break
            except TimeoutError:
                # The package counts processor time, of all threads: where others work, it runs ahead of the clock.
                if time.monotonic() >= deadline:
                    self._error = ValueError(
                        f"The pattern {pattern!r} of $regex took longer than {REGEX_SECONDS:g} s: simplify it."
                    )
                    raise self._error from None
        self._left -= time.monotonic() - start
        return match is not None


_REGEX_TOKENS = r"\\N\{[^}]*\}|\\.|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<brace>\{(?!\d*,?\d*\}))"


@functools.lru_cache(maxsize=100)
def _compiled(pattern: str) -> Any:
    """Compile a regular expression of Python's ``re``.

    What means more to the package regex is escaped: a brace that is no quantifier (fuzzy matching), and a bracket
    inside a set (classes such as ``[:alpha:]``).
    """

    def literal(token: re.Match[str]) -> str:
        if token["set"]:
            return "[" + re.sub(r"(?s)\\.|\[", lambda part: "\\[" if part[0] == "[" else part[0], token["set"][1:])
        return "\\{" if token["brace"] else token[0]

    comments = r"#[^\n]*|" if re.compile(pattern).flags & re.VERBOSE else ""
    return regex.compile(re.sub(f"(?s){comments}{_REGEX_TOKENS}", literal, pattern), regex.VERSION0)


def _key_condition(key: str, operand: Any) -> tuple[str, list[Any]]:
    if not isinstance(operand, Mapping):
        return _in(key, [operand])
    if not operand:
        raise ValueError(f"{key!r} needs an operator, such as {{'$gt': 2020}}, or a value.")
    parts, values = [], []
    for operator, value in operand.items():
        if operator not in _OPERATORS:
            raise ValueError(f"There is no operator {operator!r}; there are {', '.join(_OPERATORS)}.")
        sql, parameters = _OPERATORS[operator](key, value)
        parts.append(sql)
        values += parameters
    return " AND ".join(parts), values


def _in(key: str, operands: Any) -> tuple[str, list[Any]]:
    if isinstance(operands, str) or not isinstance(operands, Sequence):
        raise ValueError(
            f"What {key!r} is compared with must be a list of texts, numbers or booleans, not {operands!r}."
        )
    if any(not isinstance(value, str | int | float) for value in operands):
        raise ValueError(f"{key!r} can only be compared with a text, a number or a boolean, not with {operands!r}.")
    # One parameter however many values there are: SQLite allows only so many.
    sql = f"document IN ({_DOCUMENTS_WITH} IN (SELECT value FROM json_each(?)))"
    return sql, [key, json.dumps([*map(_sql_value, operands)])]


def _not_in(key: str, operands: Any) -> tuple[str, list[Any]]:
    sql, values = _in(key, operands)
    return f"NOT {sql}", values


def _comparison(operator: str) -> Callable[[str, Any], tuple[str, list[Any]]]:
    sign = _COMPARISONS[operator]

    def build(key: str, operand: Any) -> tuple[str, list[Any]]:
        if not isinstance(operand, str | int | float):
            raise ValueError(f"{operator} compares {key!r} with a number or a text, not with {operand!r}.")
        # SQLite finds every text greater than every number: compare like with like.
        kinds = "('text')" if isinstance(operand, str) else "('integer', 'real')"
        return f"document IN ({_DOCUMENTS_WITH} {sign} ? AND typeof(value) IN {kinds})", [key, _sql_value(operand)]

    return build


def _exists(key: str, operand: Any) -> tuple[str, list[Any]]:
    if not isinstance(operand, bool):
        raise ValueError(f"$exists takes true or false, not {operand!r}.")
    sql = "document IN (SELECT document FROM facts WHERE key = ?)"
    return (sql if operand else f"NOT {sql}"), [key]


_OPERATORS: Mapping[str, Callable[[str, Any], tuple[str, list[Any]]]] = {
    "$eq": lambda key, value: _in(key, [value]),
    "$ne": lambda key, value: _not_in(key, [value]),
    "$in": _in,
    "$nin": _not_in,
    "$contains": lambda key, value: _in(key, [value]),
    **{operator: _comparison(operator) for operator in _COMPARISONS},
    "$exists": _exists,
}


def _sql_value(value: str | int | float) -> str | int | float:
    return int(value) if isinstance(value, bool) else value
