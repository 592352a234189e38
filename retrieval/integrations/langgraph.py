"""A knowledge base as the long-term memory of a LangGraph graph: its ``BaseStore``.

::

    store = KnowledgeStore(LocalKnowledge.create("memories.index", embedder), fields=["text"])
    graph = builder.compile(store=store)
    store.put(("users", "ann"), "coffee", {"text": "Ann drinks her coffee with oat milk."})
    store.search(("users", "ann"), query="what does she take in her coffee")
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    get_text_at_path,
    tokenize_path,
)
from langgraph.store.memory import InMemoryStore

from ..documents.document import Document, Entry
from ..passages import Passage
from ..query.filters import Where
from ..search.knowledge import LocalKnowledge

_COMPARISONS = ("$gt", "$gte", "$lt", "$lte")


class KnowledgeStore(BaseStore):
    """A LangGraph store whose items are found by meaning, by words and by sound, and are on disk when a call returns.

    Every item is a document of the knowledge base. As thread-safe as it is. Items do not expire: a ``ttl`` is refused.
    """

    def __init__(self, knowledge: LocalKnowledge, fields: Sequence[str] = ("$",)) -> None:
        """Wrap a knowledge base.

        Args:
            knowledge: Where the items are kept, and what embeds them; ``LocalKnowledge.empty`` makes one in memory.
            fields: Paths of what is searched in a value, as LangGraph writes them (``"text"``, ``"facts[*].content"``);
                ``"$"`` is all of it, as JSON. The ``index`` of a `put` names others, or False for none.
        """
        self.knowledge = knowledge
        self._fields = tuple(fields)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Run several operations: all reads first, then all writes; see ``BaseStore``.

        Of several writes to one item, the last counts.

        Raises:
            ValueError: If an operation is unknown, or a filter is malformed.
            LoadingError: If a value is not plain JSON.
            StoreError: If it cannot be written; items that were there are still there.
        """
        results: list[Result] = []
        writes: dict[str, PutOp] = {}
        for op in ops:
            if isinstance(op, GetOp):
                results.append(self._get(op))
            elif isinstance(op, SearchOp):
                results.append(self._search(op))
            elif isinstance(op, ListNamespacesOp):
                results.append(self._namespaces(op))
            elif isinstance(op, PutOp):
                writes[_source(op.namespace, op.key)] = op
                results.append(None)
            else:
                raise ValueError(f"There is no operation {type(op).__name__}.")
        self._put(writes)
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """`batch` in a thread of its own."""
        return await asyncio.to_thread(self.batch, list(ops))

    def _get(self, op: GetOp) -> Item | None:
        entries = self.knowledge.entries([_source(op.namespace, op.key)])
        return Item(**_item(entries[0])) if entries else None

    def _put(self, writes: Mapping[str, PutOp]) -> None:
        deleted = [source for source, op in writes.items() if op.value is None]
        upserted = {source: op for source, op in writes.items() if op.value is not None}
        now = datetime.now(UTC).isoformat()
        created_at = {entry.source: entry.metadata["created_at"] for entry in self.knowledge.entries([*upserted])}
        documents = [self._document(source, op, created_at.get(source, now), now) for source, op in upserted.items()]
        if documents:
            self.knowledge.upsert(documents)
        if deleted:
            self.knowledge.delete(deleted)

    def _document(self, source: str, op: PutOp, created: str, now: str) -> Document:
        value = dict(op.value or {})
        paths: Sequence[str] = () if op.index is False else self._fields if op.index is None else op.index
        texts = [text for path in paths for text in get_text_at_path(value, tokenize_path(path))]
        metadata = {
            "namespace": _name(op.namespace),
            "within": [_name(op.namespace[:depth]) for depth in range(1, len(op.namespace) + 1)],
            "key": op.key,
            "value": value,
            "created_at": created,
            "updated_at": now,
        }
        # An item that is not to be searched is a document without text.
        style: Literal["whole", "text"] = "whole" if texts else "text"
        return Document(source, "\n".join(texts), style, metadata=metadata)

    def _search(self, op: SearchOp) -> list[SearchItem]:
        if op.limit < 1:
            return []
        where: list[Where] = [{"within": _name(op.namespace_prefix)}] if op.namespace_prefix else []
        pushed, remaining = _split_filter(op.filter or {}, "value")
        where += pushed
        condition: Where | None = {"$and": where} if where else None
        if remaining:
            condition = {"source": {"$in": self._matching_sources(condition, remaining)}}
        if not op.query:
            entries = self.knowledge.entries(where=condition, limit=op.limit, offset=op.offset)
            return [SearchItem(**_item(entry)) for entry in entries]
        passages = self.knowledge.search(op.query, op.offset + op.limit, where=condition)
        items = [SearchItem(**_item(passage), score=passage.score) for passage in passages[op.offset :]]
        if len(items) < op.limit:  # then come items without text, as in LangGraph's own stores
            seen = {passage.source for passage in passages}
            rest = [entry for entry in self.knowledge.entries(where=condition) if entry.source not in seen]
            skipped = max(0, op.offset - len(passages))
            items += [SearchItem(**_item(entry)) for entry in rest[skipped:][: op.limit - len(items)]]
        return items

    def _matching_sources(self, where: Where | None, value_filter: dict[str, Any]) -> list[str]:
        """Sources of the items whose value matches a filter by the rules of LangGraph's own store."""
        entries = self.knowledge.entries(where=where)
        store = InMemoryStore()
        store.batch([PutOp((), entry.source, entry.metadata["value"]) for entry in entries])
        return [item.key for item in store.search((), filter=value_filter, limit=len(entries))]

    def _namespaces(self, op: ListNamespacesOp) -> Result:
        store = InMemoryStore()
        store.batch([PutOp(tuple(json.loads(name)), "item", {}) for name in self.knowledge.values("namespace")])
        return store.batch([op])[0]


def _source(namespace: tuple[str, ...], key: str) -> str:
    return _name((*namespace, key))


def _name(parts: Sequence[str]) -> str:
    return json.dumps(list(parts), ensure_ascii=False)


def _item(record: Entry | Passage) -> dict[str, Any]:
    metadata = record.metadata
    return {
        "namespace": tuple(json.loads(metadata["namespace"])),
        "key": metadata["key"],
        "value": metadata["value"],
        "created_at": datetime.fromisoformat(metadata["created_at"]),
        "updated_at": datetime.fromisoformat(metadata["updated_at"]),
    }


def _split_filter(filters: Mapping[str, Any], key: str) -> tuple[list[Where], dict[str, Any]]:
    """Split a value filter into conditions for the database and the rest, which has to be checked on the items.

    The conditions leave out no item that matches. An equality is in both parts: to the database a list equals any of
    its items, to LangGraph it does not.
    """
    parts: list[Where] = []
    remaining: dict[str, Any] = {}
    for name, value in filters.items():
        path = f"{key}.{name}"
        if not isinstance(value, Mapping):
            remaining[name] = value
            if _is_scalar(value):
                parts.append({path: value})
        elif not any(inner.startswith("$") for inner in value):
            more, rest = _split_filter(value, path)
            parts += more
            remaining |= {name: rest} if rest or not value else {}
        else:
            parts += [
                {path: {operator: operand}}
                for operator, operand in value.items()
                if operator in _COMPARISONS and _is_scalar(operand)
            ]
            rest = {
                operator: operand
                for operator, operand in value.items()
                if not (operator in _COMPARISONS and _is_scalar(operand))
            }
            remaining |= {name: rest} if rest else {}
    return parts, remaining


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float)
