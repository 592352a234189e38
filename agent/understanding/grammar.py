"""Grammars of commands, read from a file into a small acyclic graph of steps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import ConfigError


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a command: one of several phrases is said.

    Attributes:
        phrases: What may be said here.
        slot: The slot that takes the phrase as its value; "" if the step is only words.
    """

    phrases: tuple[str, ...]
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Grammar:
    """All commands, as the paths of a minimal directed acyclic graph.

    Attributes:
        roots: The node where each intent's commands begin.
        edges: For each node its steps and where they lead. Every edge leads to a node of a lower number.
        ends: Nodes where a command may be over.
        loose: Whether other words may stand between the steps; so it is where only values are listed.
    """

    roots: Mapping[str, int]
    edges: tuple[tuple[tuple[Step, int], ...], ...]
    ends: frozenset[int]
    loose: bool = False

    @classmethod
    def load(cls, path: str | Path) -> Grammar:
        """Read a Rhino context (``.yaml``, ``.yml``), or value lists ``{intent: {slot: [value, …]}}`` (``.json``).

        Raises:
            ConfigError: If the file cannot be read, or is no grammar; the message names the line.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _grammar_error(f"cannot read the grammar {path}: {error}") from error
        if path.suffix in (".yaml", ".yml"):
            return cls.from_yaml(text, name=path.name)
        if path.suffix != ".json":
            raise _grammar_error(f"{path} is no grammar: give a Rhino context (.yaml) or value lists (.json)")
        try:
            return cls.from_values(json.loads(text))
        except ValueError as error:
            raise _grammar_error(f"{path.name} is no JSON: {error}") from error

    @classmethod
    def from_values(cls, values: Mapping[str, Mapping[str, Sequence[str]]]) -> Grammar:
        """Commands of which only the slots' values are known: at least one is said, in any order, each slot once.

        Args:
            values: ``{intent: {slot: [value, …]}}``.

        Raises:
            ConfigError: If it has another form, or a list is empty.
        """
        build = _Builder()
        roots: dict[str, int] = {}
        for intent, slots in _mapping(values, "value lists are {intent: {slot: [value, …]}}").items():
            listed = _mapping(slots, f"the intent {intent!r} needs {{slot: [value, …]}}")
            steps = [
                Step(_values(values, f"slot {slot!r} of intent {intent!r}"), slot) for slot, values in listed.items()
            ]
            node = build.end
            for filled in reversed(range(len(steps))):
                node = build.node(dict.fromkeys(steps, node), end=filled > 0)
            roots[intent] = node
        return build.grammar(roots, loose=True)

    @classmethod
    def from_yaml(cls, text: str, *, name: str = "the grammar") -> Grammar:
        """Read a Rhino context (https://picovoice.ai/docs/rhino/).

        ``[a, b]`` is one of, ``(a)`` is optional, ``@macro`` is one of a macro's phrases, ``$type:slot`` is a value of
        the list `type`, put into `slot`.

        Raises:
            ConfigError: If it is no such context; the message names the line.
        """
        import yaml

        try:
            tree = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise _grammar_error(f"{name} is no YAML: {' '.join(str(error).split())}") from error
        context = _children(tree, name).get("context", tree)
        parts = _children(context, name)
        if "expressions" not in parts:
            raise _grammar_error(f"{name}: there are no expressions; write them under context: expressions: intent:")
        types = {
            key: tuple(line for _, line in _lines(node, name))
            for key, node in _children(parts.get("slots"), name).items()
        }
        macros = {key: list(_lines(node, name)) for key, node in _children(parts.get("macros"), name).items()}
        build = _Builder()
        roots = {}
        for intent, node in _children(parts["expressions"], name).items():
            parsed = [_Expression(types, macros, name, line).parse(said) for line, said in _lines(node, name)]
            roots[intent] = build.union(build.sequence(sequence, build.end) for sequence in parsed)
        if not roots:
            raise _grammar_error(f"{name}: there is no intent under expressions")
        return build.grammar(roots)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every distinct step of the graph."""
        return tuple(dict.fromkeys(step for edges in self.edges for step, _ in edges))

    @property
    def values(self) -> dict[str, tuple[str, ...]]:
        """The values that each slot may take, by slot."""
        values: dict[str, dict[str, None]] = {}
        for step in self.steps:
            if step.slot:
                values.setdefault(step.slot, {}).update(dict.fromkeys(step.phrases))
        return {slot: tuple(phrases) for slot, phrases in values.items()}


_Sequence: TypeAlias = "list[Step | list[_Sequence]]"
"""Steps one after the other; a list among them holds alternatives, an empty sequence says nothing."""


class _Builder:
    """Builds a minimal graph: nodes that allow the same continuations are one node."""

    def __init__(self) -> None:
        self._ids: dict[tuple[frozenset[tuple[Step, int]], bool], int] = {}
        self._edges: list[dict[Step, int]] = []
        self._ends: list[bool] = []
        self.end = self.node({}, end=True)

    def node(self, edges: dict[Step, int], *, end: bool = False) -> int:
        key = (frozenset(edges.items()), end)
        if key not in self._ids:
            self._ids[key] = len(self._edges)
            self._edges.append(edges)
            self._ends.append(end)
        return self._ids[key]

    def union(self, nodes: Iterable[int]) -> int:
        """Return the node whose continuations are those of all `nodes`."""
        different = sorted(set(nodes))
        if len(different) == 1:
            return different[0]
        leading: dict[Step, list[int]] = {}
        for node in different:
            for step, target in self._edges[node].items():
                leading.setdefault(step, []).append(target)
        merged = {step: self.union(target) for step, target in leading.items()}
        return self.node(merged, end=any(self._ends[node] for node in different))

    def sequence(self, items: _Sequence, following: int) -> int:
        for item in reversed(items):
            if isinstance(item, Step):
                following = self.node({item: following})
            else:
                following = self.union([self.sequence(choice, following) for choice in item])
        return following

    def grammar(self, roots: Mapping[str, int], *, loose: bool = False) -> Grammar:
        """Return the grammar of all reachable nodes, renumbered in the same order."""
        reached, pending = set(), list(roots.values())
        while pending:
            node = pending.pop()
            if node not in reached:
                reached.add(node)
                pending += self._edges[node].values()
        number = {node: index for index, node in enumerate(sorted(reached))}
        edges = tuple(
            tuple((step, number[target]) for step, target in self._edges[node].items()) for node in sorted(reached)
        )
        ends = frozenset(number[node] for node in reached if self._ends[node])
        return Grammar({intent: number[node] for intent, node in roots.items()}, edges, ends, loose)


_TOKEN = re.compile(r"\s*([\[\](),]|\$[\w.]*(?::\w+)?|@\w*|[^\s\[\](),$@]+)")


class _Expression:
    """A recursive-descent parser of one expression."""

    def __init__(
        self,
        types: Mapping[str, tuple[str, ...]],
        macros: Mapping[str, list[tuple[int, str]]],
        name: str,
        line: int,
        inside: tuple[str, ...] = (),
    ) -> None:
        self._types, self._macros, self._inside = types, macros, inside
        self._name, self._line = name, line
        self._tokens: list[str] = []

    def parse(self, text: str) -> _Sequence:
        self._tokens = _TOKEN.findall(text)[::-1]
        items = self._sequence()
        if self._tokens:
            raise self._error(f"{self._tokens[-1]!r} closes nothing in {text!r}; delete it, or open it before")
        if not items:
            raise self._error("the expression is empty; write what is said, or delete it")
        return items

    def _sequence(self) -> _Sequence:
        items: _Sequence = []
        words: list[str] = []
        while self._tokens and self._tokens[-1] not in ("]", ")", ","):
            token = self._tokens.pop()
            if token[0] not in "[($@":
                words.append(token)
                continue
            items += _phrase(words)
            words = []
            items.append(self._item(token))
        return items + _phrase(words)

    def _item(self, token: str) -> Step | list[_Sequence]:
        if token == "[":
            return _alternatives(self._list("]"))
        if token == "(":
            return [*self._list(")"), []]
        return self._macro(token[1:]) if token[0] == "@" else self._slot(token[1:])

    def _list(self, close: str) -> list[_Sequence]:
        choices = [self._sequence()]
        while self._tokens and self._tokens[-1] == ",":
            self._tokens.pop()
            choices.append(self._sequence())
        if not self._tokens or self._tokens.pop() != close:
            raise self._error(f"a {'[' if close == ']' else '('} is never closed; write {close} where it ends")
        if not all(choices):
            raise self._error(
                f"one of the choices before {close} is empty; for words that may be left out write (words)"
            )
        return choices

    def _slot(self, token: str) -> Step:
        kind, _, slot = token.partition(":")
        if kind not in self._types:
            known = ", ".join(self._types) or "none"
            raise self._error(f"there is no slot list {kind!r} (there are: {known}); write it under slots:")
        if not self._types[kind]:
            raise self._error(f"the slot list {kind!r} is empty; list its values")
        return Step(self._types[kind], slot or kind)

    def _macro(self, macro: str) -> Step | list[_Sequence]:
        if macro not in self._macros:
            raise self._error(f"there is no macro {macro!r}; write it under macros:")
        if macro in self._inside:
            raise self._error(f"the macro {macro!r} holds itself; write out what it stands for")
        inside = (*self._inside, macro)
        return _alternatives(
            [
                _Expression(self._types, self._macros, self._name, line, inside).parse(words)
                for line, words in self._macros[macro]
            ]
        )

    def _error(self, message: str) -> ConfigError:
        return _grammar_error(f"{self._name}, line {self._line}: {message}")


def _phrase(words: list[str]) -> _Sequence:
    return [Step((" ".join(words),))] if words else []


def _alternatives(choices: list[_Sequence]) -> Step | list[_Sequence]:
    """Merge alternatives that are only words into one step, which keeps the graph small."""
    plain = [choice[0] for choice in choices if len(choice) == 1]
    words = [step for step in plain if isinstance(step, Step) and not step.slot]
    if len(words) < len(choices):
        return choices
    return Step(tuple(dict.fromkeys(phrase for step in words for phrase in step.phrases)))


def _children(node: Any, name: str) -> dict[str, Any]:
    """A YAML mapping as its keys and nodes; nodes know their line."""
    if node is None or node.value == "":
        return {}
    if node.id != "mapping":
        raise _grammar_error(
            f"{name}, line {node.start_mark.line + 1}: expected keys such as `context:` here, not {node.value!r}"
        )
    return {str(key.value): value for key, value in node.value}


def _lines(node: Any, name: str) -> Iterator[tuple[int, str]]:
    """A YAML list of strings with their line numbers."""
    if node.id != "sequence":
        raise _grammar_error(
            f"{name}, line {node.start_mark.line + 1}: expected a list here; begin each line with a dash"
        )
    for item in node.value:
        if item.id != "scalar":
            line = item.start_mark.line + 1
            raise _grammar_error(
                f'{name}, line {line}: expected text here; put an expression that begins with [ into "quotes"'
            )
        yield item.start_mark.line + 1, str(item.value)


def _mapping(value: Any, message: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not value:
        raise _grammar_error(f"{message}, not {value!r}")
    return value


def _values(values: Any, subject: str) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not values or not all(isinstance(v, str) and v.strip() for v in values):
        raise _grammar_error(f"the {subject} needs a list of texts, not {values!r}")
    return tuple(dict.fromkeys(values))


def _grammar_error(message: str) -> ConfigError:
    return ConfigError(message, stage="grammar")
