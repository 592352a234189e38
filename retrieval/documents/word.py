"""Word files (DOCX), written as Markdown by way of HTML."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

from .document import Document, Unreadable
from .webpage import as_markdown, parsed

_LARGEST = 500 * 2**20  # bytes that it may unpack to
_STYLES = """
p[style-name='Title'] => h1.title:fresh
p[style-name='Subtitle'] => p:fresh
p[style-name='Code'] => pre:separator('\\n')
p[style-name='HTML Preformatted'] => pre:separator('\\n')
p[style-name='Quote'] => blockquote > p:fresh
p[style-name='Intense Quote'] => blockquote > p:fresh
"""


def read_docx(data: bytes, source: str) -> Iterator[Document]:
    """Read a Word file: headings by style, lists, tables, footnotes; without comments and deletions.

    Yields:
        One document in format ``"markdown"``; its title is the first paragraph in the style of one.

    Raises:
        Unreadable: If it is no Word file, is damaged or asks for a password, or holds no text.
        ImportError: If the `documents` extra is not installed.
    """
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise Unreadable("encrypted, or of the old format .doc: save it as .docx without a password")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except Exception as error:  # zipfile believes most of what a damaged archive says of itself
        raise Unreadable("not a DOCX file, or damaged: it is no ZIP archive") from error
    if size > _LARGEST:
        raise Unreadable(f"it unpacks to more than the {_LARGEST / 2**20:.0f} MiB that are read: split it")
    try:
        import mammoth
    except ImportError as error:
        raise ImportError("Word files need the package mammoth: pip install 'vivavoce[documents]'") from error

    try:
        html = mammoth.convert_to_html(
            io.BytesIO(data), style_map=_STYLES, convert_image=mammoth.images.img_element(lambda _: {"src": ""})
        ).value
    except Exception as error:  # of a damaged file anything may be of the wrong type
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise Unreadable(f"damaged, or not a Word file ({detail})") from error
    if not html:
        raise Unreadable("empty: no text in it")
    soup = parsed(html)
    title = soup.select_one("h1.title")
    yield Document(source, as_markdown(soup), "markdown", " ".join(title.get_text().split()) if title else "")
