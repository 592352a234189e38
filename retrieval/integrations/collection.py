"""A knowledge base of this package behind Chroma's interface, for code that was written for a collection.

::

    collection = Collection(LocalKnowledge.create("handbook.index", embedder))
    collection.add(ids=["a"], documents=["We open at seven."], metadatas=[{"city": "Bath"}])
    collection.query(query_texts=["when do you open"], n_results=3, where={"city": "Bath"})

Differences from Chroma: a query by text looks for words and for what sounds like them too; a filtered one sees every
record that the filter holds for; what a call has written is on disk when it returns; filters know ``$not`` and
``$exists`` as well. As in Chroma, all keys of a filter are keys of the metadata, ``source`` and ``title`` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..documents.document import Document
from ..embedding.embedder import Vectors, unit
from ..errors import DimensionMismatch
from ..passages import Passage
from ..query.filters import Where, of_metadata
from ..search.knowledge import LocalKnowledge

_COLUMNS = ("documents", "embeddings", "metadatas", "distances")
Many = str | Sequence[str]
Metadatas = Mapping[str, Any] | Sequence[Mapping[str, Any] | None]


class Collection:
    """Records with an id each, put in and asked for as in a collection of chromadb; as thread-safe as the base.

    A record is one document in one passage. The distance of a record is one minus its score: the cosine distance for a
    query by vectors, and for one by texts if the base searches by ``"dense"`` alone. Vectors are scaled to unit length.
    """

    def __init__(self, knowledge: LocalKnowledge) -> None:
        """Wrap a knowledge base.

        Args:
            knowledge: Where the records are kept, and what embeds texts; ``LocalKnowledge.empty`` makes one in memory.
        """
        self.knowledge = knowledge

    def count(self) -> int:
        """How many records there are."""
        return self.knowledge.stats().documents

    def add(
        self,
        ids: Many,
        embeddings: ArrayLike | None = None,
        metadatas: Metadatas | None = None,
        documents: Many | None = None,
    ) -> None:
        """Put records in. One whose id is there already is left as it is.

        Args:
            ids: Names, each once.
            embeddings: Their vectors, shape (n, dim); by default the documents are embedded.
            metadatas: What is known of each; plain JSON values.
            documents: Their texts; may be left out if vectors are given.

        Raises:
            ValueError: If there are not as many of one as of the other, an id comes twice, or there is neither document
                nor vector.
            LoadingError: If metadata is not plain JSON.
            DimensionMismatch: If the vectors are of another length than the index's.
            StoreError: If it cannot be written; what was there is still there.
        """
        names, vectors, metadata, texts = self._checked(ids, embeddings, metadatas, documents)
        existing = {entry.source for entry in self.knowledge.entries(names)}
        new = [position for position, name in enumerate(names) if name not in existing]
        records = [
            _record(names[position], texts[position] if texts else None, metadata[position] if metadata else None)
            for position in new
        ]
        self._write(records, None if vectors is None else vectors[new])

    def upsert(
        self,
        ids: Many,
        embeddings: ArrayLike | None = None,
        metadatas: Metadatas | None = None,
        documents: Many | None = None,
    ) -> None:
        """Put records in; one whose id is there already is updated. See ``add`` and ``update``."""
        names, vectors, metadata, texts = self._checked(ids, embeddings, metadatas, documents)
        self._merge(names, vectors, metadata, texts, existing_only=False)

    def update(
        self,
        ids: Many,
        embeddings: ArrayLike | None = None,
        metadatas: Metadatas | None = None,
        documents: Many | None = None,
    ) -> None:
        """Change records; ids that are not there are passed over. See ``add``.

        What is not given stays. Metadata is merged by key, and a key that is given as None is taken out. A new document
        without a vector is embedded.
        """
        names, vectors, metadata, texts = self._checked(ids, embeddings, metadatas, documents, updating=True)
        self._merge(names, vectors, metadata, texts, existing_only=True)

    def delete(
        self, ids: Many | None = None, where: Where | None = None, where_document: Mapping[str, Any] | None = None
    ) -> None:
        """Take records out.

        Args:
            ids: Of these; those that are not there are passed over.
            where: Of these, or of all, only those whose metadata this holds for.
            where_document: Only those whose text this holds for, such as ``{"$contains": "oat milk"}``.

        Raises:
            ValueError: If nothing is given, or a filter is malformed.
            StoreError: If it cannot be written; what was there is still there.
        """
        condition = _combined(where, where_document)
        if ids is None and condition is None:
            raise ValueError("say which records to delete: ids, where or where_document.")
        self.knowledge.delete(None if ids is None else _as_texts(ids), where=condition)

    def get(
        self,
        ids: Many | None = None,
        where: Where | None = None,
        limit: int | None = None,
        offset: int = 0,
        where_document: Mapping[str, Any] | None = None,
        include: Sequence[str] = ("metadatas", "documents"),
    ) -> dict[str, Any]:
        """Records by id, metadata and text.

        Args:
            ids: Only these.
            where: Only those whose metadata this holds for.
            limit: How many at most.
            offset: How many are passed over first.
            where_document: Only those whose text this holds for.
            include: What to give of them besides their ids: ``metadatas``, ``documents``, ``embeddings``.

        Returns:
            Lists of equal length under ``ids``, ``documents``, ``metadatas`` and ``embeddings`` (float32, shape
            (n, dim)), in the order the records were put in; None for what was not asked for.

        Raises:
            ValueError: If a filter or `include` is malformed, or a number is negative.
        """
        included = _checked_include(include, _COLUMNS[:3])
        sources = None if ids is None else _as_texts(ids)
        passages = self.knowledge.get(sources, where=_combined(where, where_document), limit=limit, offset=offset)
        vectors = self.knowledge.vectors(passages) if "embeddings" in included else None
        columns = {key: value for key, value in _columns(passages, included).items() if key != "distances"}
        return {**columns, "embeddings": vectors, "included": list(include)}

    def peek(self, limit: int = 10) -> dict[str, Any]:
        """The first records, with their vectors."""
        return self.get(limit=limit, include=_COLUMNS[:3])

    def query(
        self,
        query_embeddings: ArrayLike | None = None,
        query_texts: Many | None = None,
        n_results: int = 10,
        where: Where | None = None,
        where_document: Mapping[str, Any] | None = None,
        include: Sequence[str] = ("metadatas", "documents", "distances"),
    ) -> dict[str, Any]:
        """The records that fit each query best.

        Args:
            query_embeddings: Vectors, shape (m, dim): compared with the records' and with nothing else.
            query_texts: Texts; searched as the knowledge base does.
            n_results: How many records for each query at most.
            where: Only records whose metadata this holds for.
            where_document: Only records whose text this holds for.
            include: What to give of them besides their ids: ``metadatas``, ``documents``, ``distances``,
                ``embeddings``.

        Returns:
            Under ``ids``, ``documents``, ``metadatas``, ``distances`` and ``embeddings``, a list for each query, the
            nearest record first; None for what was not asked for.

        Raises:
            ValueError: If there are both vectors and texts or neither, `n_results` is less than 1, or a filter or
                `include` is malformed.
            DimensionMismatch: If the vectors are of another length than the index's.
        """
        if (query_embeddings is None) == (query_texts is None):
            raise ValueError("give either query_texts or query_embeddings.")
        included = _checked_include(include, _COLUMNS)
        condition = _combined(where, where_document)
        if query_texts is not None:
            results = [self.knowledge.search(text, n_results, where=condition) for text in _as_texts(query_texts)]
        else:
            query_vectors = self._unit(query_embeddings)
            results = [self.knowledge.search_vector(vector, n_results, where=condition) for vector in query_vectors]
        columns = [_columns(passages, included) for passages in results]
        result: dict[str, Any] = {
            key: [column[key] for column in columns] if key == "ids" or key in included else None
            for key in ("ids", "documents", "metadatas", "distances")
        }
        vectors = [self.knowledge.vectors(passages) for passages in results] if "embeddings" in included else None
        return {**result, "embeddings": vectors, "included": list(include)}

    # --- between the two ----------------------------------------------------------------------------------------------

    def _checked(
        self, ids: Many, embeddings: ArrayLike | None, metadatas: Any, documents: Any, *, updating: bool = False
    ) -> tuple[list[str], Vectors | None, list[Mapping[str, Any] | None] | None, list[str] | None]:
        names = _as_texts(ids)
        if len({*names}) < len(names) or not all(names):
            raise ValueError("ids must be texts that are not empty, each once.")
        vectors = None if embeddings is None else self._unit(embeddings)
        metadata = [metadatas] if isinstance(metadatas, Mapping) else None if metadatas is None else list(metadatas)
        texts = None if documents is None else _as_texts(documents)
        for name, values in (("embeddings", vectors), ("metadatas", metadata), ("documents", texts)):
            if values is not None and len(values) != len(names):
                raise ValueError(f"{len(names)} ids need as many {name}, not {len(values)}.")
        if vectors is None and texts is None and not updating:
            raise ValueError("give documents, embeddings, or both.")
        return names, vectors, metadata, texts

    def _unit(self, embeddings: ArrayLike | None) -> Vectors:
        vectors = np.atleast_2d(np.asarray(embeddings, np.float32))
        if vectors.ndim != 2 or vectors.shape[1] != self.knowledge.embedder.dim:
            raise DimensionMismatch(
                f"embeddings have shape {vectors.shape}; this collection needs (n, {self.knowledge.embedder.dim})."
            )
        return unit(vectors)

    def _merge(
        self,
        names: Sequence[str],
        vectors: Vectors | None,
        changes: Sequence[Mapping[str, Any] | None] | None,
        texts: Sequence[str] | None,
        *,
        existing_only: bool,
    ) -> None:
        existing = {passage.source: passage for passage in self.knowledge.get(names)}
        positions = [position for position, name in enumerate(names) if name in existing or not existing_only]
        records = []
        for position in positions:
            name, old = names[position], existing.get(names[position])
            text = texts[position] if texts is not None else old.text if old else None
            metadata = dict(old.metadata) if old else {}
            metadata |= (changes[position] if changes else None) or {}
            records.append(_record(name, text, metadata))
        self._write(records, None if vectors is None else vectors[positions])

    def _write(self, records: Sequence[Document], vectors: Vectors | None) -> None:
        if records:
            self.knowledge.upsert(records, vectors=vectors)


def _record(name: str, text: str | None, metadata: Mapping[str, Any] | None) -> Document:
    values = {key: value for key, value in (metadata or {}).items() if value is not None}
    return Document(name, text or "", "whole", metadata=values)


def _as_texts(values: Any) -> list[str]:
    texts = [values] if isinstance(values, str) else list(values)
    if not all(isinstance(value, str) for value in texts):
        raise ValueError(f"Expected texts, got {texts!r}.")
    return texts


def _combined(where: Where | None, where_document: Mapping[str, Any] | None) -> Where | None:
    """Both filters as one; an empty filter, which some callers give, counts as none."""
    parts: list[Where] = [of_metadata(where)] if where else []
    if where_document:
        parts.append({"$document": where_document})
    return {"$and": parts} if len(parts) > 1 else parts[0] if parts else None


def _checked_include(include: Sequence[str], known: Sequence[str]) -> set[str]:
    unknown = [name for name in include if name not in known]
    if isinstance(include, str) or unknown:
        raise ValueError(f"include is a list of {', '.join(known)}, got {include!r}.")
    return set(include)


def _columns(passages: Sequence[Passage], included: set[str]) -> dict[str, list[Any] | None]:
    def listed(name: str, of: Any) -> list[Any] | None:
        return [of(passage) for passage in passages] if name in included else None

    return {
        "ids": [passage.source for passage in passages],
        # Chroma has no empty metadata, and a record that was put in without a document has none.
        "documents": listed("documents", lambda passage: passage.text or None),
        "metadatas": listed("metadatas", lambda passage: dict(passage.metadata) or None),
        "distances": listed("distances", lambda passage: 1 - passage.score),
    }
