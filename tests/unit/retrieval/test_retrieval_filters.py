import re
import sqlite3

import pytest

from vivavoce.retrieval import Collection, Document, LocalKnowledge, Query, SearchOptions
from vivavoce.retrieval.testing import HashEmbedder

HOTELS = {
    "avalon": {"city": "Bath", "stars": 4, "tags": ["garden", "dogs"], "open": True},
    "bristol": {"city": "Bath", "stars": 3, "tags": ["dogs"], "open": False},
    "carlton": {"city": "York", "stars": 5.0, "open": True},
    "dolphin": {"city": "4", "note": None},
}


@pytest.fixture(scope="module")
def knowledge():
    documents = [
        Document(name, f"The {name} has rooms with breakfast.", "text", name.title(), metadata)
        for name, metadata in HOTELS.items()
    ]
    with LocalKnowledge.from_documents(documents, HashEmbedder()) as made:
        yield made


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"city": "Bath"}, "ab"),
        ({"city": "Bath", "stars": 4}, "a"),
        ({"stars": {"$gt": 3}}, "ac"),
        ({"stars": {"$gte": 3, "$lt": 5}}, "ab"),
        ({"stars": {"$in": [3, 5]}}, "bc"),
        ({"stars": {"$ne": 4}}, "bcd"),
        ({"stars": {"$nin": [3, 4]}}, "cd"),
        ({"tags": "dogs"}, "ab"),
        ({"tags": {"$contains": "garden"}}, "a"),
        ({"open": True}, "ac"),
        ({"open": {"$exists": False}}, "d"),
        ({"stars": {"$exists": True}}, "abc"),
        ({"$or": [{"stars": 5}, {"city": "4"}]}, "cd"),
        ({"$and": [{"city": "Bath"}, {"$not": {"stars": 4}}]}, "b"),
        ({"city": {"$gt": 0}}, ""),
        ({"city": 4}, ""),
        ({"source": "carlton"}, "c"),
        ({"title": {"$in": ["Avalon", "Dolphin"]}}, "ad"),
        ({"city": "'; DROP TABLE facts; --"}, ""),
        ({"stars": {"$in": []}}, ""),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "channels",
    [("dense",), ("keyword",), ("phonetic",), ("dense", "keyword"), ("dense", "keyword", "phonetic")],
    ids="+".join,
)
def test_a_filter_holds_for_exactly_these(knowledge, where, expected, channels):
    found = knowledge.search("rooms with breakfast", 10, where=where, options=SearchOptions(channels=channels))
    assert sorted(passage.source[0] for passage in found) == list(expected)


@pytest.mark.parametrize(
    "where",
    [
        *({}, "city", {"$xor": []}, {"stars": {"$near": 3}}, {"stars": {}}, {"$or": {}}, {"$or": []}, {"stars": None}),
        *({"stars": {"$in": 3}}, {"stars": {"$gt": [1]}}, {"open": {"$exists": 1}}, {"stars": {"$in": [[1]]}}),
    ],
    ids=str,
)
def test_a_malformed_filter_is_told(knowledge, where):
    with pytest.raises(ValueError, match=r"\$|filter|must be|compared"):
        knowledge.search("rooms", where=where)


def test_boosted_passages_come_first_however_little_they_fit(knowledge):
    plain = knowledge.search("the avalon has rooms")
    assert plain[0].source == "avalon"
    boosted = knowledge.search_query(
        Query.of("the avalon has rooms", boosts=[({"city": "York"}, 2.0), ({"stars": 3}, 1.5)])
    )
    assert [passage.source for passage in boosted[:3]] == ["carlton", "bristol", "avalon"]
    assert boosted[2].score == pytest.approx(plain[0].score)
    both = knowledge.search_query(
        Query.of("rooms", where={"city": "Bath"}, boosts=[({"city": "York"}, 2.0), ({"stars": 3}, 1)])
    )
    assert [passage.source for passage in both] == ["bristol", "avalon"]


def test_values_of_a_key(knowledge):
    assert knowledge.values("city") == ("4", "Bath", "York")
    assert knowledge.values("stars") == (3, 4, 5)
    assert knowledge.values("nothing") == ()


# --- source and title -------------------------------------------------------------------------------------------------

PAGES = [
    Document("a.md", "Oat milk.", title="Milk", metadata={"source": "b.md", "title": "Tea", "n": 1}),
    Document("b.md", "Black tea.", title="Tea", metadata={"source": ["web", "a.md"], "n": 2}),
    Document("c.md", "Coffee.", title="Coffee", metadata={"source": {"url": "a.md"}, "n": 3}),
]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"source": "a.md"}, "a"),
        ({"source": "b.md"}, "b"),
        ({"source": "web"}, ""),
        ({"source": {"$ne": "b.md"}}, "ac"),
        ({"title": "Tea"}, "b"),
        ({"metadata.source": "b.md"}, "a"),
        ({"metadata.source": "a.md"}, "b"),
        ({"metadata.title": {"$exists": True}}, "a"),
        ({"metadata.title": "Tea", "source": "a.md"}, "a"),
        ({"source.url": "a.md"}, "c"),
    ],
    ids=str,
)
def test_source_and_title_are_the_documents_own_whatever_its_metadata_says(where, expected):
    with LocalKnowledge.from_documents(PAGES, HashEmbedder()) as made:
        assert [passage.source[0] for passage in made.get(where=where)] == list(expected)
        found = made.search("tea milk coffee", where=where)
        assert sorted(passage.source[0] for passage in found) == list(expected)
        assert made.get(["a.md"])[0].metadata == PAGES[0].metadata, "and the metadata is kept as it is"
        assert made.values("source") == ("a.md", "b.md", "c.md") and made.values("title") == ("Coffee", "Milk", "Tea")
        assert made.delete(where=where) == len(expected) and made.problems() == []


def test_documents_of_an_earlier_version_are_right_once_they_are_put_in_again(tmp_path):
    with LocalKnowledge.create(tmp_path / "index", HashEmbedder()) as made:
        made.upsert(PAGES)
        database = made._store.table._connection
        database.execute("DELETE FROM facts WHERE key IN ('source', 'metadata.source')")
        database.execute("INSERT INTO facts VALUES ('source', 'b.md', 1)")
        # What that version called the same document.
        with LocalKnowledge.from_documents([Document("a.md", "Oat milk.", title="Milk")], HashEmbedder()) as plain:
            (digest,) = plain._store.table.digests(["a.md"]).values()
        database.execute("UPDATE documents SET digest = ? WHERE source = 'a.md'", (digest,))
        assert made.upsert(PAGES[:1]).updated == 1
        assert [passage.source for passage in made.get(where={"source": "a.md"})] == ["a.md"]


def test_in_a_collection_they_are_keys_of_the_metadata_as_in_chroma():
    collection = Collection(LocalKnowledge.empty(HashEmbedder()))
    collection.add(ids=["1", "2"], documents=["Tea.", "Milk."], metadatas=[{"source": "web"}, {"source": "book"}])
    for where in (
        {"source": "web"},
        {"$and": [{"source": {"$in": ["web"]}}, {"source": {"$ne": "book"}}]},
        {"$or": [{"source": "web"}, {"title": "Milk"}]},
        {"$not": {"source": "book"}},
    ):
        assert collection.get(where=where)["ids"] == ["1"]
        assert collection.query(query_texts=["tea milk"], where=where)["ids"] == [["1"]]
    assert collection.get(where={"source": "1"})["ids"] == []
    for where in ("web", {"$and": "web"}):
        with pytest.raises(ValueError, match="filter"):
            collection.get(where=where)


# --- regular expressions ----------------------------------------------------------------------------------------------


def test_a_pattern_that_never_ends_is_refused_and_the_rest_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("vivavoce.retrieval.query.filters.REGEX_SECONDS", 0.1)
    endless = {"$document": {"$regex": "(a|aa)+$"}}  # as many ways as the 300th Fibonacci number
    with LocalKnowledge.create(tmp_path / "index", HashEmbedder()) as made:
        made.upsert([Document(f"{n}.md", "a" * 300 + "b tea", "text") for n in range(3)])
        for call in (
            lambda: made.search("tea", where=endless),
            lambda: made.get(where=endless),
            lambda: made.entries(where=endless),
            lambda: made.delete(where={"$not": endless}),
        ):
            with pytest.raises(ValueError, match=r"'\(a\|aa\)\+\$' of \$regex took longer than 0\.1 s: simplify it"):
                call()
            assert len(made.search("tea", where={"$document": {"$regex": "a+b"}})) == 3
        assert made.upsert([Document("3.md", "More tea.")]).added == 1 and made.problems() == []


def test_an_error_of_the_database_stays_one():
    with LocalKnowledge.from_documents(PAGES, HashEmbedder()) as made:
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            made._store.table._all("SELECT * FROM nowhere")


TEXTS = [
    *("foo", "fob", "foo{e<=1}", "a]", "a", "b", "[", "-", "&", "|", ":", "aab", "x{}", "x{,}", "{a}", "a{1", "a{ 1}"),
    *("a b", "AB", "straße", "STRASSE", "\n", "x\na", "é", "a{2}", "aa", "a{e}", "(", "{", "}", "\\", "\\{e}", "#"),
]
PATTERNS = [
    *("(?:foo){e<=1}", "a{e}", r"a\{e}", r"\\{e}", "a{2}", "a{1,}", "a{,2}b", "x{}", "x{,}", "{a}", "a{1", "a{ 1}"),
    *(
        "[]a]",
        "[^]a]",
        r"[\]a]",
        r"[\[b]",
        "[a{e}]",
        "[{]",
        "[&][a]",
        "[:a]",
        r"\N{LATIN SMALL LETTER A}",
        r"[\N{COLON}]",
    ),
    *("(?i)STRASSE", "(?i)ab", "^a$", "(?m)^a$", "a++b", "(?>a+)b", "(?P<x>a)(?P=x)", "(a)?(?(1)b|a)", "(?s:.)", "."),
    *("(?x) a  b # {e} and [", "(?x) a # [\n [b]", r"(?x) \# ", "(?x) [#] ", r"\(", "(?a:\\w)", r"\bfo", r"\d", r"\s"),
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_what_it_means_to_python(pattern):
    with LocalKnowledge.empty(HashEmbedder()) as made:
        made.upsert([Document(f"{n}", text, "whole", "t") for n, text in enumerate(TEXTS)])
        wanted = [entry.text for entry in made.get() if re.search(pattern, entry.text)]
        found = made.get(where={"$document": {"$regex": pattern}})
        assert [entry.text for entry in found] == wanted
        opposite = made.get(where={"$document": {"$not_regex": pattern}})
        assert len(opposite) == len(made.get()) - len(wanted)


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
def test_posix_classes_are_sets_of_letters_as_in_python():
    with LocalKnowledge.from_documents([Document("a", "xa]x"), Document("b", "xax")], HashEmbedder()) as made:
        assert [one.source for one in made.get(where={"$document": {"$regex": "[[:alpha:]]"}})] == ["a"]


@pytest.mark.parametrize("pattern", ["(", "(?V1)a", "(?e)a", r"\p{L}", r"\L<names>", "a**", "(?R)"])
def test_what_python_does_not_know_is_no_pattern(pattern):
    with LocalKnowledge.empty(HashEmbedder()) as made, pytest.raises(ValueError, match="regular expression"):
        made.get(where={"$document": {"$regex": pattern}})
