"""Finds passages: load a folder, cut it, embed it, search it by meaning and by words.

::

    knowledge = LocalKnowledge.from_folder("handbook", SentenceTransformerEmbedder("all-MiniLM-L6-v2"))
    for passage in knowledge.search("when do you close on sundays"):
        print(passage.score, passage.source, passage.text)
    knowledge.save("handbook.index")

Anything with ``search(text, k)`` is a knowledge base (``KnowledgeBase``); one with ``search_query(query, k)`` takes the
question whole: all its readings, what was said before, filters (``Query``). Anything with ``embed`` is an embedder
(``Embedder``).
"""

from .documents.chunking import Chunk, ChunkOptions, chunk_document
from .documents.document import Document, Entry, Heading, SkippedFile
from .documents.loading import LoadedFolder, load_file, load_folder
from .embedding.embedder import CenteringEmbedder, Embedder, SentenceTransformerEmbedder
from .embedding.llm import LLMEmbedder
from .errors import (
    DeviceUnavailable,
    DimensionMismatch,
    EmbedderMismatch,
    EmbeddingError,
    IndexCorrupt,
    IndexNotFound,
    InstructionNotUnderstood,
    LoadingError,
    RetrievalError,
    StoreError,
)
from .index.folder import Manifest, is_index, read_manifest
from .index.store import Store, StoreStats
from .index.vectors import Hits, VectorIndex
from .integrations.collection import Collection
from .passages import KnowledgeBase, Passage
from .query.filters import Where
from .query.instructions import Facet, read_instruction
from .query.mentions import Mention, NameFinder
from .query.query import PlainKnowledge, Query, QueryKnowledge, as_query_knowledge
from .search.dialogue import DialogueOptions, DialogueSearch
from .search.fusion import reciprocal_rank_fusion, weighted_sum
from .search.knowledge import Changes, LocalKnowledge
from .search.options import SearchOptions
from .search.rerank import CrossEncoderReranker, LikelihoodReranker, ListwiseReranker, RerankedKnowledge, Reranker

__all__ = [
    "CenteringEmbedder",
    "Changes",
    "Chunk",
    "ChunkOptions",
    "Collection",
    "CrossEncoderReranker",
    "DeviceUnavailable",
    "DialogueOptions",
    "DialogueSearch",
    "DimensionMismatch",
    "Document",
    "Embedder",
    "EmbedderMismatch",
    "EmbeddingError",
    "Entry",
    "Facet",
    "Heading",
    "Hits",
    "IndexCorrupt",
    "IndexNotFound",
    "InstructionNotUnderstood",
    "KnowledgeBase",
    "LLMEmbedder",
    "LikelihoodReranker",
    "ListwiseReranker",
    "LoadedFolder",
    "LoadingError",
    "LocalKnowledge",
    "Manifest",
    "Mention",
    "NameFinder",
    "Passage",
    "PlainKnowledge",
    "Query",
    "QueryKnowledge",
    "RerankedKnowledge",
    "Reranker",
    "RetrievalError",
    "SearchOptions",
    "SentenceTransformerEmbedder",
    "SkippedFile",
    "Store",
    "StoreError",
    "StoreStats",
    "VectorIndex",
    "Where",
    "as_query_knowledge",
    "chunk_document",
    "is_index",
    "load_file",
    "load_folder",
    "read_instruction",
    "read_manifest",
    "reciprocal_rank_fusion",
    "weighted_sum",
]
