import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivavoce.retrieval import ChunkOptions, Document, chunk_document

PAGE = """---
title: "Ignored when the page is named"
layout: x
---
# Opening hours

We open *every* day.

## Weekend

### Sunday `brunch`

From 9 a.m. to 5 p.m. on most Sundays.

- eggs
- toast

## Table

| day | closes |
| --- | ------ |
| Fri | 22:00  |
| Sat | 23:00  |

```sh
# not a heading
echo one two three four five six seven eight nine ten
```

Closing setext
--------------

    indented code
"""


def texts(document, words=120):
    return [chunk.text for chunk in chunk_document(document, ChunkOptions(words))]


def test_sections_keep_title_and_heading_path():
    chunks = chunk_document(Document("hours.md", PAGE.replace("Ignored when the page is named", "Opening hours")))
    assert {chunk.title for chunk in chunks} == {"Opening hours"}
    assert [chunk.heading for chunk in chunks] == ["", "Weekend > Sunday brunch", "Table", "Closing setext"]
    assert chunks[0].text == "# Opening hours\n\nWe open *every* day."
    assert chunks[0].body == "We open *every* day."
    assert chunks[1].text.startswith("## Weekend\n\n### Sunday `brunch`\n\nFrom 9")
    assert chunks[1].in_context.startswith("Opening hours > Weekend > Sunday brunch\nFrom 9 a.m.")
    assert "# not a heading" in chunks[2].text and "| Sat | 23:00  |" in chunks[2].text
    assert chunks[3].body == "    indented code"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Gift cards\n\nText.", "Gift cards"),
        ("Welcome.\n\n# Gift cards\n\nText.", "Gift cards"),
        ("# One\n\nText.\n\n# Two\n\nText.", "Lost property"),
        ("## Only a section\n\nText.", "Lost property"),
        ("---\ntitle: 'Cards'\n---\nText.", "Cards"),
        ("---\nno: title\n---\n# Page\n\nText.", "Page"),
    ],
)
def test_title_is_the_only_first_heading_or_the_front_matter_or_the_file_name(text, title):
    chunks = chunk_document(Document("sub/lost-property.md", text))
    assert {chunk.title for chunk in chunks} == {title}
    assert "title:" not in "".join(chunk.text for chunk in chunks)


def test_several_first_level_headings_are_sections():
    chunks = chunk_document(Document("all.md", "# One\n\nA.\n\n## Sub\n\nB.\n\n# Two\n\nC."))
    assert [chunk.heading for chunk in chunks] == ["One", "One > Sub", "Two"]


def test_plain_text_is_cut_at_paragraphs():
    document = Document("notes.txt", "\n\n# no heading\nsecond line\n \nnext one\n", "text")
    assert texts(document, 5) == ["# no heading\nsecond line", "next one"]
    assert texts(document) == ["# no heading\nsecond line\n \nnext one"]
    assert chunk_document(document)[0].title == "Notes"


def test_sentences_are_kept_whole_and_abbreviations_do_not_end_them():
    text = "Doors open at 7 a.m. Monday for Dr. Lee. She pays $3.40 vs. Four dollars! “Why?” Nobody really knows."
    assert texts(Document("a.txt", text, "text"), 9) == [
        "Doors open at 7 a.m. Monday for Dr. Lee.",
        "She pays $3.40 vs. Four dollars! “Why?”",
        "Nobody really knows.",
    ]


def test_a_sentence_that_is_too_long_is_cut_between_words():
    assert texts(Document("a.md", "one two three four five six seven"), 3) == [
        "one two three",
        "four five six",
        "seven",
    ]


def test_chinese_is_counted_and_cut_by_characters():
    assert texts(Document("a.md", "我们七点开门。周日九点开门。"), 8) == ["我们七点开门。", "周日九点开门。"]


def test_lists_and_tables_are_cut_between_items_and_code_never():
    items = "- one two three\n  - deep four\n- five six seven\n- eight nine ten"
    assert texts(Document("a.md", f"Intro.\n\n{items}"), 7) == [
        "Intro.",
        "- one two three\n  - deep four",
        "- five six seven",
        "- eight nine ten",
    ]
    table = "| a | b |\n|---|---|\n| c | d |\n| e | f |"
    assert texts(Document("a.md", table), 6) == ["| a | b |\n|---|---|", "| c | d |", "| e | f |"]
    code = "```\n" + "a b c d\n" * 9 + "```"
    assert texts(Document("a.md", f"Before.\n\n{code}\n\nAfter."), 5) == ["Before.", code, "After."]


def test_ids_depend_on_content_alone():
    def ids(text, source="a.md"):
        return [chunk.id for chunk in chunk_document(Document(source, text))]

    before = ids("# T\n\n## A\n\nSame.\n\n## B\n\nOther.")
    after = ids("# T\n\n## New\n\nNew.\n\n## A\n\nSame.\n\n## B\n\nChanged.")
    assert before[0] == after[1] and before[1] != after[2]
    assert before[0].startswith("a.md#")
    assert ids("Same.", "b.md") != ids("Same.")
    twins = ids("# A\n\nx.\n\n# A\n\nx.")
    assert len(set(twins)) == 2


def test_headings_without_text_make_no_chunk():
    assert chunk_document(Document("a.md", "# Only\n\n## Headings\n\n---\n")) == ()
    assert chunk_document(Document("a.txt", " \n\n", "text")) == ()


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="max_words"):
        ChunkOptions(0)


@settings(max_examples=150)
@given(
    st.lists(
        st.sampled_from(
            ["# H", "## S", "### T", "A sentence. Another one! ok", "- x\n- y z\n\n  more", "|a|b|\n|-|-|\n|c|d|",
             "> quote. Yes", "```\nco de\n```", "---", "<div>\nhtml\n</div>", "[ref]: http://x", "word " * 30, "  ",
             "é 拿铁。好 \u2028x"]
        ),
        max_size=12,
    ),
    st.integers(1, 12),
    st.sampled_from(["markdown", "text"]),
    st.sampled_from(["\n\n", "\n"]),
)  # fmt: skip
def test_chunks_are_ordered_slices_within_the_limit_that_lose_nothing(parts, words, kind, glue):
    document = Document("p.md", glue.join(parts), kind)
    chunks = chunk_document(document, ChunkOptions(words))
    last = 0
    for chunk in chunks:
        assert chunk.text == document.text[chunk.start : chunk.end] and chunk.body.strip()
        assert last <= chunk.start < chunk.end
        last = chunk.end
        assert "```" in chunk.text or "    " in chunk.text or len(chunk.body.split()) <= words
    assert len({chunk.id for chunk in chunks}) == len(chunks)
    covered = "".join(chunk.text for chunk in chunks)
    if kind == "text":
        assert "".join(covered.split()) == "".join(document.text.split())
    else:
        # Without blanks: a fence right behind an HTML block belongs to that block, which may be cut between words.
        assert "".join(covered.split()).count("code") == document.text.count("co de")
