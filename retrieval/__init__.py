"""Finds passages: load a folder, cut it, embed it, search it by meaning and by words.

::

    knowledge = LocalKnowledge.from_folder("handbook", SentenceTransformerEmbedder("all-MiniLM-L6-v2"))
    for passage in knowledge.search("when do you close on sundays"):
        print(passage.score, passage.source, passage.text)
    knowledge.save("handbook.index")

Anything with ``search(query, k)`` is a knowledge base (``KnowledgeBase``); anything with ``embed`` an embedder
(``Embedder``).
"""

from .chunking import Chunk, ChunkOptions, chunk_document
from .collection import Collection
from .dialogue import DialogueOptions, DialogueSearch
from .documents import Document, Entry, Heading, SkippedFile
from .embedding import CenteringEmbedder, Embedder, LLMEmbedder, SentenceTransformerEmbedder
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
from .filters import Where
from .fusion import reciprocal_rank_fusion, weighted_sum
from .index import Hits, VectorIndex
from .instructions import Facet, read_instruction
from .knowledge import Changes, LocalKnowledge, SearchOptions
from .loading import LoadedFolder, load_file, load_folder
from .mentions import Mention, NameFinder
from .passages import KnowledgeBase, Passage
from .rerank import CrossEncoderReranker, LikelihoodReranker, ListwiseReranker, RerankedKnowledge, Reranker
from .store import Manifest, Store, StoreStats, is_index, read_manifest

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
    "chunk_document",
    "is_index",
    "load_file",
    "load_folder",
    "read_instruction",
    "read_manifest",
    "reciprocal_rank_fusion",
    "weighted_sum",
]
