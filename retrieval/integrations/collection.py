"""Chroma's verbs over a knowledge base of this package: code that was written for a collection goes on working.

::

    collection = Collection(LocalKnowledge.create("handbook.index", embedder))
    collection.add(ids=["a"], documents=["We open at seven."], metadatas=[{"city": "Bath"}])
    collection.query(query_texts=["when do you open"], n_results=3, where={"city": "Bath"})

What differs is said here: a query by text looks for words and for what sounds like them too; a filtered one sees every
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

_INCLUDED = ("documents", "embeddings", "metadatas", "distances")
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
        names, vectors, told, texts = self._checked(ids, embeddings, metadatas, documents)
        there = {entry.source for entry in self.knowledge.entries(names)}
        new = [place for place, name in enumerate(names) if name not in there]
        records = [
            _record(names[place], texts[place] if texts else None, told[place] if told else None) for place in new
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
        names, vectors, told, texts = self._checked(ids, embeddings, metadatas, documents)
        self._merge(names, vectors, told, texts, only_there=False)

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
        names, vectors, told, texts = self._checked(ids, embeddings, metadatas, documents, updating=True)
        self._merge(names, vectors, told, texts, only_there=True)

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
        chosen = _joined(where, where_document)
        if ids is None and chosen is None:
            raise ValueError("say which records to delete: ids, where or where_document.")
        self.knowledge.delete(None if ids is None else _listed(ids), where=chosen)

    def get(
        self,
        ids: Many | None = None,
        where: Where | None = None,
        limit: int | None = None,
        offset: int = 0,
        where_document: Mapping[str, Any] | None = None,
        include: Sequence[str] = ("metadatas", "documents"),
    ) -> dict[str, Any]:
        """Records by what is known of them.

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
        wanted = _wanted(include, _INCLUDED[:3])
        named = None if ids is None else _listed(ids)
        found = self.knowledge.get(named, where=_joined(where, where_document), limit=limit, offset=offset)
        vectors = self.knowledge.vectors(found) if "embeddings" in wanted else None
        given = {key: value for key, value in _told(found, wanted).items() if key != "distances"}
        return {**given, "embeddings": vectors, "included": list(include)}

    def peek(self, limit: int = 10) -> dict[str, Any]:
        """The first records, with their vectors."""
        return self.get(limit=limit, include=_INCLUDED[:3])

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
        wanted = _wanted(include, _INCLUDED)
        chosen = _joined(where, where_document)
        if query_texts is not None:
            lines = [self.knowledge.search(text, n_results, where=chosen) for text in _listed(query_texts)]
        else:
            asked = self._unit(query_embeddings)
            lines = [self.knowledge.search_vector(vector, n_results, where=chosen) for vector in asked]
        parts = [_told(line, wanted) for line in lines]
        result: dict[str, Any] = {
            key: [part[key] for part in parts] if key == "ids" or key in wanted else None
            for key in ("ids", "documents", "metadatas", "distances")
        }
        vectors = [self.knowledge.vectors(line) for line in lines] if "embeddings" in wanted else None
        return {**result, "embeddings": vectors, "included": list(include)}

    # --- between the two ----------------------------------------------------------------------------------------------

    def _checked(
        self, ids: Many, embeddings: ArrayLike | None, metadatas: Any, documents: Any, *, updating: bool = False
    ) -> tuple[list[str], Vectors | None, list[Mapping[str, Any] | None] | None, list[str] | None]:
        names = _listed(ids)
        if len({*names}) < len(names) or not all(names):
            raise ValueError("ids must be texts that are not empty, each once.")
        vectors = None if embeddings is None else self._unit(embeddings)
        told = [metadatas] if isinstance(metadatas, Mapping) else None if metadatas is None else list(metadatas)
        texts = None if documents is None else _listed(documents)
        for name, given in (("embeddings", vectors), ("metadatas", told), ("documents", texts)):
            if given is not None and len(given) != len(names):
                raise ValueError(f"{len(names)} ids need as many {name}, not {len(given)}.")
        if vectors is None and texts is None and not updating:
            raise ValueError("give documents, embeddings, or both.")
        return names, vectors, told, texts

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
        told: Sequence[Mapping[str, Any] | None] | None,
        texts: Sequence[str] | None,
        *,
        only_there: bool,
    ) -> None:
        before = {passage.source: passage for passage in self.knowledge.get(names)}
        places = [place for place, name in enumerate(names) if name in before or not only_there]
        records = []
        for place in places:
            name, old = names[place], before.get(names[place])
            text = texts[place] if texts is not None else old.text if old else None
            metadata = dict(old.metadata) if old else {}
            metadata |= (told[place] if told else None) or {}
            records.append(_record(name, text, metadata))
        self._write(records, None if vectors is None else vectors[places])

    def _write(self, records: Sequence[Document], vectors: Vectors | None) -> None:
        if records:
            self.knowledge.upsert(records, vectors=vectors)


def _record(name: str, text: str | None, metadata: Mapping[str, Any] | None) -> Document:
    told = {key: value for key, value in (metadata or {}).items() if value is not None}
    return Document(name, text or "", "whole", metadata=told)


def _listed(values: Any) -> list[str]:
    listed = [values] if isinstance(values, str) else list(values)
    if not all(isinstance(value, str) for value in listed):
        raise ValueError(f"Expected texts, got {listed!r}.")
    return listed


def _joined(where: Where | None, where_document: Mapping[str, Any] | None) -> Where | None:
    """One filter of both; an empty one, which some callers give, is none."""
    parts: list[Where] = [of_metadata(where)] if where else []
    if where_document:
        parts.append({"$document": where_document})
    return {"$and": parts} if len(parts) > 1 else parts[0] if parts else None


def _wanted(include: Sequence[str], known: Sequence[str]) -> set[str]:
    unknown = [name for name in include if name not in known]
    if isinstance(include, str) or unknown:
        raise ValueError(f"include is a list of {', '.join(known)}, got {include!r}.")
    return set(include)


def _told(passages: Sequence[Passage], wanted: set[str]) -> dict[str, list[Any] | None]:
    def listed(name: str, of: Any) -> list[Any] | None:
        return [of(passage) for passage in passages] if name in wanted else None

    return {
        "ids": [passage.source for passage in passages],
        # Chroma has no empty metadata, and a record that was put in without a document has none.
        "documents": listed("documents", lambda passage: passage.text or None),
        "metadatas": listed("metadatas", lambda passage: dict(passage.metadata) or None),
        "distances": listed("distances", lambda passage: 1 - passage.score),
    }
