"""A Chroma collection as a knowledge base: what somebody has embedded already is asked where it lies.

::

    knowledge = ChromaKnowledge.open("chroma", "handbook", embedder=embedder)     # VoiceAgent.load(knowledge) asks it
    knowledge = ChromaKnowledge(client.get_collection("handbook"))                # embeds as the collection does
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from ..embedding.embedder import Embedder
from ..errors import DimensionMismatch, EmbeddingError, IndexNotFound, StoreError
from ..passages import Passage
from ..query.filters import Where
from ..query.query import Query

if TYPE_CHECKING:
    from chromadb import Collection
    from chromadb.api.client import Client

_DATABASE = "chroma.sqlite3"
_REMEDY = "give the embedder that its vectors were made with"


class ChromaKnowledge:
    """A knowledge base that asks a collection of chromadb.

    As thread-safe as the embedder: chromadb answers several threads at once.
    """

    def __init__(self, collection: Collection, *, embedder: Embedder | None = None) -> None:
        """Wrap a collection.

        Args:
            collection: What is asked, of any client.
            embedder: Embeds the questions; the one that the collection's vectors were made with. By default Chroma
                does, with the collection's own embedding function. Its default function downloads a model when it is
                first used: here it is only used where that model is on disk already.

        Raises:
            EmbeddingError: If there is no embedder, and the collection's embedding function is missing, cannot be made
                here, or is the default one, whose model is not on disk.
            DimensionMismatch: If the embedder's vectors are of another length than the collection's.
        """
        if embedder is None:
            _check_function(collection)
        held = collection.get_model().dimension
        if embedder is not None and held is not None and held != embedder.dim:
            raise DimensionMismatch(_mismatch(collection.name, f"{embedder.dim} instead of {held} numbers"))
        self._collection = collection
        self._embedder = embedder
        self._space = _space(collection)
        self._client: Client | None = None
        self._closed = False

    @classmethod
    def open(cls, path: str | Path, name: str, *, embedder: Embedder | None = None) -> Self:
        """Open a collection on disk, without telemetry.

        What is written later by another process, or by a client that spells the path otherwise, is not found until the
        collection is opened again. Where this process has a client for the folder, with other settings than these,
        Chroma refuses a second one: wrap that client's collection instead.

        Args:
            path: The folder of a persistent client; nothing is made there.
            name: Name of the collection.
            embedder: Embeds the questions; see ``ChromaKnowledge``.

        Raises:
            ImportError: If chromadb is not installed.
            IndexNotFound: If there is no database in that folder, or no such collection in it.
            StoreError: If Chroma cannot open the database.
            EmbeddingError: As for ``ChromaKnowledge``, and so is ``DimensionMismatch``.
        """
        try:
            import chromadb
            from chromadb.config import Settings
            from chromadb.errors import ChromaError, NotFoundError
        except ImportError as error:
            raise ImportError(
                "A Chroma collection needs the package chromadb: pip install 'vivavoce[chroma]'"
            ) from error
        if not (Path(path) / _DATABASE).is_file():  # a client would make one
            raise IndexNotFound(f"There is no Chroma database in {str(path)!r}: give the folder that has {_DATABASE}.")
        try:
            settings = Settings(anonymized_telemetry=False)
            client = cast("Client", chromadb.PersistentClient(str(path), settings))
        except (ChromaError, ValueError) as error:
            raise StoreError(
                f"Chroma cannot open {str(path)!r} ({error}). If this process has a client for it, give "
                "ChromaKnowledge a collection of that client."
            ) from error
        try:
            knowledge = cls(client.get_collection(name), embedder=embedder)
        except NotFoundError as error:
            there = ", ".join(sorted(one.name for one in client.list_collections())) or "none"
            client.close()
            raise IndexNotFound(f"There is no collection {name!r} in {str(path)!r}; there is: {there}.") from error
        except BaseException:
            client.close()
            raise
        knowledge._client = client
        return knowledge

    def search(self, query: str, k: int = 5, *, where: Where | None = None) -> tuple[Passage, ...]:
        """Find passages for a question; see ``KnowledgeBase.search``.

        Args:
            query: What was asked.
            k: How many passages at most. Records without a document are passed over.
            where: Only records whose metadata this holds for; handed to Chroma as it is. Unlike ``LocalKnowledge``,
                Chroma takes one condition per filter (``$and`` and ``$or`` join two or more), has neither ``$not`` nor
                ``$exists``, compares only numbers by size, and only one kind of value by ``$in``. Lists are searched by
                ``$contains`` alone, and ``source`` and ``title`` are keys only where the metadata has them.

        Returns:
            Passages, best first. ``score`` is the cosine in a collection of space ``cosine``, where it is the
            ``similarity`` too, and the inner product in one of space ``ip``. In one of space ``l2`` it is one minus
            half the squared distance: the cosine, if all vectors are of unit length. ``source``, ``title`` and
            ``heading`` are what the metadata has under these keys; without a source, it is the id.

        Raises:
            ValueError: If ``k`` is less than 1, or the filter is one that Chroma does not take.
            DimensionMismatch: If the question's vector is of another length than the collection's.
            IndexNotFound: If the collection was deleted meanwhile.
            StoreError: If Chroma could not look, or this knowledge base is closed.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        if self._closed:
            raise StoreError("This knowledge base is closed: open it again.")
        chosen = None if where is None else _checked(where)
        # Half of a surrogate pair is no text to a tokenizer.
        words = query.encode("utf-8", "replace").decode()
        if not any(map(str.isalnum, words)):
            return ()
        asked: dict[str, Any] = {"query_texts": [words]}
        if self._embedder is not None:
            asked = {"query_embeddings": self._embedder.embed([words], kind="query")}
        many = k
        while True:
            records = self._query(asked, many, chosen)
            found = [
                self._passage(name, document, metadata, distance)
                for name, document, metadata, distance in records
                if document and document.strip()
            ]
            if len(found) >= k or len(records) < many:
                return tuple(found[:k])
            many *= 2  # some had no document

    def search_query(self, query: Query, k: int = 5) -> tuple[Passage, ...]:
        """Find passages for the likeliest reading of a query; its filter is handed to Chroma, its history left aside.

        Raises:
            ValueError: If the query has an instruction or boosts; else as ``search``.
        """
        query.check_supported(self, "where")
        return self.search(query.text, k, where=query.where)

    def close(self) -> None:
        """Let go of the files, if ``open`` opened them. The knowledge base is of no use afterwards."""
        self._closed = True
        if self._client is not None:
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _query(
        self, asked: Mapping[str, Any], many: int, where: Any
    ) -> list[tuple[str, str | None, Mapping[str, Any] | None, float]]:
        """Id, document, metadata and distance of the nearest records."""
        from chromadb.errors import ChromaError

        try:
            found: Any = self._collection.query(**asked, n_results=many, where=where)
        except ChromaError as error:
            raise _translated(error, self._collection.name, where) from error
        return [*zip(*(found[key][0] for key in ("ids", "documents", "metadatas", "distances")), strict=True)]

    def _passage(self, name: str, document: str, told: Mapping[str, Any] | None, distance: float) -> Passage:
        metadata = dict(told or {})
        source, title, heading = (str(metadata.pop(key, "") or "") for key in ("source", "title", "heading"))
        score = 1 - distance / 2 if self._space == "l2" else 1 - distance
        # Rounding takes the cosine of equal vectors past 1.
        similarity = max(-1.0, min(1.0, score)) if self._space == "cosine" else None
        return Passage(name, document, source or name, score, heading, title, metadata, similarity)


def _space(collection: Collection) -> str:
    told = collection.configuration_json
    # The index of Chroma on this machine, or that of its cloud.
    return str((told.get("hnsw") or told.get("spann") or {}).get("space", "l2"))


def _check_function(collection: Collection) -> None:
    """Refuse a collection that cannot embed a question, or would download a model to do so."""
    from chromadb.utils.embedding_functions import DefaultEmbeddingFunction, ONNXMiniLM_L6_V2

    # What the client was given counts, unless it is the default: then what the collection was made with does.
    given: Any = collection._embedding_function
    made = (collection.configuration_json.get("embedding_function") or {}).get("name")
    if made is not None and (given is None or isinstance(given, DefaultEmbeddingFunction)):
        try:
            given = collection.configuration["embedding_function"]
        except ValueError as error:  # another process registered it, or its package or key is not here
            raise EmbeddingError(f"Collection {collection.name!r} cannot embed ({error}): {_REMEDY}.") from error
    if given is None:
        raise EmbeddingError(f"Collection {collection.name!r} has no embedding function: {_REMEDY}.")
    # Chroma downloads an archive and then unpacks it: where the model is, nothing is missing.
    folder = ONNXMiniLM_L6_V2.DOWNLOAD_PATH / ONNXMiniLM_L6_V2.EXTRACTED_FOLDER_NAME
    if isinstance(given, DefaultEmbeddingFunction | ONNXMiniLM_L6_V2) and not (folder / "model.onnx").is_file():
        raise EmbeddingError(
            f"Collection {collection.name!r} would embed with Chroma's default model, which is not in {folder} and "
            f"would be downloaded: {_REMEDY}; for that model it is SentenceTransformerEmbedder('all-MiniLM-L6-v2')."
        )


def _checked(where: Where) -> dict[str, Any]:
    from chromadb.api.types import validate_where

    chosen = dict(where) if isinstance(where, Mapping) else where
    try:
        validate_where(chosen)
    except ValueError as error:
        raise _refused(where, error) from error
    return chosen


def _refused(where: Any, error: Exception) -> ValueError:
    return ValueError(
        f"Chroma does not take the filter {where!r} ({error}). It takes one condition, or several joined by $and or "
        "$or, knows neither $not nor $exists, and compares only numbers by $gt, $gte, $lt and $lte."
    )


def _translated(error: Exception, name: str, where: Any) -> Exception:
    from chromadb.errors import InvalidArgumentError, NotFoundError

    if isinstance(error, NotFoundError):
        return IndexNotFound(f"Collection {name!r} is no longer there: open it again, or another one.")
    if isinstance(error, InvalidArgumentError) and "dimension" in str(error):
        return DimensionMismatch(_mismatch(name, str(error)))
    if isinstance(error, InvalidArgumentError) and where is not None:
        return _refused(where, error)
    return StoreError(f"Chroma could not search collection {name!r}: {error}.", stage="retrieve")


def _mismatch(name: str, what: str) -> str:
    return f"The question's vector does not fit collection {name!r} ({what}): {_REMEDY}."
