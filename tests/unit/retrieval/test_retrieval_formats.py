"""Every format that is not plain text, from real files that are made here."""

import csv
import io
import json
import logging
import re
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace

import docx
import pytest
from docx.enum.style import WD_STYLE_TYPE
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from vivavoce.retrieval import (
    ChunkOptions,
    Document,
    Heading,
    LoadingError,
    LocalKnowledge,
    chunk_document,
    load_file,
    load_folder,
)
from vivavoce.retrieval.documents import loading, webpage, word
from vivavoce.retrieval.documents.rows import read_csv
from vivavoce.retrieval.testing import HashEmbedder


def read(folder, name, content):
    """What a file of this content is read as: documents, and what is left out."""
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    skipped = []
    try:
        return list(load_file(file, skipped.append)), skipped
    except LoadingError:
        return [], skipped


def document(folder, name, content):
    (made,), skipped = read(folder, name, content)
    assert skipped == []
    return made


def reason(folder, name, content):
    documents, (skipped,) = read(folder, name, content)
    assert documents == [] and skipped.source == name
    return skipped.reason


# --- web pages --------------------------------------------------------------------------------------------------------

PAGE = """<!DOCTYPE html>
<html lang="en"><head><title> Gift cards
 &amp; vouchers </title><meta name="author" content="Ada"><style>p { color: red }</style></head>
<body>
<nav><ul><li><a href="/">Home</a></li></ul></nav>
<script>document.write("<p>never</p>")</script>
<h1>Gift   cards<a href="#x">¶</a></h1>
<p>Cards <b>start</b> at <a href="/p">ten</a> dollars.<br>They last.</p>
Loose words, <em>kept</em>.
<div>Division one<div>inner</div>tail</div>
<h2>Where to <code>buy_one</code></h2>
<ul><li>At the counter</li><li>Online:<ul><li>on the web</li><li>in the app</li></ul></li></ul>
<ol start="3"><li>Pay</li><li>Go</li></ol>
<table><caption>Prices</caption>
<thead><tr><th>Card</th><th>Price</th></tr></thead>
<tbody><tr><td>Small</td><td>10 | 12</td></tr><tr><td>Large</td><td></td></tr></tbody></table>
<pre><code class="language-python">def x():
    return "`" * 3  # not a heading
</code></pre>
<blockquote><p>As good as money.</p></blockquote>
<p hidden>hidden</p><p style="display: none">unseen</p><svg><title>icon</title><text>drawn</text></svg>
<p><img src="a.png" alt="A red card"> ends.</p>
<details><summary>More</summary>Folded text.</details>
<p>2019. A year, snake_case and 2 * 3 * 4.</p>
</body></html>"""

AS_MARKDOWN = """# Gift cards

Cards start at ten dollars.
They last.

Loose words, kept.

Division one

inner

tail

## Where to `buy_one`

- At the counter
- Online:
  - on the web
  - in the app

3. Pay
4. Go

Prices

| Card | Price |
| --- | --- |
| Small | 10 \\| 12 |
| Large |  |

```python
def x():
    return "`" * 3  # not a heading
```

> As good as money.

A red card ends.

More

Folded text.

2019. A year, snake_case and 2 * 3 * 4.
"""


def test_a_web_page_keeps_its_structure_as_markdown(tmp_path):
    made = document(tmp_path, "cards.html", PAGE)
    assert made.text == AS_MARKDOWN
    assert (made.source, made.format, made.title) == ("cards.html", "markdown", "Gift cards & vouchers")
    assert dict(made.metadata) == {"author": "Ada", "language": "en"}
    chunks = chunk_document(made, ChunkOptions(25))
    assert {chunk.heading for chunk in chunks} == {"Gift cards", "Gift cards > Where to buy_one"}
    assert all(made.text[chunk.start : chunk.end] == chunk.text and chunk.page is None for chunk in chunks)


@pytest.mark.parametrize(
    "data",
    [
        '<meta charset="utf-8"><p>café</p>'.encode(),
        "<p>café</p>".encode(),
        "<p>café</p>".encode("utf-8-sig"),
        "<p>café</p>".encode("utf-16"),
        "<meta charset=latin1><p>café</p>".encode("cp1252"),
        '<meta http-equiv="Content-Type" content="text/html; charset=ISO-8859-1"><p>café</p>'.encode("cp1252"),
        '<?xml version="1.0" encoding="windows-1252"?><html><body><p>café</p></body></html>'.encode("cp1252"),
        '<meta charset="utf-16"><p>café</p>'.encode(),  # it cannot be: these letters were read as ASCII
    ],
)
def test_a_web_page_is_read_in_the_encoding_it_names(tmp_path, data):
    assert document(tmp_path, "a.HTM", data).text == "café\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "empty"),
        ("<!-- nothing -->", "no text"),
        ("<title>App</title><script>start()</script><div id=app></div>", "only scripts"),
        ("<p>café</p>".encode("cp1252"), "not UTF-8 text (byte 6)"),
        (b"<p>a\0b</p>", "binary"),
        (b"%PDF-1.7 <p>a</p>", "seems to be a *.pdf"),
        ("<div>" * 5000 + "deep", "nested too deep"),
    ],
)
def test_a_web_page_without_text_is_left_out(tmp_path, content, why):
    assert why in reason(tmp_path, "page.html", content)


def test_a_huge_page_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(webpage, "_LARGEST", 10)
    assert "split it" in reason(tmp_path, "big.html", "<p>more than ten</p>")


# --- PDF --------------------------------------------------------------------------------------------------------------


def pdf(*pages, outline=(), info=None, password=None, algorithm=None, pictures=()):
    """A PDF file with a line of text for each line of each page; `outline` holds level, words and page from 0."""
    writer = PdfWriter()
    name = NameObject
    font = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica", "/Encoding": "/WinAnsiEncoding"}
    fonts = DictionaryObject({name("/F1"): DictionaryObject({name(key): name(value) for key, value in font.items()})})
    for number, text in enumerate(pages):
        page = writer.add_blank_page(612, 792)
        resources = DictionaryObject({name("/Font"): fonts})
        if number in pictures:
            picture = DecodedStreamObject()
            picture.set_data(b"\0")
            picture.update({name("/Subtype"): name("/Image")})
            resources[name("/XObject")] = DictionaryObject({name("/Im1"): writer._add_object(picture)})
        page[name("/Resources")] = resources
        stream = DecodedStreamObject()
        escaped = re.sub(r"([()])", r"\\\1", text)
        lines = "".join(f"({line}) Tj T*\n" for line in escaped.split("\n"))
        stream.set_data(f"BT /F1 12 Tf 14 TL 72 720 Td\n{lines}ET".encode("cp1252"))
        page[name("/Contents")] = writer._add_object(stream)
    parents = []
    for level, words, number in outline:
        above = parents[level - 2] if level > 1 else None
        parents[level - 1 :] = [writer.add_outline_item(title=words, page_number=number, parent=above)]
    if info:
        writer.add_metadata(info)
    if password is not None:
        writer.encrypt(password, "owner", algorithm=algorithm)
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


HANDBOOK = pdf(
    "Handbook\n1. Opening hours\nWe open at se-\nven and close late.\nThe sentence goes",
    "on overleaf. Next.\n1.1 Weekend\nClosed (mostly).\nA well-\nknown day is a well-known day.",
    "",
    "Lost keys are in the drawer.",
    outline=[(1, "Opening hours", 0), (2, "1.1  weekend", 1), (1, "Lost property", 3), (2, "Keys", 3)],
    info={"/Title": "House rules", "/Author": "Ada"},
)


def test_a_pdf_keeps_its_pages_and_bookmarks(tmp_path):
    made = document(tmp_path, "rules.pdf", HANDBOOK)
    assert made.text == (
        "Handbook\n1. Opening hours\nWe open at seven and close late.\nThe sentence goes\non overleaf. Next.\n"
        "1.1 Weekend\nClosed (mostly).\nA well-known day is a well-known day.\n\nLost keys are in the drawer."
    )
    assert [made.text[start:].split("\n")[0] for start in made.pages] == [
        "Handbook", "on overleaf. Next.", "", "Lost keys are in the drawer.",
    ]  # fmt: skip
    assert [(one.level, one.words, made.text[one.start : one.end]) for one in made.outline] == [
        (1, "Opening hours", "1. Opening hours"),
        (2, "1.1 weekend", "1.1 Weekend"),
        (1, "Lost property", ""),
        (2, "Keys", ""),
    ]
    assert (made.format, made.title, dict(made.metadata)) == ("text", "House rules", {"author": "Ada"})


def test_passages_of_a_pdf_know_heading_and_page(tmp_path):
    chunks = chunk_document(document(tmp_path, "rules.pdf", HANDBOOK))
    assert [(chunk.heading, chunk.page) for chunk in chunks] == [
        ("", 1),
        ("Opening hours", 1),  # and goes on overleaf
        ("Opening hours > 1.1 weekend", 2),
        ("Lost property > Keys", 4),
    ]
    assert chunks[1].body.strip().startswith("We open at seven") and chunks[1].text.endswith("overleaf. Next.")
    assert chunks[2].in_context.startswith("House rules > Opening hours > 1.1 weekend\n")
    with LocalKnowledge.from_folder(tmp_path, HashEmbedder()) as knowledge:
        (found,) = knowledge.search("in which drawer are lost keys", k=1)
    assert (found.page, found.source, found.span) == (4, "rules.pdf", (chunks[3].start, chunks[3].end))
    assert found.breadcrumb == "House rules > Lost property > Keys"


def test_a_long_page_gives_each_passage_its_page():
    made = Document("a.pdf", "One two. Three four.\n\nFive six. Seven.", "text", pages=(0, 22))
    chunks = chunk_document(made, ChunkOptions(3))
    assert [(chunk.text, chunk.page) for chunk in chunks] == [
        ("One two.", 1), ("Three four.", 1), ("Five six. Seven.", 2),
    ]  # fmt: skip
    assert {chunk.heading for chunk in chunk_document(Document("a.md", "# A\n\nB.\n\n# C\n\nD."))} == {"A", "C"}


def test_headings_given_beside_a_text_cut_it():
    text = "Before.\nA\nB\nUnder B.\nC"
    headings = (Heading(8, 9, 1, "A"), Heading(10, 11, 2, "B"), Heading(21, 22, 1, "C"))
    chunks = chunk_document(Document("a.txt", text, "text", outline=headings))
    assert [(chunk.heading, chunk.text, chunk.body.strip()) for chunk in chunks] == [
        ("", "Before.", "Before."),
        ("A > B", "A\nB\nUnder B.", "Under B."),
    ]


def test_running_heads_are_kept_once(tmp_path):
    pages = [f"Handbook 2024\nText of page {number + 1}.\nPage {number + 3} of 9" for number in range(4)]
    made = document(tmp_path, "a.pdf", pdf(*pages))
    assert made.text.count("Handbook 2024") == 1 and re.findall(r"Page \d of 9", made.text) == ["Page 3 of 9"]
    assert re.findall(r"Text of page (\d)", made.text) == ["1", "2", "3", "4"]
    rows = ["Invoice 17\nA", "Invoice 99\nB", "Invoice 23\nC", "Invoice 5\nD"]
    assert re.findall(r"Invoice \d+", document(tmp_path, "b.pdf", pdf(*rows)).text) == [row[:-2] for row in rows]


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-128", "AES-256"])
def test_an_encrypted_pdf_is_read_if_anybody_may_read_it(tmp_path, algorithm):
    assert document(tmp_path, "a.pdf", pdf("Open to all.", password="", algorithm=algorithm)).text == "Open to all."
    assert "password" in reason(tmp_path, "b.pdf", pdf("Secret.", password="x", algorithm=algorithm))


@pytest.mark.parametrize("title", ["Microsoft Word - rules_v3.docx", "untitled", "final.indd", ""])
def test_a_title_that_no_author_wrote_is_none(tmp_path, title):
    assert document(tmp_path, "a.pdf", pdf("Text.", info={"/Title": title})).title == ""


def test_pages_without_text_are_reported(tmp_path):
    documents, skipped = read(tmp_path, "a.pdf", pdf("", "Text.", "", "", "", pictures=(0, 2, 3)))
    assert documents[0].text == "Text."
    assert [(one.source, "pages 1, 3-4," in one.reason) for one in skipped] == [("a.pdf#page=1", True)]
    assert "OCR" in reason(tmp_path, "scan.pdf", pdf("", "", pictures=(0, 1)))
    assert reason(tmp_path, "blank.pdf", pdf("")) == "empty: no text on its page"


def test_a_damaged_page_does_not_take_the_others_with_it(tmp_path):
    data = pdf("First.", "Second.").replace(b"(First.)", b"\xff<zz>/(", 1)
    documents, skipped = read(tmp_path, "a.pdf", data)
    assert [one.text for one in documents] == ["Second."] and documents[0].pages == (0, 0)
    assert skipped[0].source == "a.pdf#page=1" and "page 1 is damaged" in skipped[0].reason


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a PDF"),
        (b"<html>404</html>", "not a PDF"),
        (b"%PDF-1.7\n", "damaged"),
        (HANDBOOK[:600], "damaged"),
        (HANDBOOK.replace(b"/Pages", b"/Pagez"), "damaged"),
    ],
)
def test_a_damaged_pdf_is_left_out(tmp_path, content, why, caplog):
    assert why in reason(tmp_path, "a.pdf", content)
    assert {record.name for record in caplog.records} == {"vivavoce.retrieval.documents.loading"}, "pypdf keeps quiet"
    assert logging.getLogger("pypdf").level == logging.NOTSET


# --- Word -------------------------------------------------------------------------------------------------------------


def saved(made):
    file = io.BytesIO()
    made.save(file)
    return file.getvalue()


def changed(data, name, change):
    """A DOCX file with one part of it changed; None takes it out."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as after:
        for part in before.namelist():
            content = before.read(part) if part != name else change(before.read(part))
            if content is not None:
                after.writestr(part, content)
    return file.getvalue()


def word_file():
    made = docx.Document()
    made.add_heading("Handbook", 0)
    made.add_heading("Opening", 1)
    words = made.add_paragraph("We open ")
    words.add_run("early").bold = True
    words.add_run(" at\nseven.")
    made.add_heading("Weekend", 2)
    for text, style in [("eggs", "List Bullet"), ("fried", "List Bullet 2"), ("toast", "List Bullet")]:
        made.add_paragraph(text, style=style)
    for text in ("one", "two"):
        made.add_paragraph(text, style="List Number")
    code = made.styles.add_style("Code", WD_STYLE_TYPE.PARAGRAPH)
    for text in ("if x:", "    y  # no heading"):
        made.add_paragraph(text, style=code)
    made.add_paragraph("As good as money.", style="Quote")
    table = made.add_table(2, 2)
    for cell, text in zip(table._cells, ("Card", "Price", "Small", "10 | 12"), strict=True):
        cell.text = text
    return made


def test_a_word_file_keeps_its_structure_as_markdown(tmp_path):
    made = document(tmp_path, "a.docx", saved(word_file()))
    assert made.text == (
        "# Handbook\n\n# Opening\n\nWe open early at\nseven.\n\n## Weekend\n\n- eggs\n- fried\n- toast\n\n1. one\n"
        "2. two\n\n```\nif x:\n    y  # no heading\n```\n\n> As good as money.\n\n"
        "| Card | Price |\n| --- | --- |\n| Small | 10 \\| 12 |\n"
    )
    assert made.format == "markdown"
    chunks = chunk_document(made)
    assert {chunk.title for chunk in chunks} == {"Handbook"}
    assert [chunk.heading for chunk in chunks] == ["Opening", "Opening > Weekend"]


WORD = saved(word_file())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no ZIP archive"),
        (b"plain text", "no ZIP archive"),
        (WORD[: len(WORD) // 2], "no ZIP archive"),
        (b"\xd0\xcf\x11\xe0 and so on", "password"),
        (saved(docx.Document()), "empty"),
        (changed(WORD, "word/document.xml", lambda xml: xml[:-20]), "damaged"),
        (changed(WORD, "word/document.xml", lambda _: None), "not a Word file"),
    ],
)
def test_a_damaged_word_file_is_left_out(tmp_path, content, why):
    assert why in reason(tmp_path, "a.docx", content)


def test_a_word_file_that_unpacks_to_very_much_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(word, "_LARGEST", 10_000)
    assert "unpacks to more" in reason(tmp_path, "a.docx", WORD)


# --- CSV --------------------------------------------------------------------------------------------------------------

MENU = 'Name,price,vegan,Code,note\nMocha,3.40,False,007,"with ""cream"",\nhot"\n\nLatte,3,true,008,\n'


def test_each_row_is_found_and_filtered_by_itself(tmp_path):
    (mocha, latte), skipped = read(tmp_path, "coffee_menu.csv", MENU)
    assert skipped == []
    assert replace(mocha, metadata={}) == Document(
        "coffee_menu.csv#2",
        'Name: Mocha\nprice: 3.40\nvegan: False\nCode: 007\nnote: with "cream",\nhot',
        "text",
        "Coffee menu",
    )
    assert mocha.metadata == {
        "Name": "Mocha",
        "price": 3.4,
        "vegan": False,
        "Code": "007",
        "note": 'with "cream",\nhot',
    }
    assert latte.source == "coffee_menu.csv#4" and latte.metadata["price"] == 3.0 and "note" not in latte.metadata
    with LocalKnowledge.from_folder(tmp_path, HashEmbedder()) as knowledge:
        (found,) = knowledge.search("something with coffee", where={"price": {"$lt": 3.2}, "vegan": True})
    assert found.source == "coffee_menu.csv#4" and found.title == "Coffee menu"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "a;b\n1,5;x\n2,5;y, z\n"),
        ("a.csv", "a\tb\n1,5\tx\n2,5\ty, z\n"),
        ("a.csv", "a|b\r\n1,5|x\r\n2,5|y, z\r\n"),
        ("a.csv", 'a,b\n"1,5",x\n"2,5","y, z"\n'),
        ("a.tsv", "a\tb\n1,5\tx\n2,5\ty, z\n"),
        ("a.csv", "a;b\r1,5;x\r2,5;y, z\r"),
        ("a.csv", "sep=;\r\na;b\r\n1,5;x\r\n2,5;y, z\r\n"),
        ("a.csv", "a;b\n1,5;x\n2,5;y, z\n".encode("utf-16")),
    ],
)
def test_what_separates_cells_is_found_out(tmp_path, name, content):
    documents, skipped = read(tmp_path, name, content)
    assert skipped == [] and [one.metadata for one in documents] == [{"a": "1,5", "b": "x"}, {"a": "2,5", "b": "y, z"}]


def test_one_column_with_commas_in_it_is_one_column(tmp_path):
    documents, skipped = read(tmp_path, "a.csv", "question\nHello there\nWhy so\nReally\n")
    assert skipped == [] and [one.text for one in documents][1] == "question: Why so"


def test_an_id_names_a_row_if_it_can(tmp_path):
    rows = "id,title,text\nm1,Mocha,Sweet.\nl1,Latte,Milky.\n"
    (mocha, latte), _ = read(tmp_path, "a.csv", rows)
    assert (mocha.source, mocha.title, latte.source) == ("a.csv#m1", "Mocha", "a.csv#l1")
    assert mocha.text == "id: m1\ntitle: Mocha\ntext: Sweet." and mocha.metadata == {"id": "m1"}
    twice, _ = read(tmp_path, "b.csv", rows.replace("l1", "m1"))
    assert [one.source for one in twice] == ["b.csv#2", "b.csv#3"]


def test_rows_that_do_not_fit_are_reported(tmp_path):
    documents, skipped = read(tmp_path, "a.csv", 'a,b\n1,2\n1,2,3\n1\n1,2,\n"x"y,2\n5,6\n"never closed,2\n7,8\n')
    assert [(one.source, one.text) for one in documents] == [
        ("a.csv#2", "a: 1\nb: 2"), ("a.csv#4", "a: 1"), ("a.csv#5", "a: 1\nb: 2"), ("a.csv#7", "a: 5\nb: 6"),
    ]  # fmt: skip
    assert [one.source for one in skipped] == ["a.csv#3", "a.csv#6", "a.csv#8"]
    assert skipped[0].reason == "row 3: 3 cells, but 2 columns have a name"
    assert "a quote is not closed" in skipped[1].reason and "lines 8 to 9 are lost" in skipped[2].reason


def test_long_cells_are_read_by_several_threads_and_the_limit_of_the_module_csv_stays():
    limit = csv.field_size_limit()
    data = f"name,text\ntea,{'word ' * 40_000}\n".encode()  # 200,000 characters
    failures: list[object] = []
    together = threading.Barrier(8)

    def work():
        together.wait()
        for _ in range(20):
            (row,) = read_csv(data, "menu.csv")
            if not isinstance(row, Document) or len(row.text) < 200_000:
                failures.append(row)

    threads = [threading.Thread(target=work) for _ in range(together.parties)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that they get into each other's way
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        now = csv.field_size_limit(limit)
    assert not failures and now == limit


def test_columns_without_a_name_or_with_the_same_one_get_one(tmp_path):
    (made,), _ = read(tmp_path, "a.csv", ",price,price\n0,1,2\n")
    assert made.metadata == {"column 1": 0, "price": 1, "price (3)": 2}


def test_numbers_stay_what_they_are(tmp_path):
    rows, _ = read(tmp_path, "a.csv", "year,phone,huge,mixed\n2020,+49,1" + "0" * 20 + ",1\n2021,030,2,x\n")
    assert rows[0].metadata == {"year": 2020, "phone": "+49", "huge": "1" + "0" * 20, "mixed": "1"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "empty"),
        ("a,b\n", "no row below the header"),
        ("a,b\n,\n", "no row below the header"),
        ("1,2\n3,4\n", "no header: the first row (1, 2) must name the columns"),
        ("a,b\ncafé,1\n".encode("latin-1"), "not UTF-8 text (byte 7)"),
        (b"PK\3\4 a workbook", "seems to be a *.docx"),
    ],
)
def test_a_table_without_rows_or_header_is_left_out(tmp_path, content, why):
    assert why in reason(tmp_path, "a.csv", content)


# --- JSON lines -------------------------------------------------------------------------------------------------------


def test_each_line_of_json_is_a_document(tmp_path):
    lines = [
        {"id": 7, "title": " Two\n words", "text": "A.\r\nB.", "year": 2020, "tags": ["x"], "big": 2**70},
        {"_id": "b/2", "page_content": "Next line: \u2028 here.", "metadata": {"source": "web", "year": 1}, "year": 2},
    ]
    content = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n"
    (first, second), skipped = read(tmp_path, "notes-of-us.jsonl", content)
    assert skipped == []
    assert replace(first, metadata={}) == Document("notes-of-us.jsonl#7", "A.\nB.", "text", "Two words")
    assert first.metadata == {"id": 7, "year": 2020, "tags": ["x"], "big": str(2**70)}
    assert replace(second, metadata={}) == Document(
        "notes-of-us.jsonl#b/2", "Next line: \u2028 here.", "text", "Notes of us"
    )
    assert second.metadata == {"_id": "b/2", "source": "web", "year": 2}
    with LocalKnowledge.from_folder(tmp_path, HashEmbedder()) as knowledge:
        assert [found.source for found in knowledge.search("what is here", where={"year": 2})] == [second.source]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON (Expecting property name"),
        ("[1]", "not an object but a list"),
        ('"text"', "not an object but a str"),
        ('{"title": "t"}', "no text under 'text', 'content', 'body', 'page_content'"),
        ('{"text": "  "}', "no text under"),
        ('{"text": 5}', "no text under"),
        ('{"text": "a", "x": NaN}', "NaN"),
        ('{"text": "\\ud800"}', "half of a character"),
        ('{"text": "a", "n": ' + "1" * 5000 + "}", "digits"),
        ('{"text": "a", "deep": ' + "[" * 100_000, "nested too deep"),
    ],
)
def test_a_bad_line_is_reported_with_its_number_and_the_rest_is_kept(tmp_path, line, why):
    documents, skipped = read(tmp_path, "a.jsonl", f'{{"text": "one"}}\n\n{line}\n{{"content": "two"}}')
    assert [(one.source, one.text) for one in documents] == [("a.jsonl#1", "one"), ("a.jsonl#4", "two")]
    (skip,) = skipped
    assert skip.source == "a.jsonl#3" and skip.reason.startswith("line 3: ") and why in skip.reason


# --- all of them ------------------------------------------------------------------------------------------------------

FILES = {
    "a.csv": MENU, "b.docx": WORD, "c.html": PAGE, "d.jsonl": '{"text": "one"}\nbad\n', "e.md": "# E\n\nText.",
    "f.pdf": HANDBOOK, "g.txt": "Text.", "sub/h.htm": "<p>Text.", "sub/i.pdf": b"no", "sub/j.tsv": "a\tb\n1\t2\n",
}  # fmt: skip


def test_a_folder_of_everything(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    told = []
    loaded = load_folder(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert [one.source for one in loaded.documents] == [
        "a.csv#2", "a.csv#4", "b.docx", "c.html", "d.jsonl#1", "e.md", "f.pdf", "g.txt", "sub/h.htm", "sub/j.tsv#2",
    ]  # fmt: skip
    assert [one.source for one in loaded.skipped] == ["d.jsonl#2", "sub/i.pdf"]
    assert told == [(done, len(FILES)) for done in range(1, len(FILES) + 1)]
    assert set(loading.FORMATS) - {".markdown"} == {"." + name.split(".")[1] for name in FILES}
    for made in loaded.documents:
        chunks = chunk_document(made)
        assert chunks and all(made.text[chunk.start : chunk.end] == chunk.text for chunk in chunks)


def test_a_single_file_is_loaded_as_one_of_its_folder(tmp_path):
    file = tmp_path / "rules.pdf"
    file.write_bytes(HANDBOOK)
    (tmp_path / "other.md").write_text("Other.")
    assert load_folder(file).documents == load_file(str(file)) == load_folder(tmp_path).documents[1:]


def test_a_file_that_cannot_be_used_is_an_error(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"no")
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(LoadingError, match=r"a\.pdf cannot be used: not a PDF file"):
        load_file(tmp_path / "a.pdf")
    with pytest.raises(LoadingError, match=r"not one of \*\.md, .*\*\.jsonl"):
        load_file(tmp_path / "a.png")
    with pytest.raises(LoadingError, match="does not exist"):
        load_file(tmp_path / "b.pdf")
    with pytest.raises(LoadingError, match="load_folder"):
        load_file(tmp_path)


def test_a_file_that_is_too_large_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "LARGEST", 4)
    assert "split it" in reason(tmp_path, "a.txt", "five!") and read(tmp_path, "b.txt", "four")[0]


def test_importing_loads_no_parser():
    code = "import sys, vivavoce.retrieval; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"bs4", "mammoth", "markdownify", "pypdf", "cryptography"} & set(loaded)
