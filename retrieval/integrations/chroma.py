"""A Chroma collection as a knowledge base: an existing collection is searched where it is.

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
from ..query.query import Query, check_k, searchable

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
            collection: The collection to search, of any client.
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
        dimension = collection.get_model().dimension
        if embedder is not None and dimension is not None and dimension != embedder.dim:
            raise DimensionMismatch(_mismatch(collection.name, f"{embedder.dim} instead of {dimension} numbers"))
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
            available = ", ".join(sorted(collection.name for collection in client.list_collections())) or "none"
            client.close()
            raise IndexNotFound(f"There is no collection {name!r} in {str(path)!r}; there is: {available}.") from error
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
        check_k(k)
        if self._closed:
            raise StoreError("This knowledge base is closed: open it again.")
        checked = None if where is None else _checked_filter(where)
        words = searchable(query)
        if not words:
            return ()
        query_arguments: dict[str, Any] = {"query_texts": [words]}
        if self._embedder is not None:
            query_arguments = {"query_embeddings": self._embedder.embed([words], kind="query")}
        n_results = k
        while True:
            records = self._query(query_arguments, n_results, checked)
            passages = [
                self._passage(name, document, metadata, distance)
                for name, document, metadata, distance in records
                if document and document.strip()
            ]
            if len(passages) >= k or len(records) < n_results:
                return tuple(passages[:k])
            n_results *= 2  # some had no document

    def search_query(self, query: Query, k: int = 5) -> tuple[Passage, ...]:
        """Find passages for the likeliest reading of a query; its filter is handed to Chroma, its history left aside.

        Raises:
            ValueError: If the query has an instruction or boosts; else as ``search``.
        """
        query.check_supported(self, "where")
        return self.search(query.text, k, where=query.where)

    def close(self) -> None:
        """Close the files, if ``open`` opened them. The knowledge base cannot be used afterwards."""
        self._closed = True
        if self._client is not None:
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _query(
        self, query_arguments: Mapping[str, Any], n_results: int, where: Any
    ) -> list[tuple[str, str | None, Mapping[str, Any] | None, float]]:
        """Id, document, metadata and distance of the nearest records."""
        from chromadb.errors import ChromaError

        try:
            result: Any = self._collection.query(**query_arguments, n_results=n_results, where=where)
        except ChromaError as error:
            raise _search_error(error, self._collection.name, where) from error
        return [*zip(*(result[key][0] for key in ("ids", "documents", "metadatas", "distances")), strict=True)]

    def _passage(self, name: str, document: str, stored: Mapping[str, Any] | None, distance: float) -> Passage:
        metadata = dict(stored or {})
        source, title, heading = (str(metadata.pop(key, "") or "") for key in ("source", "title", "heading"))
        score = 1 - distance / 2 if self._space == "l2" else 1 - distance
        # Rounding takes the cosine of equal vectors past 1.
        similarity = max(-1.0, min(1.0, score)) if self._space == "cosine" else None
        return Passage(name, document, source or name, score, heading, title, metadata, similarity)


def _space(collection: Collection) -> str:
    configuration = collection.configuration_json
    # The index of Chroma on this machine, or that of its cloud.
    return str((configuration.get("hnsw") or configuration.get("spann") or {}).get("space", "l2"))


def _check_function(collection: Collection) -> None:
    """Refuse a collection that cannot embed a question, or would download a model to do so."""
    from chromadb.utils.embedding_functions import DefaultEmbeddingFunction, ONNXMiniLM_L6_V2

    # The client's function counts, unless it is the default: then the one in the collection's configuration does.
    function: Any = collection._embedding_function
    configured = (collection.configuration_json.get("embedding_function") or {}).get("name")
    if configured is not None and (function is None or isinstance(function, DefaultEmbeddingFunction)):
        try:
            function = collection.configuration["embedding_function"]
        except ValueError as error:  # another process registered it, or its package or key is not here
            raise EmbeddingError(f"Collection {collection.name!r} cannot embed ({error}): {_REMEDY}.") from error
    if function is None:
        raise EmbeddingError(f"Collection {collection.name!r} has no embedding function: {_REMEDY}.")
    # Chroma downloads an archive and then unpacks it: where the model is, nothing is missing.
    folder = ONNXMiniLM_L6_V2.DOWNLOAD_PATH / ONNXMiniLM_L6_V2.EXTRACTED_FOLDER_NAME
    if isinstance(function, DefaultEmbeddingFunction | ONNXMiniLM_L6_V2) and not (folder / "model.onnx").is_file():
        raise EmbeddingError(
            f"Collection {collection.name!r} would embed with Chroma's default model, which is not in {folder} and "
            f"would be downloaded: {_REMEDY}; for that model it is SentenceTransformerEmbedder('all-MiniLM-L6-v2')."
        )


def _checked_filter(where: Where) -> dict[str, Any]:
    from chromadb.api.types import validate_where

    plain = dict(where) if isinstance(where, Mapping) else where
    try:
        validate_where(plain)
    except ValueError as error:
        raise _filter_error(where, error) from error
    return plain


def _filter_error(where: Any, error: Exception) -> ValueError:
    return ValueError(
        f"Chroma does not take the filter {where!r} ({error}). It takes one condition, or several joined by $and or "
        "$or, knows neither $not nor $exists, and compares only numbers by $gt, $gte, $lt and $lte."
    )


def _search_error(error: Exception, name: str, where: Any) -> Exception:
    from chromadb.errors import InvalidArgumentError, NotFoundError

    if isinstance(error, NotFoundError):
        return IndexNotFound(f"Collection {name!r} is no longer there: open it again, or another one.")
    if isinstance(error, InvalidArgumentError) and "dimension" in str(error):
        return DimensionMismatch(_mismatch(name, str(error)))
    if isinstance(error, InvalidArgumentError) and where is not None:
        return _filter_error(where, error)
    return StoreError(f"Chroma could not search collection {name!r}: {error}.", stage="retrieve")


def _mismatch(name: str, what: str) -> str:
    return f"The question's vector does not fit collection {name!r} ({what}): {_REMEDY}."
