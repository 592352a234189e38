"""PDF files: the text of their pages, under the headings of their bookmarks."""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .document import Document, Heading, SkippedFile, Unreadable

if TYPE_CHECKING:
    from pypdf import PdfReader

_HYPHEN = re.compile(r"(\w+)[-\u00ad\u2010]\n(?=[^\W\d_A-Z])(\w+)")
_LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st"}
_SENTENCE_CLOSED = re.compile(r"[.!?:;…。！？][\"'”’)\]」』]*\s*\Z")
_NO_TITLE = re.compile(
    r"untitled|microsoft \w+ - .*|.*\.(?:docx?|pdf|indd|tex|dvi|odt|pptx?|xlsx?|qxd|html?)", re.IGNORECASE
)
_NUMBERED = re.compile(r"(?:(?:chapter|section|part|appendix)\s+)?(?:\d[\d.]*|[A-Z]|[IVX]+)[.:)]?\s+", re.IGNORECASE)
_MIN_RUNNING_PAGES = 3  # a line that heads or ends this many pages, and more than half of all, is a running head


def read_pdf(data: bytes, source: str) -> Iterator[Document | SkippedFile]:
    """Read a PDF file.

    Words that are broken at the end of a line are put together, and running heads are kept where they come first.
    Pages that hold pictures and no text, and pages that cannot be read, are yielded as skipped.

    Yields:
        One document in format ``"text"``, with ``pages``, its bookmarks as ``outline``, and its author as metadata.

    Raises:
        Unreadable: If it is no PDF file, asks for a password, or holds no text.
        ImportError: If the `documents` extra is not installed.
    """
    if b"%PDF-" not in data[:1024]:
        raise Unreadable("not a PDF file, whatever its name says")
    with _quiet():
        reader = _open(data)
        texts, broken, pictures = _pages(reader)
        if not any(texts):
            raise Unreadable(_no_text(len(texts), broken, pictures))
        text, pages = _joined(texts)
        outline = _outline(reader, text, pages)
        title, author = _info(reader, "title"), _info(reader, "author")
    if _NO_TITLE.fullmatch(title):
        title = ""
    yield Document(source, text, "text", title, {"author": author} if author else {}, pages, outline)
    if pictures:
        detail = f"no text on {_ranges(pictures)}, only pictures: scanned, perhaps, and needs OCR"
        yield SkippedFile(f"{source}#page={pictures[0]}", detail)
    for number, reason in broken.items():
        yield SkippedFile(f"{source}#page={number}", f"page {number} is damaged ({reason})")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep pypdf from logging each flaw that it puts right by itself."""
    logger = logging.getLogger("pypdf")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _open(data: bytes) -> PdfReader:
    try:
        from pypdf import PasswordType, PdfReader
        from pypdf.errors import DependencyError
    except ImportError as error:
        raise ImportError("PDF files need the package pypdf: pip install 'vivavoce[documents]'") from error

    try:
        reader = PdfReader(io.BytesIO(data))
        # Many files that anybody may read are encrypted with an empty password.
        if reader.is_encrypted and reader.decrypt("") is PasswordType.NOT_DECRYPTED:
            raise Unreadable("encrypted: save it without its password")
        if not len(reader.pages):
            raise Unreadable("no pages in it")
    except Unreadable:
        raise
    except DependencyError as error:
        raise Unreadable("encrypted with AES: pip install 'vivavoce[documents]' to read it") from error
    except Exception as error:  # of a damaged file anything may be of the wrong type
        raise Unreadable(f"damaged ({_reason(error)})") from error
    return reader


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".rstrip(": ").split())[:120]


def _pages(reader: PdfReader) -> tuple[list[str], dict[int, str], list[int]]:
    """The text of each page; why pages could not be read, by number; the numbers of those that hold pictures alone."""
    texts: list[str] = []
    broken: dict[int, str] = {}
    pictures: list[int] = []
    for number in range(1, len(reader.pages) + 1):
        text = ""
        try:
            page = reader.pages[number - 1]
            text = _clean(page.extract_text())
            if not text and _has_pictures(page):
                pictures.append(number)
        except Exception as error:  # as above
            broken[number] = _reason(error)
        texts.append(text)
    return _without_running_heads(texts), broken, pictures


def _clean(text: str) -> str:
    text = text.translate(_LIGATURES).replace("\0", "").replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    text = text.encode("utf-8", "ignore").decode("utf-8")  # without halves of characters
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def _has_pictures(page: Any) -> bool:
    resources = page.get("/Resources")
    objects = resources.get_object().get("/XObject") if resources is not None else None
    members = objects.get_object().values() if objects is not None else ()
    return any(member.get_object().get("/Subtype") in ("/Image", "/Form") for member in members)


def _no_text(pages: int, broken: dict[int, str], pictures: Sequence[int]) -> str:
    if broken:
        number, reason = next(iter(broken.items()))
        return f"damaged: page {number} cannot be read ({reason})"
    of = "its page" if pages == 1 else f"its {pages} pages"
    return f"no text on {of}, only pictures: scanned, perhaps, and needs OCR" if pictures else f"empty: no text on {of}"


def _without_running_heads(texts: list[str]) -> list[str]:
    """Remove running heads: first and last lines that repeat on most pages, but for the page number."""
    pages = [text.split("\n") for text in texts]
    for end in (0, -1):
        readings = [_readings(page[end].strip(), number) for number, page in enumerate(pages)]
        counts = Counter(reading for line_readings in readings for reading in line_readings)
        running = {
            reading
            for reading, times in counts.items()
            if times >= _MIN_RUNNING_PAGES and 2 * times > sum(map(bool, texts))
        }
        seen: set[str] = set()
        for page, page_readings in zip(pages, readings, strict=True):
            if seen & page_readings and len(page) > 1:
                page.pop(end)
            seen |= running & page_readings
    return ["\n".join(page).strip("\n") for page in pages]


def _readings(line: str, number: int) -> set[str]:
    """A line as it is, and with its first or last number written relative to the page's, so that page numbers match."""
    if not line:
        return set()
    digits = [match for match in re.finditer(r"\d{1,9}", line)]
    counted = (
        f"{line[: match.start()]}{int(match[0]) - number:+d}{line[match.end() :]}" for match in digits[:1] + digits[-1:]
    )
    return {line, *counted}


def _joined(texts: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """All pages, and where each begins. A sentence that goes on overleaf stays in one paragraph."""
    hyphened = {word for text in texts for word in re.findall(r"\w+-\w+", text)}
    text = ""
    starts: list[int] = []
    for page in texts:
        page = _HYPHEN.sub(lambda match: _rejoined(match[1], match[2], hyphened), page)
        if page and text:
            text += "\n\n" if _SENTENCE_CLOSED.search(text[-20:]) else "\n"
        starts.append(len(text))
        text += page
    return text, tuple(starts)


def _rejoined(first: str, second: str, hyphened: set[str]) -> str:
    """A word that was broken at the end of a line; with a hyphen if it has one elsewhere."""
    return f"{first}-{second}" if f"{first}-{second}" in hyphened else first + second


def _info(reader: PdfReader, name: str) -> str:
    """One entry of the file's document information, such as its title; empty if there is none."""
    try:
        return " ".join(_clean(str(getattr(reader.metadata, name, None) or "")).split())
    except Exception:  # damaged, which its pages need not be
        return ""


def _outline(reader: PdfReader, text: str, pages: Sequence[int]) -> tuple[Heading, ...]:
    """Bookmarks as headings: where their words open a line of their page, or else where the page begins."""
    try:
        marks = sorted(_bookmarks(reader, reader.outline, 1), key=lambda mark: mark[0])
    except Exception:  # damaged, which its pages need not be
        return ()
    headings: list[Heading] = []
    for page, level, words in marks:
        if not words or page >= len(pages):
            continue
        from_here = max(pages[page], headings[-1].end if headings else 0)
        to_here = pages[page + 1] if page + 1 < len(pages) else len(text)
        start, end = _place(words, text, from_here, to_here) or (from_here, from_here)
        headings.append(Heading(start, end, level, words))
    return tuple(headings)


def _place(words: str, text: str, start: int, end: int) -> tuple[int, int] | None:
    """Where a heading stands; it may be numbered in the text and not in the bookmark, or the other way round."""
    numbered = _NUMBERED.match(words)
    without_number = words[numbered.end() :] if numbered else words
    for number, heading, boundary in (
        ("", words, r"(?!\w)"),
        (rf"(?:{_NUMBERED.pattern})?", without_number, r"[ \t]*$"),
    ):
        words_pattern = r"\s+".join(map(re.escape, heading.split()))
        pattern = re.compile(rf"^[ \t]*({number}{words_pattern}){boundary}", re.IGNORECASE | re.MULTILINE)
        if match := pattern.search(text, start, end):
            return match.span(1)
    return None


def _bookmarks(reader: PdfReader, outline: Sequence[Any], level: int) -> Iterator[tuple[int, int, str]]:
    """Page from 0, level and words of each bookmark."""
    for entry in outline:
        if isinstance(entry, list):
            yield from _bookmarks(reader, entry, level + 1)
            continue
        page = reader.get_destination_page_number(entry)
        if page is not None and page >= 0:
            yield page, level, " ".join(_clean(str(entry.title)).split())


def _ranges(numbers: Sequence[int]) -> str:
    """``[3, 5, 6, 7]`` → ``"pages 3, 5-7"``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    listed = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
    return f"{'pages' if len(numbers) > 1 else 'page'} {listed}"
