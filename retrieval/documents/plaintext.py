"""From bytes to text, without guessing."""

from __future__ import annotations

import codecs

from .document import Unreadable

_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_DISGUISED = {b"%PDF-": "*.pdf", b"PK\3\4": "*.docx", b"\xd0\xcf\x11\xe0": "*.doc"}


def plain_text(data: bytes, encoding: str = "utf-8") -> str:
    """The text of a file, with plain line feeds and without its byte order mark.

    Args:
        data: What the file holds.
        encoding: Of a file that has no byte order mark of UTF-8 or UTF-16.

    Raises:
        Unreadable: If it holds no text, or text of another encoding.
    """
    text = decoded(data, encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decoded(data: bytes, encoding: str = "utf-8") -> str:
    """As ``plain_text``, with line ends as they are."""
    mark = refuse_binary(data)
    encoding = _MARKS.get(mark, encoding)
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise Unreadable(f"not {encoding.upper()} text (byte {len(mark) + error.start})") from error
    except LookupError as error:
        raise Unreadable(f"in an unknown encoding ({encoding!r})") from error
    if not text.strip():
        raise Unreadable("empty")
    return text


def refuse_binary(data: bytes) -> bytes:
    """The byte order mark of a text; empty if it has none.

    Raises:
        Unreadable: If it is no text.
    """
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    for magic, ending in _DISGUISED.items():
        if data.startswith(magic):
            raise Unreadable(f"binary, not text: it seems to be a {ending}")
    if b"\0" in data and not _MARKS.get(mark, "").startswith("utf-16"):
        raise Unreadable("binary, not text")
    return mark
