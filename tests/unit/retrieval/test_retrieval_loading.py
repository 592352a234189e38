import os

import pytest

from vivavoce.retrieval import Document, LoadingError, SkippedFile, load_folder


def test_reads_markdown_and_text_sorted_through_folders(tmp_path):
    (tmp_path / "b.md").write_text("# B")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.TXT").write_text("plain")
    (tmp_path / "a.markdown").write_text("A")
    loaded = load_folder(tmp_path)
    assert [(one.source, one.format) for one in loaded.documents] == [
        ("a.markdown", "markdown"),
        ("b.md", "markdown"),
        ("sub/a.TXT", "text"),
    ]
    assert loaded.skipped == ()


def test_byte_order_mark_and_line_ends_are_read_as_python_reads_them(tmp_path):
    file = tmp_path / "menu.md"
    file.write_bytes(b"\xef\xbb\xbf# Menu\r\n\r\nCaf\xc3\xa9\rau lait\n")
    assert load_folder(tmp_path).documents == (Document("menu.md", "# Menu\n\nCafé\nau lait\n"),)
    assert load_folder(tmp_path).documents[0].text == file.read_text("utf-8-sig")


def test_unusable_files_are_told_three_times(tmp_path, caplog):
    (tmp_path / "good.md").write_text("We open at seven.")
    (tmp_path / "binary.md").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "latin1.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "logo.png").write_bytes(b"\x89PNG")
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere.md")
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / ".hidden.md").write_text("hidden")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "notes.md").write_text("hidden")
    told: list[SkippedFile] = []
    loaded = load_folder(tmp_path, told.append)
    assert [one.source for one in loaded.documents] == ["good.md"]
    assert [one.source for one in loaded.skipped] == [
        "binary.md", "blank.txt", "gone.md", "latin1.txt", "logo.png", "pipe.md",
    ]  # fmt: skip
    assert tuple(told) == loaded.skipped
    assert [record.getMessage() for record in caplog.records] == [
        f"skipped {one.source}: {one.reason}" for one in loaded.skipped
    ]
    reasons = {one.source: one.reason for one in loaded.skipped}
    assert "binary" in reasons["binary.md"] and "UTF-8" in reasons["latin1.txt"] and "*.md" in reasons["logo.png"]


@pytest.mark.parametrize("made", ["missing", "file", "empty", "binary only"])
def test_nothing_to_read_is_an_error_that_names_what_is_wanted(tmp_path, made):
    path = tmp_path / "docs"
    if made == "file":
        path.write_text("x")
    elif made != "missing":
        path.mkdir()
    if made == "binary only":
        (path / "a.md").write_bytes(b"\0")
    with pytest.raises(LoadingError, match=r"\*\.md, \*\.markdown, \*\.txt") as error:
        load_folder(path)
    assert error.value.stage == "load" and not error.value.retryable


@pytest.mark.parametrize(
    ("head", "metadata"),
    [
        ("---\ntitle: Tea\nyear: 2021\ntags: [hot, black]\n---\n", {"year": 2021, "tags": ["hot", "black"]}),
        ("---\ndate: 2024-05-01\nat: 2024-05-01 08:30:00\n---\n", {"date": "2024-05-01", "at": "2024-05-01T08:30:00"}),
        ("---\n1: one\nnested: {a: 1}\n...\n", {"1": "one", "nested": {"a": 1}}),
        ("---\n---\n", {}),
        ("---\n- a list\n---\n", {}),
        ("---\nbroken: [\n---\n", {}),
        ("---\nweight: .nan\n---\n", {}),
        ("---\n!!python/object/apply:os.system ['true']\n---\n", {}),
        ("\n---\nyear: 2021\n---\n", {}),
        ("year: 2021\n", {}),
    ],
)
def test_front_matter_of_markdown_is_metadata(tmp_path, head, metadata):
    (tmp_path / "tea.md").write_text(head + "\nWe have tea.\n")
    (tmp_path / "tea.txt").write_text(head + "\nWe have tea.\n")
    markdown, text = load_folder(tmp_path).documents
    assert dict(markdown.metadata) == metadata and dict(text.metadata) == {}
    assert markdown.text == head + "\nWe have tea.\n"
