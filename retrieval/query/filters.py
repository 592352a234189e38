"""Which documents are meant: a filter over their metadata, written as Chroma writes it, becomes SQL.

::

    {"year": {"$gt": 2020}}                       {"$or": [{"city": "Bath"}, {"stars": {"$in": [4, 5]}}]}
    {"city": "Bath", "stars": 4}                  {"tags": {"$contains": "vegan"}, "$not": {"closed": True}}

Several keys in one filter all have to hold. ``$ne`` and ``$nin`` hold for a document without the key as well. A value
that is a list holds for each of its items, one that is a mapping under keys joined by dots, as in
``{"address.city": "Bath"}``.
``source`` and ``title`` are keys of every document.

``$document`` looks at the words instead, letter by letter: ``{"$document": {"$contains": "oat milk"}}`` holds for
documents of which some passage holds them, and ``$regex`` for those in which the regular expression is found.
``$not_contains`` and ``$not_regex`` are their opposites, and ``$and`` and ``$or`` join several.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Where: TypeAlias = Mapping[str, Any]
"""A filter; see above."""

Fact: TypeAlias = tuple[str, str | int | float]

_SINGLE = frozenset((str, int, float))
_COMPARED = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_LISTED = "a list of texts, numbers or booleans"
_HOLDING = "SELECT document FROM facts WHERE key = ? AND value"
_WORDS = {"$contains": "instr(text, ?)", "$regex": "text REGEXP ?"}


def facts(metadata: Mapping[str, Any], source: str, title: str) -> Iterator[Fact]:
    """What can be filtered for: key and value, several of one key for a list."""
    for key, value in {"source": source, "title": title, **metadata}.items():
        if type(value) in _SINGLE:  # nearly all of them
            yield key, value
        else:
            yield from _told(key, value)


def _told(key: str, value: Any) -> Iterator[Fact]:
    if isinstance(value, Mapping):
        for inner, part in value.items():
            yield from _told(f"{key}.{inner}", part)
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
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{operator} takes a regular expression; {value!r} is none ({error}).") from error
    sql = f"document IN (SELECT document FROM passages WHERE {test})"
    return (f"NOT {sql}" if "not_" in operator else sql), [value]


def matches(pattern: str, text: str) -> bool:
    """What SQLite has to call for ``text REGEXP pattern``; Python's module keeps what it compiled."""
    return re.search(pattern, text) is not None


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
