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
