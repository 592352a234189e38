import chromadb
import numpy as np
import pytest
from chroma_function import HASHED, Function
from chromadb.config import Settings

from vivavoce.retrieval import DimensionMismatch, LoadingError, LocalKnowledge, SearchOptions
from vivavoce.retrieval.integrations.collection import Collection

IDS = ["hours", "milk", "dogs", "beans"]
TEXTS = ["We open at seven in the morning.", "Oat milk costs sixty cents.", "Dogs are welcome.", "Beans from Kenya."]
TOLD = [{"floor": 1, "kind": "info"}, {"floor": 2}, {"floor": 3, "tags": ["dogs", "outside"]}, None]


@pytest.fixture
def ours(tmp_path):
    with LocalKnowledge.create(tmp_path / "i", HASHED, options=SearchOptions(channels=("dense",))) as knowledge:
        yield Collection(knowledge)


@pytest.fixture
def both(ours, tmp_path):
    client = chromadb.PersistentClient(str(tmp_path / "chroma"), Settings(anonymized_telemetry=False))
    space = {"hnsw": {"space": "cosine"}}
    yield ours, client.create_collection("pages", embedding_function=Function(), configuration=space)
    client.close()


def filled(collections):
    for one in collections:
        one.add(ids=IDS, documents=TEXTS, metadatas=TOLD)
    return collections


def records(collection, **asked):
    given = collection.get(**asked)
    told = [value and {**value} for value in given["metadatas"]]
    return dict(zip(given["ids"], zip(given["documents"], told, strict=True), strict=True))


def same(collections, **asked):
    first, second = (records(one, **asked) for one in collections)
    assert first == second
    return first


def test_it_does_what_chroma_does_step_by_step(both):
    filled(both)
    assert [one.count() for one in both] == [4, 4]
    assert same(both)["dogs"] == ("Dogs are welcome.", {"floor": 3, "tags": ["dogs", "outside"]})
    for one in both:  # ids that are there are left as they are
        one.add(ids=["milk", "cake"], documents=["Something else.", "Cakes are baked here."])
    assert same(both)["milk"][0] == "Oat milk costs sixty cents." and len(records(both[0])) == 5
    for one in both:  # metadata is merged; ids that are not there are passed over
        one.update(ids=["hours", "nobody"], metadatas=[{"kind": "times", "open": True}, {"a": 1}])
    assert same(both)["hours"] == (TEXTS[0], {"floor": 1, "kind": "times", "open": True})
    for one in both:
        one.update(ids="milk", documents="Oat milk is free now.")
        one.upsert(
            ids=["dogs", "tea"], documents=["Dogs stay outside.", "Tea from Assam."], metadatas=[{"floor": 4}, None]
        )
    assert same(both)["dogs"][0] == "Dogs stay outside." and same(both)["tea"] == ("Tea from Assam.", None)
    for one in both:
        one.update(ids="hours", metadatas={"kind": None})
    assert same(both)["hours"][1] == {"floor": 1, "open": True}
    for one in both:
        one.delete(ids=["tea", "nobody"])
        one.delete(where={"floor": {"$gte": 4}})
        one.delete(where_document={"$contains": "Cakes"})
    assert sorted(same(both)) == ["beans", "hours", "milk"]


@pytest.mark.parametrize(
    "asked",
    [
        {"where": {"floor": {"$gt": 1}}},
        {"where": {"$and": [{"floor": {"$gte": 1}}, {"kind": "info"}]}},
        {"where": {"kind": {"$ne": "info"}}},
        {"where": {"tags": {"$contains": "dogs"}}},
        {"where_document": {"$contains": "milk"}},
        {"where_document": {"$contains": "MILK"}},
        {"where_document": {"$not_contains": "e"}},
        {"where_document": {"$regex": "K.n"}},
        {"where_document": {"$or": [{"$contains": "seven"}, {"$contains": "Kenya"}]}},
        {"where": {"floor": 2}, "where_document": {"$contains": "cents"}},
        {"ids": ["milk", "nobody"]},
        {"ids": "dogs", "where": {"floor": 1}},
    ],
)
def test_filters_hold_for_the_same_records_as_in_chroma(both, asked):
    same(filled(both), **asked)


def test_nearest_records_are_the_same_at_the_same_distance(both):
    filled(both)
    asked = {"query_texts": ["When do you open in the morning?", "Are dogs welcome?"], "n_results": 3}
    one, other = (each.query(**asked) for each in both)
    assert [line[0] for line in one["ids"]] == [line[0] for line in other["ids"]] == ["hours", "dogs"]
    np.testing.assert_allclose(one["distances"], other["distances"], atol=1e-5)
    vectors = HASHED.embed(asked["query_texts"])
    again = both[0].query(query_embeddings=7 * vectors, n_results=3)
    assert [line[0] for line in again["ids"]] == ["hours", "dogs"], "others are equally near"
    np.testing.assert_allclose(again["distances"], one["distances"], atol=1e-5)
    few = [each.query(query_texts="milk", n_results=9, where={"floor": {"$lt": 3}}) for each in both]
    assert few[0]["ids"] == few[1]["ids"] == [["milk", "hours"]]


def test_what_is_included_and_what_is_not(both):
    filled(both)
    mine, theirs = (one.get(include=["embeddings"]) for one in both)
    assert mine["documents"] is None is mine["metadatas"] and mine["included"] == ["embeddings"]
    order = [mine["ids"].index(name) for name in theirs["ids"]]
    np.testing.assert_allclose(mine["embeddings"][order], theirs["embeddings"], atol=1e-6)
    assert both[0].peek(2)["ids"] == IDS[:2] and both[0].peek(2)["embeddings"].shape == (2, 256)
    asked = both[0].query(query_texts="dogs", n_results=2, include=["embeddings"])
    assert asked["distances"] is None and asked["embeddings"][0].shape == (2, 256)
    assert both[0].get(limit=2, offset=1)["ids"] == IDS[1:3]
    with pytest.raises(ValueError, match="include is a list"):
        both[0].get(include=["distances"])


def test_vectors_of_ones_own_with_and_without_documents(both):
    vectors = HASHED.embed(TEXTS)
    for one in both:
        one.add(ids=IDS, embeddings=vectors, metadatas=TOLD)
        one.update(ids="dogs", embeddings=vectors[0])
        one.update(ids="beans", metadatas={"from": "Kenya"})
    assert same(both)["beans"] == (None, {"from": "Kenya"})
    found = [one.query(query_embeddings=vectors[3], n_results=1) for one in both]
    assert found[0]["ids"] == found[1]["ids"] == [["beans"]], "new metadata leaves the vector"
    nearest = both[0].query(query_embeddings=vectors[0], n_results=2)
    assert sorted(nearest["ids"][0]) == ["dogs", "hours"]


def test_all_channels_find_by_words_and_nearest_comes_first(tmp_path):
    collection = Collection(LocalKnowledge.empty(HASHED))
    filled([collection])
    found = collection.query(query_texts="oat milk", n_results=4)
    assert found["ids"][0][0] == "milk" and found["distances"][0] == sorted(found["distances"][0])


def test_a_text_is_one_record_however_it_looks(ours):
    long = "# A heading\n\nOne.\n\n## Another\n\n" + "Many words follow here. " * 200
    ours.add(ids=["long", "blank"], documents=[long, " "])
    assert records(ours)["long"] == (long, None) and ours.count() == 2 == len(ours.knowledge)
    ours.delete(ids=["long"])
    assert ours.get()["ids"] == ["blank"]


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda one: one.add(ids=["a", "a"], documents=["x", "y"]), "each once"),
        (lambda one: one.add(ids=[""], documents=["x"]), "not empty"),
        (lambda one: one.add(ids=["a", "b"], documents=["x"]), "2 ids need as many documents, not 1"),
        (lambda one: one.add(ids=["a"]), "give documents, embeddings, or both"),
        (lambda one: one.add(ids=["a"], documents=[1]), "Expected texts"),
        (lambda one: one.delete(), "say which records"),
        (lambda one: one.query(), "either query_texts or query_embeddings"),
        (lambda one: one.query(query_texts="a", n_results=0), "at least 1"),
        (lambda one: one.get(where_document={"$like": "a"}), "no operator '.like'"),
        (lambda one: one.get(where_document={"$regex": "("}), "regular expression"),
        (lambda one: one.get(where_document={"$contains": ""}), "not empty"),
        (lambda one: one.get(where_document={"$contains": "a", "$regex": "b"}), "one condition"),
        (lambda one: one.get(where={"a": {"$near": 1}}), "no operator"),
    ],
)
def test_what_is_wrong_is_said(ours, call, problem):
    with pytest.raises(ValueError, match=problem):
        call(ours)
    assert ours.count() == 0


def test_wrong_vectors_and_metadata_change_nothing(ours):
    with pytest.raises(DimensionMismatch, match=r"needs \(n, 256\)"):
        ours.add(ids=["a"], embeddings=[[1.0, 2.0]])
    with pytest.raises(LoadingError, match="not plain JSON"):
        ours.add(ids=["a"], documents=["x"], metadatas=[{"b": b"bytes"}])
    assert ours.count() == 0


def test_it_is_on_disk_when_a_call_returns(tmp_path):
    with LocalKnowledge.create(tmp_path / "i", HASHED) as knowledge:
        filled([Collection(knowledge)])
        with LocalKnowledge.open(tmp_path / "i", HASHED) as reader:
            assert Collection(reader).count() == 4
            Collection(knowledge).update(ids="milk", metadatas={"floor": 9})
            assert Collection(reader).get(ids="milk")["metadatas"] == [{"floor": 9}]
