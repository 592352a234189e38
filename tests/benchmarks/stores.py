"""The vector stores that `retrieval` compares, behind the same calls; one process uses one of them.

Each writes into a folder, is given the documents `passage {i} of the corpus` with the metadata `{"group": i % 100}` and
their vectors, and answers with the numbers of the documents. What is imported is imported before the clock runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
GROUPS = 100
K = 10


class Store(Protocol):
    """One of the systems.

    Attributes:
        name: Its column in the table.
        package: The distribution that it comes with.
        module: What is imported of it.
        setting: What its recall is raised with; empty if there is nothing to set.
        values: The values of it that are tried until the recall is enough, its default first.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    module: ClassVar[str]
    setting: ClassVar[str]
    values: ClassVar[Sequence[int]]

    def create(self) -> None:
        """Begin an empty one."""

    def add(self, first: int, vectors: Vectors) -> None:
        """Add the documents from number `first` on, one a vector."""

    def keep(self) -> None:
        """Write what `add` has not written yet."""

    def tune(self, value: int) -> None:
        """Set `setting` where it counts from the next opening on."""

    def open(self) -> None:
        """Read it from its folder."""

    def ask(self, vector: Vectors, group: int | None, value: int) -> list[int]:
        """Numbers of the nearest documents, of this group or of all."""

    def close(self) -> None:
        """Let go of the files."""


class Vivavoce:
    name, package, module, setting, values = "ours", "vivavoce", "vivavoce.retrieval", "", (0,)

    def __init__(self, folder: Path, dim: int) -> None:
        self._retrieval = importlib.import_module(self.module)
        importlib.import_module("faiss")
        self._folder, self._given = folder / "index", _Given(dim)
        self._options = self._retrieval.SearchOptions(channels=("dense",))
        self._knowledge: Any = None

    def create(self) -> None:
        self._knowledge = self._retrieval.LocalKnowledge.create(self._folder, self._given)

    def add(self, first: int, vectors: Vectors) -> None:
        make = self._retrieval.Document
        self._knowledge.upsert(
            [make(f"d{i}", text(i), "text", metadata=metadata(i)) for i in range(first, first + len(vectors))],
            vectors=vectors,
        )

    def keep(self) -> None:
        pass

    def tune(self, value: int) -> None:
        pass

    def open(self) -> None:
        self._knowledge = self._retrieval.LocalKnowledge.open(self._folder, self._given)

    def ask(self, vector: Vectors, group: int | None, value: int) -> list[int]:
        self._given.next = vector[None]
        where = None if group is None else {"group": group}
        return [int(found.source[1:]) for found in self._knowledge.search("q", K, where=where, options=self._options)]

    def close(self) -> None:
        self._knowledge.close()


class VivavoceInt8(Vivavoce):
    name = "ours, int8"

    def create(self) -> None:
        super().create()
        self.close()
        self.open()

    def open(self) -> None:
        self._knowledge = self._retrieval.LocalKnowledge.open(self._folder, self._given, precision="int8")


class _Given:
    """An embedder that is told the vector of the next question."""

    name, fingerprint = "given", "given"

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.next = np.zeros((1, dim), np.float32)

    def embed(self, texts: Sequence[str], *, kind: str = "passage") -> Vectors:
        assert len(texts) == 1
        return self.next


class Chroma:
    name, package, module = "chromadb", "chromadb", "chromadb"
    setting, values = "ef_search", (100, 200, 400, 800, 1600)
    _BATCH = 5_000  # it takes 5,461 at most

    def __init__(self, folder: Path, dim: int) -> None:
        self._chromadb = importlib.import_module(self.module)
        self._folder = folder / "client"
        self._client: Any = None
        self._collection: Any = None

    def create(self) -> None:
        self._connect()
        self._collection = self._client.create_collection(
            "passages", embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
        )

    def add(self, first: int, vectors: Vectors) -> None:
        for begin in range(0, len(vectors), self._BATCH):
            part = vectors[begin : begin + self._BATCH]
            numbers = range(first + begin, first + begin + len(part))
            self._collection.add(
                ids=[f"d{i}" for i in numbers],
                documents=[text(i) for i in numbers],
                embeddings=part,
                metadatas=[metadata(i) for i in numbers],
            )

    def keep(self) -> None:
        pass

    def tune(self, value: int) -> None:
        self.open()
        if self._collection.configuration["hnsw"]["ef_search"] != value:
            self._collection.modify(configuration={"hnsw": {"ef_search": value}})
        self.close()

    def open(self) -> None:
        self._connect()
        self._collection = self._client.get_collection("passages", embedding_function=None)

    def ask(self, vector: Vectors, group: int | None, value: int) -> list[int]:
        where = None if group is None else {"group": group}
        found = self._collection.query(query_embeddings=vector[None], n_results=K, where=where)
        return [int(name[1:]) for name in found["ids"][0]]

    def close(self) -> None:
        self._client.close()

    def _connect(self) -> None:
        settings = self._chromadb.config.Settings(anonymized_telemetry=False)
        self._client = self._chromadb.PersistentClient(str(self._folder), settings=settings)


class LangChainFaiss:
    name, package, module = "LangChain's FAISS", "langchain-community", "langchain_community.vectorstores.faiss"
    # How many of the nearest it looks at when it filters.
    setting, values = "fetch_k", (20, 1_000, 2_000, 4_000, 8_000)

    def __init__(self, folder: Path, dim: int) -> None:
        self._class = importlib.import_module(self.module).FAISS
        importlib.import_module("faiss")
        self._embeddings = _no_embeddings()
        self._folder = folder / "store"
        self._store: Any = None

    def create(self) -> None:
        self._store = None

    def add(self, first: int, vectors: Vectors) -> None:
        numbers = range(first, first + len(vectors))
        pairs = [(text(i), vector) for i, vector in zip(numbers, vectors, strict=True)]
        about = {"metadatas": [metadata(i) for i in numbers], "ids": [f"d{i}" for i in numbers]}
        if self._store is None:
            self._store = self._class.from_embeddings(
                pairs, self._embeddings, distance_strategy="MAX_INNER_PRODUCT", **about
            )
        else:
            self._store.add_embeddings(pairs, **about)

    def keep(self) -> None:
        self._store.save_local(str(self._folder))

    def tune(self, value: int) -> None:
        pass

    def open(self) -> None:
        self._store = self._class.load_local(
            str(self._folder),
            self._embeddings,
            allow_dangerous_deserialization=True,
            distance_strategy="MAX_INNER_PRODUCT",
        )

    def ask(self, vector: Vectors, group: int | None, value: int) -> list[int]:
        where = None if group is None else {"group": group}
        found = self._store.similarity_search_with_score_by_vector(vector, k=K, filter=where, fetch_k=value)
        return [int(document.id[1:]) for document, _ in found]

    def close(self) -> None:
        pass


def _no_embeddings() -> Any:
    """What LangChain wants to be given, although all vectors are there."""
    from langchain_core.embeddings import Embeddings

    class Absent(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            raise NotImplementedError

        def embed_query(self, text: str) -> list[float]:
            raise NotImplementedError

    return Absent()


STORES: dict[str, type[Any]] = {one.name: one for one in (Vivavoce, VivavoceInt8, Chroma, LangChainFaiss)}


def text(number: int) -> str:
    return f"passage {number} of the corpus"


def metadata(number: int) -> dict[str, int]:
    return {"group": number % GROUPS}
