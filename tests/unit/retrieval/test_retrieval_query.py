"""One question: a query goes whole through every wrapper, in any order, to every knowledge base."""

import itertools
from dataclasses import FrozenInstanceError, replace

import pytest
from chroma_function import HASHED
from langchain_core.documents import Document as Page
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from vivavoce.retrieval import (
    DialogueSearch,
    Document,
    InstructionNotUnderstood,
    KnowledgeBase,
    LocalKnowledge,
    Passage,
    PlainKnowledge,
    Query,
    QueryKnowledge,
    RerankedKnowledge,
    as_query_knowledge,
)
from vivavoce.retrieval.integrations.chroma import ChromaKnowledge
from vivavoce.retrieval.integrations.langchain import KnowledgeRetriever, LangChainKnowledge
from vivavoce.retrieval.testing import FakeKnowledge, HashEmbedder, check_knowledge

PLACES = ("Underdogs Too", "The Flying Falafel", "Hotel Nikko", "Good Hotel", "Fable")
TOPICS = {"cards": "Credit cards are taken at", "dogs": "Dogs are welcome at"}
QUESTION = "are dogs welcome at Hotel Nikko"
WHOLE = Query(
    texts=("do they take credit cards", "do they cake credit cards"),
    weights=(0.7, 0.3),
    history=("is the Flying Falafel any good", "It is."),
    where={"topic": "cards"},
    instruction="only cards",
    boosts=(({"topic": "cards"}, 0.25),),
)


class Recording:
    """Takes everything, and writes down what arrives; it knows what its passages are about."""

    def __init__(self):
        self.asked = []

    def search_query(self, query, k=5):
        self.asked.append((query, k))
        return [Passage(f"p{place}", f"{place} cards", "cards.md", 1 - place / 100) for place in range(k)]

    def names(self):
        return "place"

    def values(self, key):
        return PLACES

    def ordinary(self, key):
        return frozenset({"good", "hotel"})


class Plain:
    """A knowledge base of one method."""

    def __init__(self, knowledge):
        self._knowledge = knowledge

    def search(self, query, k=5):
        return self._knowledge.search(query, k)


class Hashed(Embeddings):
    def embed_documents(self, texts):
        return HASHED.embed(texts).tolist()

    def embed_query(self, text):
        return self.embed_documents([text])[0]


class Shared:
    """A reranker that counts words that question and passage share; of equals, the first stays first."""

    def rerank(self, query, passages, k=5):
        asked = {*query.lower().split()}
        scored = [replace(one, score=len(asked & {*one.text.lower().rstrip(".").split()})) for one in passages]
        return tuple(sorted(scored, key=lambda one: -one.score)[:k])


WRAPPERS = {
    "dialogue": DialogueSearch,
    "reranked": lambda knowledge: RerankedKnowledge(knowledge, Shared(), depth=7),
    "as query": as_query_knowledge,
}
CHAINS = [chain for length in (1, 2, 3) for chain in itertools.product(WRAPPERS, repeat=length)]
"""Names of wrappers, the outermost first."""

each_chain = pytest.mark.parametrize("chain", CHAINS, ids="(".join)


def wrapped(knowledge, chain):
    for name in reversed(chain):
        knowledge = WRAPPERS[name](knowledge)
    return knowledge


def documents():
    return [
        Document(f"{place}/{topic}", f"{words} {place}.", "text", metadata={"place": place, "topic": topic})
        for place in PLACES
        for topic, words in TOPICS.items()
    ]


@pytest.fixture(scope="module")
def local():
    with LocalKnowledge.from_documents(documents(), HashEmbedder()) as made:
        yield made


@pytest.fixture(scope="module")
def bases(local):
    """Every kind of knowledge base, over the same documents."""
    import chromadb

    pages = documents()
    ids, texts = [page.source for page in pages], [page.text for page in pages]
    metadatas = [{**page.metadata, "source": page.source} for page in pages]
    store = InMemoryVectorStore(Hashed())
    store.add_documents([Page(text, metadata=about) for text, about in zip(texts, metadatas, strict=True)])
    fake = FakeKnowledge([Passage(*pair, pair[0]) for pair in zip(ids, texts, strict=True)])
    with chromadb.EphemeralClient(chromadb.config.Settings(anonymized_telemetry=False)) as client:
        collection = client.create_collection("places", configuration={"hnsw": {"space": "cosine"}})
        collection.add(ids, HASHED.embed(texts), metadatas=metadatas, documents=texts)
        yield {
            "local": local,
            "chroma": ChromaKnowledge(collection, embedder=HASHED),
            "langchain": LangChainKnowledge(store),
            "there and back": LangChainKnowledge(KnowledgeRetriever(knowledge=local)),
            "fake": fake,
            "plain": Plain(fake),
            "adapted": PlainKnowledge(Plain(fake)),
        }
        client.delete_collection("places")


# --- the query --------------------------------------------------------------------------------------------------------


def test_a_query_is_made_of_a_text_of_readings_or_of_a_query():
    assert Query.of("tea") == Query(("tea",), (1.0,)) and Query.of(["tea", "tee"]).weights == (1.0, 1.0)
    query = Query.of(["tea", "tee"], [0.2, 0.8], history=["hello"], where={"year": 2020}, instruction="only Bath")
    assert query == Query(("tea", "tee"), (0.2, 0.8), ("hello",), {"year": 2020}, "only Bath")
    assert Query.of(query) is query
    assert Query.of(query, where={"year": 2021}) == replace(query, where={"year": 2021})
    assert hash(query) == hash(replace(query, where=None))


def test_a_query_cannot_be_changed():
    texts = ["tea"]
    query = Query(texts, history=texts)
    texts.append("tee")
    assert query.texts == query.history == ("tea",)
    with pytest.raises(FrozenInstanceError):
        query.texts = ()


def test_the_likeliest_reading():
    assert Query.of(["a", "b", "c"], [0.2, 0.4, 0.4]).text == "b" and Query(()).text == ""


def test_readings_with_the_same_words_are_one():
    query = Query.of(["oat  milk", "?!", "goat milk", " oat milk", "gift"], [0.3, 0.2, 0.1, 0.2, 0.0])
    assert query.distinct() == {"oat milk": 0.5, "goat milk": 0.1}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"texts": "tea"}, r"Query\.of"),
        ({"texts": ("tea", 7)}, "texts must be"),
        ({"texts": ("tea",), "history": "hello"}, "history must be"),
        ({"texts": ("tea", "tee"), "weights": (1.0,)}, "as many weights"),
        ({"texts": ("tea", "tee"), "weights": (1.0, -0.1)}, "not negative"),
        ({"texts": ("tea", "tee"), "weights": (1.0, float("nan"))}, "finite"),
        ({"texts": ("tea",), "boosts": (({"year": 2020}, float("inf")),)}, "boosts"),
    ],
    ids=str,
)
def test_what_is_no_query_is_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        Query(**wrong)
    with pytest.raises(ValueError, match="history"):
        Query.of("tea", history="hello")


# --- through every wrapper to every base ------------------------------------------------------------------------------


@each_chain
def test_a_query_arrives_whole_through_wrappers_in_any_order(chain):
    base = Recording()
    knowledge = wrapped(base, chain)
    assert isinstance(knowledge, QueryKnowledge)
    assert len(knowledge.search_query(WHOLE, 3)) == 3
    ((query, k),) = base.asked
    assert k == (7 if "reranked" in chain else 3), "a reranker reads more than it gives"
    assert replace(query, boosts=WHOLE.boosts) == WHOLE, "readings, weights, history, filter and instruction"
    assert query.boosts[:1] == WHOLE.boosts
    added = {where["place"] for where, _ in query.boosts[1:]}
    assert ("The Flying Falafel" in added) == ("dialogue" in chain), "and the dialogue counts"


@pytest.mark.parametrize("chain", [chain for chain in CHAINS if len(chain) <= 2], ids="(".join)
def test_every_base_inside_any_wrappers_keeps_the_contract(bases, chain):
    for name, base in bases.items():
        if "dialogue" in chain and name != "local":
            with pytest.raises(ValueError, match="does not know what its passages are about"):
                wrapped(base, chain)
            continue
        check_knowledge(wrapped(base, chain), QUESTION)


@each_chain
def test_demands_are_honoured_or_refused_through_any_wrappers(bases, chain):
    honoured = {"local": {"where", "instruction", "boosts"}, "chroma": {"where"}}
    demands = {
        "where": Query.of("dogs", where={"topic": "cards"}),
        "instruction": Query.of("dogs", instruction="only cards"),
        "boosts": Query.of("dogs", boosts=[({"topic": "cards"}, 9.0)]),
    }
    for (name, base), (demand, query) in itertools.product(bases.items(), demands.items()):
        if "dialogue" in chain and name != "local":
            continue
        knowledge = wrapped(base, chain)
        if demand not in honoured.get(name, ()):
            with pytest.raises(ValueError, match="cannot honour"):
                knowledge.search_query(query)
        else:
            hits = knowledge.search_query(query, 4)
            assert hits and all(hit.source.endswith("/cards") for hit in hits if demand != "boosts")
            assert any(hit.source.endswith("/cards") for hit in knowledge.search_query(query, 5))


@pytest.mark.parametrize("chain", [("reranked", "dialogue"), ("dialogue", "reranked")], ids="(".join)
def test_the_dialogue_counts_through_a_reranker(local, chain):
    def first(*history):
        return knowledge.search_query(Query.of("do they take credit cards", history=history), 1)[0].source

    knowledge = wrapped(local, chain)
    assert first("is the flying falafel any good", "it is") == "The Flying Falafel/cards"
    assert first("is the flying falafel any good", "it is", "and fable", "too") == "Fable/cards"


def test_a_plain_knowledge_base_is_asked_the_likeliest_reading():
    fake = FakeKnowledge(["Tea is free.", "The tee is green."])
    plain = Plain(fake)
    assert isinstance(plain, KnowledgeBase) and not isinstance(plain, QueryKnowledge)
    knowledge = as_query_knowledge(plain)
    assert as_query_knowledge(knowledge) is knowledge and as_query_knowledge(fake) is fake
    knowledge.search_query(Query.of(["tea", "tee"], [0.4, 0.6], history=["hello"]), 1)
    assert fake.queries == ["tee"]
    with pytest.raises(ValueError, match="Plain cannot honour a filter and boosts of a query: leave that out"):
        knowledge.search_query(Query.of("tea", where={"year": 2020}, boosts=[({"year": 2020}, 1.0)]))
    with pytest.raises(ValueError, match="an instruction"):
        knowledge.search_query(Query.of("tea", instruction="only green"))


def test_conveniences_take_filters_and_instructions_too(local):
    for chain in CHAINS:
        knowledge = wrapped(local, chain)
        (where,) = knowledge.search("cards", 1, where={"place": "Fable", "topic": "cards"})
        (instruction,) = knowledge.search("cards", 1, instruction="only Fable, only cards")
        assert where.source == instruction.source == "Fable/cards"
        with pytest.raises(InstructionNotUnderstood):
            knowledge.search("cards", instruction="only blue ones")


# --- the contract -----------------------------------------------------------------------------------------------------


class Deaf(FakeKnowledge):
    """Finds the same whatever else a query says."""

    def search_query(self, query, k=5):
        return super().search_query(Query(query.texts, query.weights), k)


class TwoMinded(FakeKnowledge):
    """Whoever asks through the other door hears something else."""

    def search(self, query, k=5):
        return tuple(reversed(super().search(query, 9)))[:k]


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (Deaf(["Tea is free.", "Tea is green."]), "was ignored"),
        (TwoMinded([Passage("a", "Tea.", "a", 1), Passage("b", "Free tea.", "b", 1)]), "must find the same"),
        (object(), "has search"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_broken_contract_is_noticed(made, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_knowledge(made, "tea")


def test_a_base_with_search_query_alone_keeps_the_contract():
    class QueryOnly:
        def search_query(self, query, k=5):
            return fake.search_query(query, k)

    fake = FakeKnowledge(["Tea is free.", "The tee is green."])
    check_knowledge(QueryOnly(), "tea")
    assert KnowledgeRetriever(knowledge=QueryOnly()).invoke("tea")[0].page_content == "Tea is free."
