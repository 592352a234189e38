"""Passages, and the protocol of a knowledge base that finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document that may hold the answer.

    Attributes:
        id: Stable name of the passage: the same text of the same source has the same id in every index.
        text: The words, verbatim as they stand in the source.
        source: Where it comes from: for a folder, the file's path inside it with forward slashes.
        score: How well it fits, higher is better. Comparable within one search; what it means is up to the knowledge
            base (``LocalKnowledge.search`` says what it means there).
        heading: Headings above it, outermost first, joined by `` > ``, without the page's title.
        title: Title of the page.
        metadata: Its owner's metadata (plain JSON values).
        similarity: Cosine of query and passage in [-1, 1]; None where the knowledge base does not compare meanings.
        coverage: Share in [0, 1) of the question's words, the rare ones counting most, that the passage speaks of; None
            where the knowledge base does not look for words.
        span: Where ``text`` stands in the source, in characters: ``source_text[span[0]:span[1]] == text``.
        body_start: How many characters of ``text`` the headings that open it take.
        page: Number of the page that it begins on, from 1; None if its document has no pages.
    """

    id: str
    text: str
    source: str
    score: float = 0.0
    heading: str = ""
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    similarity: float | None = None
    coverage: float | None = None
    span: tuple[int, int] | None = None
    body_start: int = 0
    page: int | None = None

    @property
    def breadcrumb(self) -> str:
        """Title and headings in one line, such as ``"Opening hours > Weekend"``; empty if there are none."""
        return " > ".join(part for part in (self.title, self.heading) if part)

    @property
    def in_context(self) -> str:
        """The text below its title and headings in one line: what a reader needs who sees nothing else of the page."""
        body = self.text[self.body_start :]
        return f"{self.breadcrumb}\n{body}" if self.breadcrumb else body


@runtime_checkable
class KnowledgeBase(Protocol):
    """Anything that finds passages for a question; this one method is enough."""

    def search(self, query: str, k: int = 5) -> Sequence[Passage]:
        """Find passages for a question.

        Args:
            query: The question, in plain words. Any text is allowed.
            k: How many passages at most, at least 1.

        Returns:
            Up to ``k`` passages, best first. Empty means that nothing was found.

        Raises:
            Exception: If it could not look. An empty result never stands for a failure.
        """
        ...
