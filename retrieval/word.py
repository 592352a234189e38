"""Word files (DOCX), written as Markdown.

The parts of the file are read as they are, not by a library for editing them: content controls, tracked insertions,
text boxes and footnotes hold words too. Namespaces are passed over, since the two editions of the standard differ in
nothing else here.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from posixpath import dirname, join, normpath
from typing import Any, Literal

from .documents import Document, Unreadable
from .markup import BREAK, fence, heading, item, joined, one_line, paragraph, quote, table

_LARGEST = 100 * 2**20  # bytes of XML; the tree in memory takes about ten times as much

_AROUND_BLOCKS = frozenset(("document", "body", "sdt", "sdtContent", "ins", "moveTo", "customXml"))
_AROUND_WORDS = _AROUND_BLOCKS | frozenset(
    "r smartTag hyperlink fldSimple dir bdo ruby rubyBase oMath oMathPara sSup sSub sSubSup e sup sub f num den rad "
    "deg d nary func fName m mr acc bar groupChr limLow limUpp lim box borderBox".split()
)
_DRAWINGS = frozenset(("drawing", "pict", "object"))
_SIGNS = {"tab": " ", "ptab": " ", "br": BREAK, "cr": BREAK, "noBreakHyphen": "-"}
_DEEPEST = 8  # level of a list, from 0
_CODE = re.compile(r"(?:source |program )?code(?: block)?|html preformatted|macro text|listing", re.IGNORECASE)
_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"),
          (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))  # fmt: skip


def read_docx(data: bytes, source: str) -> Iterator[Document]:
    """Read a Word file: headings by style or outline level, numbered as Word shows them; lists, tables, code.

    Footnotes stand in brackets where they are referred to; text boxes below their paragraph. Headers, footers,
    comments, deletions, hidden text and the table of contents are left out.

    Yields:
        One document in format ``"markdown"``, with its author as metadata.

    Raises:
        Unreadable: If it is no Word file, is damaged or asks for a password, or holds no text.
    """
    package = _Package(data)
    main = package.main()
    root = package.xml(main)
    notes: dict[tuple[str, str], Any] = {}
    for kind in ("footnote", "endnote"):
        notes |= {(kind, _value(note, "id")): note for note in package.beside(main, f"{kind}s")}
    text = _Text(_Styles(package.beside(main, "styles")), _Numbering(package.beside(main, "numbering")), notes)
    try:
        title = text.find_title(root)
        markdown = joined(text.blocks(root))
    except RecursionError as error:
        raise Unreadable("its parts are nested too deep") from error
    if not markdown:
        raise Unreadable("empty: no text in it")
    author = package.told("creator")
    yield Document(
        source, markdown + "\n", "markdown", title or package.told("title"), {"author": author} if author else {}
    )


class _Package:
    """The ZIP archive that a Word file is."""

    def __init__(self, data: bytes) -> None:
        if data.startswith(b"\xd0\xcf\x11\xe0"):
            raise Unreadable("encrypted, or of the old format .doc: save it as .docx without a password")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except Exception as error:  # see _unpacked
            raise Unreadable("not a DOCX file, or damaged: it is no ZIP archive") from error
        self._left = _LARGEST
        self._read: dict[str, Any] = {}

    def main(self) -> str:
        """Name of the part that holds the text."""
        name = self._related("", "officeDocument")
        if name is None or _name(self.xml(name)) != "document":
            raise Unreadable("not a Word file, but something else in a ZIP archive")
        return name

    def beside(self, part: str, kind: str) -> Iterable[Any]:
        """What is in the part of this kind that belongs to another one; nothing if there is none."""
        name = self._related(part, kind)
        return self.xml(name) if name in self._zip.namelist() else ()

    def told(self, name: str) -> str:
        """What the file says of itself, such as its title."""
        try:
            part = self.beside("", "core-properties")
        except Unreadable:  # which the text need not be
            return ""
        return one_line(next((child.text or "" for child in part if _name(child) == name), ""))

    def xml(self, name: str) -> Any:
        """The root of a part."""
        if name in self._read:
            return self._read[name]
        from lxml import etree

        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)
        data = self._unpacked(name)
        try:
            self._read[name] = etree.fromstring(data, parser=parser)
        except etree.XMLSyntaxError as error:
            raise Unreadable(f"damaged: broken XML in {name} ({error.msg})") from error
        return self._read[name]

    def _unpacked(self, name: str) -> bytes:
        try:
            info = self._zip.getinfo(name)
        except KeyError as error:
            raise Unreadable(f"damaged: {name} is missing") from error
        # A part that unpacks to more than it announces is cut off there by zipfile, and found out by its checksum.
        self._left -= info.file_size
        if self._left < 0:
            raise Unreadable(f"it unpacks to more than the {_LARGEST / 2**20:.0f} MiB of XML that are read: split it")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # those that zipfile keeps in bounds
            raise Unreadable(f"damaged: {name} is packed in a way that Word does not know")
        try:
            return self._zip.read(info)
        except Exception as error:  # zipfile believes most of what a damaged archive says of itself
            raise Unreadable(f"damaged: {name} cannot be unpacked ({error})") from error

    def _related(self, part: str, kind: str) -> str | None:
        folder, file = dirname(part), part.rpartition("/")[2]
        relations = join(folder, "_rels", f"{file}.rels")
        if relations not in self._zip.namelist():
            return None
        for relation in self.xml(relations):
            if str(relation.get("Type", "")).endswith(f"/{kind}") and relation.get("TargetMode") != "External":
                target = str(relation.get("Target", ""))
                return normpath(join("/", folder, target)).lstrip("/")
        return None


@dataclass(frozen=True, slots=True)
class _Style:
    """What a style says of a paragraph, with what it inherits."""

    name: str = ""
    level: int = 0  # of a heading, from 1; 0 if it is none
    list_id: str = ""
    list_level: int = 0  # from 0
    indent: int = 0  # of the list itself: how many lists it lies in


class _Styles:
    """The styles of a file."""

    def __init__(self, part: Iterable[Any]) -> None:
        self._elements = {_value(style, "styleId"): style for style in part if _name(style) == "style"}
        self._default = ""  # id of the style of paragraphs that name none
        for name, style in self._elements.items():
            if _value(style, "type") == "paragraph" and _value(style, "default") in ("1", "true"):
                self._default = name

    def of(self, paragraph: Any) -> _Style:
        """The style of a paragraph, and what the paragraph itself says otherwise."""
        chain = [paragraph]  # the paragraph, its style, what that one is based on
        style = self._elements.get(_said(paragraph, "pPr", "pStyle") or self._default)
        while style is not None and style not in chain:
            chain.append(style)
            style = self._elements.get(_said(style, "basedOn"))
        names = [_said(one, "name") for one in chain]
        own_name = names[1] if len(names) > 1 else ""
        deeper = re.fullmatch(r"list (?:bullet|number) ([2-5])", own_name, re.IGNORECASE)  # lists of their own
        levels = [_level(name, _said(one, "pPr", "outlineLvl")) for name, one in zip(names, chain, strict=True)]
        return _Style(
            own_name,
            next((level for level in levels if level is not None), 0),
            next(filter(None, (_said(one, "pPr", "numPr", "numId") for one in chain)), ""),
            min(_digits(next(filter(None, (_said(one, "pPr", "numPr", "ilvl") for one in chain)), "0")), _DEEPEST),
            int(deeper[1]) - 1 if deeper else 0,
        )


def _level(style: str, outline: str) -> int | None:
    """Level of a heading, 0 for body text, None if nothing is said."""
    if outline.isdigit():
        return (int(outline) + 1) % 10  # the ninth level of the outline is body text
    named = re.fullmatch(r"heading ([1-9])", style, re.IGNORECASE)
    return int(named[1]) if named else None


class _Numbering:
    """Counts numbered paragraphs, as Word does when it shows them."""

    def __init__(self, part: Iterable[Any]) -> None:
        self._levels: dict[str, dict[int, Any]] = {}  # by id of the abstract list
        self._lists: dict[str, str] = {}  # abstract list of each list
        self._restarts: dict[str, dict[int, int]] = {}  # by list: levels that are counted anew when it begins
        self._counts: dict[str, dict[int, int]] = {}
        for child in part:
            if _name(child) == "abstractNum":
                levels = {_digits(_value(level, "ilvl")): level for level in child if _name(level) == "lvl"}
                self._levels[_value(child, "abstractNumId")] = levels
            elif _name(child) == "num":
                own = _value(child, "numId")
                self._lists[own] = _said(child, "abstractNumId")
                overrides = [one for one in child if _name(one) == "lvlOverride" and _said(one, "startOverride")]
                restarts = {_digits(_value(one, "ilvl")): _digits(_said(one, "startOverride")) for one in overrides}
                self._restarts[own] = restarts

    def next(self, list_id: str, level: int) -> str:
        """What stands before the next paragraph of a list, such as ``"2."`` or ``"b)"``; empty for bullets."""
        abstract = self._lists.get(list_id, "")
        levels = self._levels.get(abstract, {})
        counts = self._counts.setdefault(abstract, {})
        for restarted, start in self._restarts.pop(list_id, {}).items():
            counts[restarted] = start - 1
        for deeper in [one for one in counts if one > level]:
            del counts[deeper]
        for upper in range(level + 1):  # a level that was passed over counts as begun
            start = _digits(_said(levels[upper], "start") if upper in levels else "") or 1
            if upper == level:
                counts[upper] = counts.get(upper, start - 1) + 1
            else:
                counts.setdefault(upper, start)
        if level not in levels or _said(levels[level], "numFmt") in ("bullet", "none"):
            return ""

        def number(found: re.Match[str]) -> str:
            place = int(found[1]) - 1
            shown = _said(levels[place], "numFmt") if place in levels else "decimal"
            return _written(counts.get(place, 1), shown)

        return re.sub(r"%([1-9])", number, _said(levels[level], "lvlText")).strip()


def _written(number: int, shown: str) -> str:
    if shown.endswith("Letter") and number > 0:
        letters = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 + 1)
        return letters.upper() if shown.startswith("upper") else letters
    if shown.endswith("Roman") and 0 < number < 4000:
        roman = ""
        for value, sign in _ROMAN:
            roman += sign * (number // value)
            number %= value
        return roman.upper() if shown.startswith("upper") else roman
    return str(number)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A block, or a line that belongs together with those above it."""

    text: str
    kind: Literal["block", "item", "code"] = "block"
    marker: str = ""
    level: int = 0


class _Text:
    """Turns what a file holds into blocks of Markdown, in its order."""

    def __init__(self, styles: _Styles, numbering: _Numbering, notes: dict[tuple[str, str], Any]) -> None:
        self._styles, self._numbering, self._notes = styles, numbering, notes
        self._below_title = 0

    def find_title(self, root: Any) -> str:
        """The paragraph in the style of a title, if there is one; headings then stand one level below it."""
        styled = [one for one in root.iter() if _name(one) == "p" and self._styles.of(one).name.lower() == "title"]
        said = (one_line("".join(word.text or "" for word in one.iter() if _name(word) == "t")) for one in styled)
        titles = [words for words in said if words]
        self._below_title = int(len(titles) == 1)
        return titles[0] if self._below_title else ""

    def blocks(self, container: Any) -> list[str]:
        """The blocks in an element."""
        blocks: list[str] = []
        for kind, group in groupby(self._pieces(container), key=lambda piece: piece.kind):
            pieces = list(group)
            if kind == "item":
                blocks.append(_list(pieces))
            elif kind == "code":
                blocks.append(fence("\n".join(piece.text for piece in pieces)))
            else:
                blocks += (piece.text for piece in pieces)
        return [block for block in blocks if block]

    def _pieces(self, container: Any) -> Iterator[_Piece]:
        for element in _inside(container, ("p", "tbl"), _AROUND_BLOCKS):
            if _name(element) == "tbl":
                yield from map(_Piece, self._table(element))
            else:
                boxes: list[str] = []
                yield from self._paragraph(element, boxes)
                yield from map(_Piece, boxes)

    def _paragraph(self, element: Any, boxes: list[str]) -> Iterator[_Piece]:
        style = self._styles.of(element)
        name = style.name.lower()
        numbered = style.list_id not in ("", "0")  # 0 takes a paragraph out of the list of its style
        depth = style.indent + style.list_level
        label = self._numbering.next(style.list_id, style.list_level) if numbered else ""
        text = "".join(self._words(element, boxes))
        words = one_line(text)
        if not words or name.startswith("toc "):
            return
        if name == "title":
            yield _Piece(heading(1, words))
        elif style.level:
            yield _Piece(heading(style.level + self._below_title, f"{label} {words}"))
        elif _CODE.fullmatch(name):
            yield _Piece(text.replace(BREAK, "\n"), "code")
        elif numbered and re.fullmatch(r"\d{1,9}[.)]?", label):
            yield _Piece(paragraph(text), "item", label.rstrip(".)") + ".", depth)
        elif numbered:
            yield _Piece(paragraph(f"{label} {text}"), "item", "-", depth)
        else:
            yield _Piece(quote(paragraph(text)) if name in ("quote", "intense quote") else paragraph(text))

    def _words(self, element: Any, boxes: list[str]) -> Iterator[str]:
        """The words of a paragraph; what stands in text boxes is added to these."""
        for child in element:
            name = _name(child)
            if name == "t":
                yield child.text or ""
            elif name in _SIGNS:
                yield " " if _value(child, "type") in ("page", "column") else _SIGNS[name]
            elif name in ("footnoteReference", "endnoteReference"):
                # Taken out, so that a note that refers to itself has an end.
                note = self._notes.pop((name.removesuffix("Reference"), _value(child, "id")), None)
                yield f" ({self._plain(note)})" if note is not None else ""
            elif name == "AlternateContent":
                yield from self._words(next(iter(child), ()), boxes)
            elif name in _DRAWINGS:
                for box in _inside(child, ("txbxContent",), None):
                    boxes += self.blocks(box)
            elif name in _AROUND_WORDS and not (name == "r" and _is_on(_child(child, "rPr", "vanish"))):
                yield "/" if name == "den" else ""
                yield from self._words(child, boxes)

    def _plain(self, container: Any) -> str:
        """All words in an element, in one line."""
        told: list[str] = []
        for element in _inside(container, ("p", "tbl"), _AROUND_BLOCKS):
            if _name(element) == "p":
                told += ("".join(self._words(element, told)),)
            else:
                told += (self._plain(cell) for row in _rows(element) for cell in _cells(row))
        return one_line(" ".join(told))

    def _table(self, element: Any) -> list[str]:
        rows = [list(_cells(row)) for row in _rows(element)]
        cells = [cell for row in rows for cell in row]
        inside = [one for cell in cells for one in cell]
        laid_out = any(_name(one) == "tbl" or (_name(one) == "p" and self._styles.of(one).level) for one in inside)
        if laid_out or max(map(len, rows), default=0) < 2:  # columns for the eye, not a table
            return [block for cell in cells for block in self.blocks(cell)]
        grid: list[list[str]] = []
        for row in rows:
            words: list[str] = []
            for cell in row:
                merged = _child(cell, "tcPr", "vMerge")
                above = grid[-1][len(words)] if grid and len(words) < len(grid[-1]) else ""
                goes_on = merged is not None and _value(merged, "val") in ("", "continue")
                words.append(above if goes_on else self._plain(cell))
                words += [""] * min(_digits(_said(cell, "tcPr", "gridSpan")) - 1, 100)
            grid.append(words)
        return [table(grid)]


def _list(items: Sequence[_Piece]) -> str:
    """A list, those of deeper level inside the item above them."""
    lines: list[str] = []
    bulleted = False
    open_items: list[tuple[int, int]] = []  # level of each item that is open, and where its text begins
    for piece in items:
        while open_items and open_items[-1][0] >= piece.level:
            open_items.pop()
        left = open_items[-1][1] if open_items else 0
        if not open_items:
            if lines and bulleted != (piece.marker == "-"):
                lines.append("")  # another list
            bulleted = piece.marker == "-"
        lines += (" " * left + line for line in item(piece.marker, piece.text).split("\n"))
        open_items.append((piece.level, left + len(piece.marker) + 1))
    return "\n".join(lines)


def _rows(element: Any) -> Iterator[Any]:
    return (row for row in _inside(element, ("tr",), _AROUND_BLOCKS) if _child(row, "trPr", "del") is None)


def _cells(row: Any) -> Iterator[Any]:
    return _inside(row, ("tc",), _AROUND_BLOCKS)


def _inside(element: Any, wanted: Container[str], around: Container[str] | None) -> Iterator[Any]:
    """The outermost elements of these names, in what may stand around them (None: in anything)."""
    for child in element:
        name = _name(child)
        if name in wanted:
            yield child
        elif name == "AlternateContent":  # the same thing in several ways, the best one first
            yield from _inside(next(iter(child), ()), wanted, around)
        elif around is None or (name in around and not _is_contents(child)):
            yield from _inside(child, wanted, around)


def _is_contents(element: Any) -> bool:
    return _said(element, "sdtPr", "docPartObj", "docPartGallery") == "Table of Contents"


def _name(element: Any) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _value(element: Any, name: str) -> str:
    return next((str(told) for key, told in element.attrib.items() if key.rpartition("}")[2] == name), "")


def _child(element: Any, *path: str) -> Any | None:
    for name in path:
        element = next((child for child in element if _name(child) == name), None)
        if element is None:
            return None
    return element


def _said(element: Any, *path: str) -> str:
    """The value that stands at the end of a path."""
    found = _child(element, *path)
    return "" if found is None else _value(found, "val")


def _is_on(switch: Any | None) -> bool:
    return switch is not None and _value(switch, "val") not in ("0", "false", "off")


def _digits(text: str) -> int:
    return int(text) if re.fullmatch(r"\d{1,9}", text) else 0
