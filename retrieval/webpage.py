"""Web pages, written as Markdown: headings, lists, tables, quotations and code stay what they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .documents import Document, Unreadable
from .markup import BREAK, code_span, fence, heading, item, joined, one_line, paragraph, quote, table
from .plaintext import decoded

_LARGEST = 100 * 2**20  # bytes; the tree in memory takes about ten times as much
_WIDEST = 100  # columns that one cell may span

_DROPPED = frozenset(
    "applet audio button canvas datalist embed head iframe input link map meta meter nav noframes noscript "
    "object option progress script select style svg template textarea title video".split()
)
_BLOCKS = frozenset(
    "address article aside body caption center details dialog div fieldset figcaption figure footer form frameset "
    "header hgroup html legend main p search section summary tbody td tfoot th thead tr".split()
)
_CODE = frozenset(("code", "kbd", "samp", "tt"))
_LISTS = frozenset(("ul", "ol", "menu"))
_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
_NOT_IN_A_CELL = _HEADINGS | {"table", "pre", "section", "article", "form"}

_DECLARED = re.compile(rb"<meta[^>]{0,500}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_DECLARED_XML = re.compile(rb"\s*<\?xml[^>]{0,200}encoding\s*=\s*[\"']([\w.:-]+)")
_LATIN = frozenset("ascii us-ascii iso-8859-1 iso8859-1 iso_8859-1 latin1 latin-1".split())
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_OPENS_BLOCK = re.compile(r"(?:[-#>]|\d+\.) |```|\|")
_LANGUAGE = re.compile(r"\b(?:language|lang|highlight-source|highlight)-([\w+#-]+)")


def read_html(data: bytes, source: str) -> Iterator[Document]:
    """Read a web page. Its encoding is that of its byte order mark, or the one it names, or UTF-8.

    Scripts, styles, navigation, forms' fields and what is hidden are left out; of links and emphasis the words stay.

    Yields:
        One document in format ``"markdown"``, with its ``<title>``, its author and language as metadata.

    Raises:
        Unreadable: If it holds no text that a reader would see.
    """
    if len(data) > _LARGEST:
        raise Unreadable(f"{len(data) / 2**20:,.0f} MiB are more than a web page can have here: split it")
    text = decoded(data, _encoding(data))
    from lxml import etree, html

    parser = html.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        root = html.document_fromstring(text.encode("utf-8"), parser=parser)
        markdown = joined(_blocks(root)).strip("\n")
    except etree.ParserError as error:
        raise Unreadable("no text in it, only comments") from error
    except RecursionError as error:
        raise Unreadable("its elements are nested too deep") from error
    if not markdown.strip():
        raise Unreadable("no text in it, only scripts, navigation or pictures")
    metadata = {"author": _author(root), "language": one_line(root.get("lang") or root.get("xml:lang") or "")}
    title = one_line(root.findtext(".//head/title") or root.findtext(".//title") or "")
    yield Document(source, markdown + "\n", "markdown", title, {key: told for key, told in metadata.items() if told})


def _encoding(data: bytes) -> str:
    """What the page says of itself, as browsers take it."""
    found = _DECLARED_XML.match(data[:1024]) or _DECLARED.search(data[:4096])
    named = found[1].decode("ascii", "replace").lower() if found else "utf-8"
    if named in _LATIN:
        return "cp1252"
    # Whoever reads these letters as ASCII has no page in UTF-16 before him.
    return "utf-8" if named.startswith("utf-16") else named


def _author(root: Any) -> str:
    named = (meta.get("content") for meta in root.iter("meta") if (meta.get("name") or "").lower() == "author")
    return one_line(next(named, None) or "")


def _hidden(element: Any) -> bool:
    return (
        element.tag in _DROPPED
        or "hidden" in element.attrib
        or element.get("aria-hidden") == "true"
        or element.get("role") == "navigation"
        or bool(_HIDDEN.search(element.get("style") or ""))
        or (element.tag == "a" and "".join(element.itertext()).strip() in ("¶", "#"))  # a heading's link to itself
    )


def _blocks(element: Any) -> list[str]:
    """What stands in an element, as blocks of Markdown."""
    blocks: list[str] = []
    words: list[str] = []
    _walk(element, blocks, words)
    _end_paragraph(blocks, words)
    return blocks


def _end_paragraph(blocks: list[str], words: list[str]) -> None:
    blocks.append(paragraph("".join(words)))
    words.clear()


def _walk(element: Any, blocks: list[str], words: list[str]) -> None:
    """Add blocks that are finished to the one, words of a paragraph that has begun to the other."""
    words.append(element.text or "")
    for child in element:
        if isinstance(child.tag, str) and not _hidden(child):
            _add(child, blocks, words)
        words.append(child.tail or "")


def _add(element: Any, blocks: list[str], words: list[str]) -> None:
    made = _BLOCK_WRITERS.get(element.tag)
    if made:
        _end_paragraph(blocks, words)
        blocks.append(made(element))
    elif element.tag in _BLOCKS:
        _end_paragraph(blocks, words)
        _walk(element, blocks, words)
        _end_paragraph(blocks, words)
    elif element.tag == "br":
        words.append(BREAK)
    elif element.tag == "img":
        words.append(f" {element.get('alt') or ''} ")
    elif element.tag in _CODE:
        words.append(code_span("".join(element.itertext())))
    else:
        _walk(element, blocks, words)


def _heading(element: Any) -> str:
    return heading(int(element.tag[1]), _inline(element))


def _inline(element: Any) -> str:
    """All that stands in an element, as one line."""
    return one_line("".join(_words(element)))


def _words(element: Any) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        if isinstance(child.tag, str) and not _hidden(child):
            if child.tag == "img":
                yield f" {child.get('alt') or ''} "
            elif child.tag in _CODE:
                yield code_span("".join(child.itertext()))
            else:
                apart = " " if child.tag == "br" or child.tag in _BLOCKS or child.tag in _BLOCK_WRITERS else ""
                yield apart
                yield from _words(child)
                yield apart
        yield child.tail or ""


def _pre(element: Any) -> str:
    inside = [element, *element.iter("code")]
    classes = " ".join(one.get("class") or "" for one in inside)
    found = _LANGUAGE.search(classes)
    for line_break in list(element.iter("br")):
        line_break.tail = "\n" + (line_break.tail or "")
    return fence("".join(element.itertext()), found[1] if found else "")


def _list(element: Any) -> str:
    number = _number(element.get("start"), 1)
    items: list[tuple[str, str]] = []  # marker and content
    for child in element:
        if isinstance(child.tag, str) and not _hidden(child):
            if child.tag in _LISTS and items:  # a list right in a list belongs to the item above it
                items[-1] = (items[-1][0], f"{items[-1][1]}\n{_list(child)}")
            elif made := joined(_tight(child)):
                number = _number(child.get("value"), number)
                items.append((f"{number}." if element.tag == "ol" else "-", made))
                number += 1
        if child.tail and child.tail.strip():
            items.append(("-", paragraph(child.tail)))
    return "\n".join(item(marker, made) for marker, made in items)


def _tight(element: Any) -> list[str]:
    """The blocks of an item, a list right below its first line."""
    blocks = [block for block in _blocks(element) if block]
    if len(blocks) > 1 and element.tag == "li" and re.match(r"(?:-|\d+\.) ", blocks[1]):
        blocks[:2] = ["\n".join(blocks[:2])]
    return blocks


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and re.fullmatch(r"\d{1,8}", text.strip()) else otherwise


def _definitions(element: Any) -> str:
    """Terms with what is said about them, one item each."""
    items: list[str] = []
    terms: list[str] = []
    for child in element.iter("dt", "dd"):
        if next(child.iterancestors("dl")) is not element or _hidden(child):
            continue
        if child.tag == "dt":
            terms.append(_inline(child))
            continue
        said = joined(_blocks(child))
        glue = ":\n\n" if _OPENS_BLOCK.match(said) else ": "
        items.append(item("-", f"{', '.join(terms)}{glue}{said}" if terms else said))
        terms = []
    items += [item("-", term) for term in terms]
    return "\n".join(items)


def _table(element: Any) -> str:
    rows = [row for row in element.iter("tr") if next(row.iterancestors("table")) is element and not _hidden(row)]
    cells = [[cell for cell in row if cell.tag in ("td", "th") and not _hidden(cell)] for row in rows]
    captions = [joined(_blocks(child)) for child in element if child.tag == "caption" and not _hidden(child)]
    laid_out = any(inner is not cell for row in cells for cell in row for inner in cell.iter(*_NOT_IN_A_CELL))
    if laid_out or max(map(len, cells), default=0) < 2:  # columns for the eye, not a table
        return joined([*captions, *(joined(_blocks(cell)) for row in cells for cell in row)])
    return joined([*captions, table(_grid(cells))])


def _grid(cells: list[list[Any]]) -> list[list[str]]:
    """Words by row and column: in each row that a cell spans, in the first column that it spans."""
    rows: list[list[str]] = []
    above: dict[int, tuple[int, str]] = {}  # by column: in how many rows below a cell goes on, and its words
    for row in cells:
        waiting, filled = list(row), dict[int, str]()
        going_on, above = above, {}
        for column, (left, words) in going_on.items():
            filled[column] = words
            if left > 1:
                above[column] = (left - 1, words)
        column = 0
        for cell in waiting:
            while column in filled:
                column += 1
            wide, high = (_number(cell.get(name), 1) or 1 for name in ("colspan", "rowspan"))
            words = _inline(cell)
            for step in range(min(wide, _WIDEST)):
                filled[column + step] = "" if step else words
                if high > 1:
                    above[column + step] = (high - 1, "" if step else words)
            column += min(wide, _WIDEST)
        rows.append([filled.get(column, "") for column in range(max(filled, default=-1) + 1)])
    return rows


_BLOCK_WRITERS: dict[str, Any] = {
    **dict.fromkeys(_HEADINGS, _heading),
    "pre": _pre,
    "ul": _list,
    "ol": _list,
    "menu": _list,
    "dl": _definitions,
    "table": _table,
    "blockquote": lambda element: quote(joined(_blocks(element))),
    "hr": lambda _: "***",
}
