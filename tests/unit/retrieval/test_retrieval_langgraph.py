import asyncio

import pytest
from langchain_core.embeddings import Embeddings
from langgraph.graph import START, StateGraph
from langgraph.store.base import GetOp, ListNamespacesOp, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from vivavoce.retrieval import LoadingError, LocalKnowledge, SearchOptions
from vivavoce.retrieval.integrations.langgraph import KnowledgeStore
from vivavoce.retrieval.testing import HashEmbedder

EMBEDDER = HashEmbedder(512)
ANN, BOB, SHOP = ("users", "ann"), ("users", "bob"), ("shop",)
ITEMS = [
    (ANN, "coffee", {"text": "Ann drinks her coffee with oat milk.", "level": 3, "tags": ["a", "b"]}),
    (ANN, "dog", {"text": "Ann has a dog called Rex.", "level": 5, "at": {"city": "Bath", "zip": 1}}),
    (BOB, "coffee", {"text": "Bob never drinks coffee.", "level": 1, "at": {"city": "Bristol"}}),
    (SHOP, "hours", {"text": "The shop opens at seven.", "level": None}),
]


class Hashed(Embeddings):
    def embed_documents(self, texts):
        return EMBEDDER.embed(texts).tolist()

    def embed_query(self, text):
        return self.embed_documents([text])[0]


def fresh():
    knowledge = LocalKnowledge.empty(EMBEDDER, options=SearchOptions(channels=("dense",)))
    return KnowledgeStore(knowledge, fields=["text"])


@pytest.fixture
def both():
    stores = (fresh(), InMemoryStore(index={"embed": Hashed(), "dims": 512, "fields": ["text"]}))
    for store in stores:
        for item in ITEMS:
            store.put(*item)
        store.put(SHOP, "secret", {"text": "The safe is behind the coffee machine."}, index=False)
    return stores


def told(found):
    return [(item.namespace, item.key, item.value) for item in found]


def test_items_are_kept_replaced_and_taken_out(both):
    for store in both:
        first = store.get(ANN, "dog")
        assert (first.namespace, first.key, first.value) == ITEMS[1] and store.get(BOB, "dog") is None
        store.put(ANN, "dog", {"text": "Rex is gone."})
        assert store.get(ANN, "dog").value == {"text": "Rex is gone."}
        store.delete(ANN, "dog")
        store.delete(ANN, "nothing")
        assert store.get(ANN, "dog") is None


def test_an_item_knows_since_when_it_is_there():
    store = fresh()
    store.put(ANN, "a", {"text": "one"})
    first = store.get(ANN, "a")
    store.put(ANN, "a", {"text": "two"})
    again = store.get(ANN, "a")
    assert again.created_at == first.created_at == first.updated_at < again.updated_at


@pytest.mark.parametrize("prefix", [(), ("users",), ANN, SHOP, ("nobody",)])
@pytest.mark.parametrize("query", [None, "who drinks coffee with milk"])
def test_searches_find_what_langgraphs_own_store_finds(both, prefix, query):
    ours, theirs = (store.search(prefix, query=query) for store in both)
    scores = [[item.score for item in found if item.score is not None] for found in (ours, theirs)]
    assert scores[0] == sorted(scores[0], reverse=True) and scores[0] == pytest.approx(scores[1], abs=1e-5)
    ours, theirs = (sorted(found, key=lambda item: (item.namespace, item.key)) for found in (ours, theirs))
    assert told(ours) == told(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.score == (None if other.score is None else pytest.approx(other.score, abs=1e-5))


@pytest.mark.parametrize(
    "wanted",
    [
        {"level": 3},
        {"level": {"$gte": 3}},
        {"level": {"$gt": 1, "$lt": 5}},
        {"level": {"$ne": 3}},
        {"level": None},
        {"tags": ["a", "b"]},
        {"tags": "a"},
        {"tags": {"$ne": ["a", "b"]}},
        {"at": {"city": "Bath"}},
        {"at": {"city": "Bath", "zip": 2}},
        {"text": {"$eq": "Bob never drinks coffee."}, "level": 1},
        {"nothing": 1},
    ],
)
@pytest.mark.parametrize("query", [None, "coffee"])
def test_filters_hold_for_the_same_items(both, wanted, query):
    numbers = isinstance(wanted.get("level"), dict) and not {"$ne"} & {*wanted["level"]}
    prefix = ("users",) if numbers else ()  # LangGraph's own fails on what is no number
    ours, theirs = (store.search(prefix, query=query, filter=wanted) for store in both)
    assert sorted(map(repr, told(ours))) == sorted(map(repr, told(theirs)))


def test_pages_of_a_result(both):
    for query in (None, "coffee"):
        whole = both[0].search((), query=query)
        parts = [item for offset in range(0, 6, 2) for item in both[0].search((), query=query, limit=2, offset=offset)]
        assert parts == whole and len(whole) == 5


def test_namespaces(both):
    for store in both:
        store.put(("users", "ann", "work"), "x", {"text": "desk"})
        assert store.list_namespaces() == [SHOP, ANN, ("users", "ann", "work"), BOB]
        assert store.list_namespaces(prefix=("users", "ann")) == [ANN, ("users", "ann", "work")]
        assert store.list_namespaces(prefix=("users", "*"), suffix=("work",)) == [("users", "ann", "work")]
        assert store.list_namespaces(max_depth=1) == [SHOP, ("users",)]
        assert store.list_namespaces(limit=1, offset=1) == [ANN]


def test_a_batch_reads_before_it_writes_and_the_last_write_counts():
    store = fresh()
    ops = [
        PutOp(ANN, "a", {"text": "one"}),
        GetOp(ANN, "a"),
        PutOp(ANN, "a", {"text": "two"}),
        SearchOp(ANN),
        ListNamespacesOp(),
    ]
    assert store.batch(ops) == [None, None, None, [], []]
    assert asyncio.run(store.abatch([GetOp(ANN, "a")]))[0].value == {"text": "two"}
    with pytest.raises(ValueError, match="no operation str"):
        store.batch(["a"])


def test_words_and_sounds_find_what_a_vector_does_not():
    store = KnowledgeStore(LocalKnowledge.empty(EMBEDDER), fields=["text"])
    for number, name in enumerate(("Kowalczyk", "Nakamura", "Fitzgerald")):
        store.put(SHOP, str(number), {"text": f"{name} repairs the machines."})
    (best,) = store.search(SHOP, query="what does kovalchick repair", limit=1)
    assert best.value["text"].startswith("Kowalczyk")


def test_fields_of_a_value_and_of_one_item():
    store = KnowledgeStore(LocalKnowledge.empty(EMBEDDER), fields=["facts[*].said"])
    store.put(ANN, "a", {"facts": [{"said": "likes tea"}, {"said": "has a cat"}], "note": "dogs"})
    store.put(ANN, "b", {"facts": [], "note": "dogs bark"}, index=["note"])
    assert [item.key for item in store.search(ANN, query="cat tea", limit=1)] == ["a"]
    assert [item.key for item in store.search(ANN, query="dogs", limit=1)] == ["b"]


def test_what_cannot_be_kept_is_refused(both):
    ours = both[0]
    with pytest.raises(LoadingError, match="not plain JSON"):
        ours.put(ANN, "x", {"text": "x", "when": object()})
    with pytest.raises(NotImplementedError):
        ours.put(ANN, "x", {"text": "x"}, ttl=5)
    with pytest.raises(ValueError, match=r"operator: \$near"):
        ours.search(ANN, filter={"level": {"$near": 1}})
    assert ours.get(ANN, "x") is None


def test_a_graph_remembers_across_processes(tmp_path):
    def answer(state, *, store):
        store.put(ANN, "said", {"text": state["question"]})
        return {"found": [item.value["text"] for item in store.search(ANN, query=state["question"])]}

    builder = StateGraph(dict)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    with LocalKnowledge.create(tmp_path / "memories", EMBEDDER) as knowledge:
        graph = builder.compile(store=KnowledgeStore(knowledge, fields=["text"]))
        assert graph.invoke({"question": "My dog is called Rex."})["found"] == ["My dog is called Rex."]
    with LocalKnowledge.open(tmp_path / "memories", EMBEDDER) as knowledge:
        (item,) = KnowledgeStore(knowledge, fields=["text"]).search(ANN, query="what is my dog called")
        assert item.value == {"text": "My dog is called Rex."}
