"""Web pages, written as Markdown: headings, lists, tables, quotations and code stay what they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .document import Document, Unreadable
from .plaintext import decoded, refuse_binary

_INSTALL = "Web pages and Word files need beautifulsoup4 and markdownify: pip install 'vivavoce[documents]'"
_LARGEST = 100 * 2**20  # bytes; the tree in memory takes about ten times as much

# What a reader of the page does not read: programs, pictures, fields of forms, and the way to other pages.
_DROPPED = (
    "script, style, noscript, template, nav, [role=navigation], svg, canvas, iframe, object, audio, video, button, "
    "input, select, textarea, [hidden], [aria-hidden=true], [style*='display:none' i], [style*='display: none' i]"
)
_LANGUAGE = re.compile(r"\b(?:language|lang|highlight-source|highlight)-([\w+#-]+)")
_ANCHOR = re.compile(r"\s*[¶#]\s*")  # the link of a heading to itself
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")


def read_html(data: bytes, source: str) -> Iterator[Document]:
    """Read a web page. Its encoding is that of its byte order mark, or the one it names, or UTF-8.

    Scripts, styles, navigation, forms' fields and what is hidden are left out; of links and emphasis the words stay.

    Yields:
        One document in format ``"markdown"``, with its ``<title>``, its author and language as metadata.

    Raises:
        Unreadable: If it holds no text that a reader would see.
        ImportError: If the `documents` extra is not installed.
    """
    if len(data) > _LARGEST:
        raise Unreadable(f"{len(data) / 2**20:,.0f} MiB are more than a web page can have here: split it")
    try:
        from bs4.dammit import EncodingDetector
    except ImportError as error:
        raise ImportError(_INSTALL) from error

    refuse_binary(data)
    # Without a name, or a byte order mark, any other encoding would be a guess.
    declared = EncodingDetector.find_declared_encoding(data, is_html=True)
    soup = parsed(data if declared else decoded(data))
    html = soup.find("html") or {}
    author = soup.find("meta", {"name": re.compile("author", re.IGNORECASE)}) or {}
    properties = {"author": author.get("content", ""), "language": html.get("lang", "")}
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    if soup.title:
        soup.title.decompose()
    metadata = {key: " ".join(content.split()) for key, content in properties.items() if content.strip()}
    yield Document(source, as_markdown(soup), "markdown", title, metadata)


def as_markdown(soup: Any) -> str:
    """A page as Markdown.

    Args:
        soup: What `parsed` made of it; what is not read is taken out of it.

    Raises:
        Unreadable: If it holds no text, or its elements are nested too deep.
    """
    from bs4.element import ProcessingInstruction

    for element in soup.select(_DROPPED):
        element.decompose()
    for link in soup.find_all("a", string=_ANCHOR):
        if _ANCHOR.fullmatch(link.get_text()):
            link.decompose()
    for instruction in soup.find_all(string=lambda text: isinstance(text, ProcessingInstruction)):
        instruction.extract()
    try:
        text = _converter().convert_soup(soup)
    except RecursionError as error:
        raise Unreadable("its elements are nested too deep") from error
    lines = "\n".join(line.rstrip() for line in text.strip("\n").split("\n"))
    if not lines.strip():
        raise Unreadable("no text in it, only scripts, navigation or pictures")
    return _BLANK_LINES.sub("\n\n", lines).strip("\n") + "\n"


def parsed(page: str | bytes) -> Any:
    """HTML as BeautifulSoup reads it.

    Raises:
        Unreadable: If its elements are nested too deep.
        ImportError: If the `documents` extra is not installed.
    """
    try:
        from bs4 import BeautifulSoup
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    try:
        return BeautifulSoup(page, "html.parser")
    except RecursionError as error:
        raise Unreadable("its elements are nested too deep") from error


def _converter() -> Any:
    try:
        import markdownify
    except ImportError as error:
        raise ImportError(_INSTALL) from error

    base: Any = markdownify.MarkdownConverter  # it has no types

    class Converter(base):  # type: ignore[misc]
        def convert_img(self, element: Any, text: str, parent_tags: set[str]) -> str:
            return str(element.get("alt") or "")

        def convert_summary(self, element: Any, text: str, parent_tags: set[str]) -> str:
            return f"\n\n{text}\n\n"

        def convert_td(self, element: Any, text: str, parent_tags: set[str]) -> str:
            return str(super().convert_td(element, text.replace("|", r"\|"), parent_tags))

        def convert_th(self, element: Any, text: str, parent_tags: set[str]) -> str:
            return str(super().convert_th(element, text.replace("|", r"\|"), parent_tags))

    return Converter(
        heading_style=markdownify.ATX,
        bullets="-",
        strip=["a", "b", "strong", "i", "em"],
        escape_asterisks=False,  # sentences stay as they are read out
        escape_underscores=False,
        code_language_callback=_language,
        table_infer_header=True,
    )


def _language(code: Any) -> str:
    classes = " ".join(name for element in (code, *code.find_all("code")) for name in element.get("class", ()))
    match = _LANGUAGE.search(classes)
    return match[1] if match else ""
