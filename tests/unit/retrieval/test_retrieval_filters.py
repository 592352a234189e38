import pytest

from vivavoce.retrieval import Document, LocalKnowledge, Query, SearchOptions
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
