"""Both ways to LangChain: any of its retrievers is a knowledge base, and any knowledge base is a retriever.

::

    knowledge = LangChainKnowledge(vector_store.as_retriever())      # VoiceAgent.load(knowledge) asks it
    retriever = KnowledgeRetriever(knowledge=LocalKnowledge.open(...), k=4)   # chain = retriever | prompt | model
"""

from __future__ import annotations

import hashlib
from typing import Any

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.vectorstores import VectorStore
except ImportError as error:
    raise ImportError("LangChain's retrievers need langchain-core: pip install 'vivavoce[langchain]'") from error

from ..passages import Passage
from ..query.query import Query, as_query_knowledge


class LangChainKnowledge:
    """A knowledge base that asks a LangChain retriever, or a vector store.

    As thread-safe as what it asks.
    """

    def __init__(self, retriever: BaseRetriever | VectorStore, *, name: str = "langchain") -> None:
        """Wrap a retriever.

        Args:
            retriever: What is asked; of a vector store, its similarity search.
            name: Source of documents whose metadata has no ``source``.
        """
        self._retriever = retriever.as_retriever() if isinstance(retriever, VectorStore) else retriever
        self._name = name

    def search(self, query: str, k: int = 5) -> tuple[Passage, ...]:
        """Find passages for a question; see ``KnowledgeBase.search``.

        LangChain's retrievers give no scores, so ``score`` is 1 for the first passage, 1/2 for the second, and so on.
        Documents without an id are named by source and content; of copies, the first is kept.

        Raises:
            ValueError: If ``k`` is less than 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        # Half of a surrogate pair is no text to a tokenizer.
        words = query.encode("utf-8", "replace").decode()
        if not any(map(str.isalnum, words)):
            return ()
        # A retriever that takes no k gives as many as it likes.
        documents = self._retriever.invoke(words, k=k)
        found: dict[str, Passage] = {}
        for document in documents:
            passage = self._passage(document, 1 / (1 + len(found)))
            if passage.text.strip():
                found.setdefault(passage.id, passage)
        return tuple(found.values())[:k]

    def search_query(self, query: Query, k: int = 5) -> tuple[Passage, ...]:
        """Find passages for the likeliest reading of a query, without its history.

        Raises:
            ValueError: If the query has a filter, an instruction or boosts, which retrievers do not take alike; or if
                ``k`` is less than 1.
        """
        query.check_supported(self)
        return self.search(query.text, k)

    def _passage(self, document: Document, score: float) -> Passage:
        metadata = {str(key): value for key, value in document.metadata.items()}
        source = str(metadata.pop("source", "") or self._name)
        name = document.id or hashlib.sha256(f"{source}\0{document.page_content}".encode()).hexdigest()[:16]
        title, heading = (str(metadata.pop(key, "") or "") for key in ("title", "heading"))
        return Passage(name, document.page_content, source, score, heading, title, metadata)


class KnowledgeRetriever(BaseRetriever):
    """A LangChain retriever that asks a knowledge base.

    Attributes:
        knowledge: Any knowledge base.
        k: How many passages at most; ``invoke(query, k=3)`` asks for another number once.
    """

    knowledge: Any
    k: int = 5

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        passages = as_query_knowledge(self.knowledge).search_query(Query.of(query), self.k if k is None else k)
        return [_document(passage) for passage in passages]


def _document(passage: Passage) -> Document:
    told = {"source": passage.source, "title": passage.title, "heading": passage.heading, "score": passage.score}
    return Document(
        passage.text,
        id=passage.id,
        metadata={**passage.metadata, **{key: value for key, value in told.items() if value}},
    )
