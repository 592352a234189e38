import sys
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import chromadb
import numpy as np
import pytest
from chroma_function import HASHED, Function
from chromadb.config import Settings
from chromadb.utils.embedding_functions import DefaultEmbeddingFunction, ONNXMiniLM_L6_V2, known_embedding_functions

from vivavoce.retrieval import DimensionMismatch, EmbeddingError, IndexNotFound, KnowledgeBase, StoreError
from vivavoce.retrieval.integrations.chroma import ChromaKnowledge
from vivavoce.retrieval.testing import HashEmbedder, check_knowledge

QUESTION = "When in the morning do you open?"
RECORDS = {
    "hours": ("We open at seven in the morning.", {"source": "hours.md", "title": "Opening hours", "floor": 1}),
    "milk": ("Oat milk costs sixty cents more.", {"source": "milk.md", "heading": "Extras", "floor": 2}),
    "dogs": ("Dogs are welcome on the terrace.", {"floor": 3, "tags": ["dogs", "outside"]}),
    "beans": ("The beans come from Kenya.", None),
}


class Unnamed(Function):
    """One that Chroma does not find again."""

    @staticmethod
    def name():
        return NotImplemented


def connect(path=None):
    settings = Settings(anonymized_telemetry=False)
    return chromadb.EphemeralClient(settings) if path is None else chromadb.PersistentClient(str(path), settings)


def made(client, name="pages", *, space="cosine", function=None, records=RECORDS, length=1.0):
    collection = client.create_collection(
        name, configuration={"hnsw": {"space": space}, "embedding_function": function}, embedding_function=function
    )
    if records:
        texts, metadatas = map(list, zip(*records.values(), strict=True))
        vectors = HASHED.embed([text or QUESTION for text in texts]) * length
        collection.add([*records], vectors, metadatas=metadatas, documents=texts)
    return collection


@pytest.fixture
def memory():
    with connect() as opened:
        yield opened


@pytest.fixture(params=["ephemeral", "persistent"])
def client(request, tmp_path):
    with connect(None if request.param == "ephemeral" else tmp_path) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path):
    """A database that is closed again: a collection without a function of its own, and one with."""
    with connect(tmp_path / "chroma") as opened:
        made(opened)
        made(opened, "embedding", function=Function())
    return tmp_path / "chroma"


@pytest.fixture
def no_model(monkeypatch, tmp_path):
    """A home in which Chroma's default model was never downloaded."""
    monkeypatch.setattr(ONNXMiniLM_L6_V2, "DOWNLOAD_PATH", tmp_path / "model")
    return tmp_path / "model"


def nothing_is_open(folder):
    """Chroma refuses a client with other settings while one is open."""
    with chromadb.PersistentClient(str(folder), Settings(anonymized_telemetry=False, allow_reset=True)) as other:
        assert other.count_collections() == 2


def ids(passages):
    return [passage.id for passage in passages]


@pytest.mark.parametrize("space", ["cosine", "ip", "l2"])
def test_every_space_keeps_the_contract(client, space):
    knowledge = ChromaKnowledge(made(client, space=space), embedder=HASHED)
    assert isinstance(knowledge, KnowledgeBase)
    check_knowledge(knowledge, QUESTION)
    assert [len(knowledge.search(QUESTION, k)) for k in (1, 2, 9)] == [1, 2, 4]
    with pytest.raises(ValueError, match="at least 1"):
        knowledge.search(QUESTION, 0)


def test_the_function_of_a_collection_keeps_the_contract(memory):
    check_knowledge(ChromaKnowledge(made(memory, function=Function())), QUESTION)


def test_what_chroma_knows_is_carried_over(memory):
    found = {one.id: one for one in ChromaKnowledge(made(memory), embedder=HASHED).search(QUESTION)}
    hours, milk, beans = found["hours"], found["milk"], found["beans"]
    assert (hours.source, hours.title, hours.heading) == ("hours.md", "Opening hours", "")
    assert hours.text == "We open at seven in the morning." and hours.metadata == {"floor": 1}
    assert milk.heading == "Extras" and found["dogs"].metadata["tags"] == ["dogs", "outside"]
    assert (beans.source, beans.title, beans.metadata) == ("beans", "", {})


@pytest.mark.parametrize(
    ("space", "score"),
    [
        ("cosine", lambda asked, held: asked @ held / np.linalg.norm(held)),
        ("ip", lambda asked, held: asked @ held),
        ("l2", lambda asked, held: 1 - np.sum((asked - held) ** 2) / 2),
    ],
)
def test_scores_are_what_the_space_says(client, space, score):
    """Held vectors are of length 2, so that no two spaces agree."""
    found = ChromaKnowledge(made(client, space=space, length=2.0), embedder=HASHED).search(QUESTION)
    [asked] = HASHED.embed([QUESTION])
    expected = {key: score(asked, 2 * HASHED.embed([text])[0]) for key, (text, _) in RECORDS.items()}
    assert {one.id: one.score for one in found} == pytest.approx(expected, abs=1e-5)
    assert [one.similarity for one in found] == [one.score if space == "cosine" else None for one in found]


def test_no_similarity_is_above_one(memory):
    """Rounding: Chroma's distance of some texts to themselves is below 0."""
    texts = {f"t{number}": (f"{number} words of text number {number}", None) for number in range(40)}
    collection = made(memory, records=texts)
    knowledge = ChromaKnowledge(collection, embedder=HASHED)
    best = [knowledge.search(text, 1)[0] for text, _ in texts.values()]
    assert [one.similarity for one in best] == [min(one.score, 1.0) for one in best]


def test_records_without_words_take_nobodys_place(client):
    bare = {f"bare{number}": (text, {"floor": 9}) for number, text in enumerate((None, "  ", None))}
    knowledge = ChromaKnowledge(made(client, records={**bare, **RECORDS}), embedder=HASHED)
    check_knowledge(knowledge, QUESTION)
    assert [ids(knowledge.search(QUESTION, k))[0] for k in (1, 2, 5)] == ["hours"] * 3
    assert len(knowledge.search(QUESTION, 9)) == 4
    assert knowledge.search(QUESTION, where={"floor": 9}) == ()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"floor": 2}, {"milk"}),
        (MappingProxyType({"floor": {"$gte": 2}}), {"milk", "dogs"}),
        ({"floor": {"$ne": 2}}, {"hours", "dogs", "beans"}),
        ({"$and": [{"floor": {"$lt": 3}}, {"source": {"$in": ["milk.md", "tea.md"]}}]}, {"milk"}),
        ({"$or": [{"tags": {"$contains": "outside"}}, {"title": "Opening hours"}]}, {"hours", "dogs"}),
        ({"floor": 4}, set()),
    ],
)
def test_filters_are_chromas(memory, where, expected):
    knowledge = ChromaKnowledge(made(memory), embedder=HASHED)
    assert set(ids(knowledge.search(QUESTION, where=where))) == expected
    assert ids(knowledge.search(QUESTION, 1, where=where)) == ids(knowledge.search(QUESTION, where=where))[:1]


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"floor": 1, "source": "hours.md"},
        {"floor": {"$gt": 1, "$lt": 3}},
        {"$not": {"floor": 1}},
        {"floor": {"$exists": True}},
        {"source": {"$gt": "a"}},
        {"$and": [{"floor": 1}]},
        {"floor": {"$in": [1, "hours.md"]}},
        {"floor": {"$in": [[1]]}},
        "floor",
    ],
)
def test_a_filter_that_chroma_cannot_take_is_refused(memory, where):
    with pytest.raises(ValueError, match=r"Chroma does not take the filter .* It takes one condition"):
        ChromaKnowledge(made(memory), embedder=HASHED).search(QUESTION, where=where)


def test_a_question_is_embedded_as_a_question(memory):
    class Prompted(HashEmbedder):
        def embed(self, texts, *, kind="passage"):
            self.read = [text.encode() for text in texts]
            return super().embed(["dogs are welcome"] if kind == "query" else texts)

    embedder = Prompted()
    assert ids(ChromaKnowledge(made(memory), embedder=embedder).search("when\ud800", 1)) == ["dogs"]
    assert embedder.read == [b"when?"], "half of a surrogate pair is no text"


def test_an_empty_collection_finds_nothing(memory):
    knowledge = ChromaKnowledge(made(memory, records={}), embedder=HASHED)
    assert knowledge.search(QUESTION) == ()


def test_clients_come_and_go(folder):
    with ChromaKnowledge.open(folder, "pages", embedder=HASHED) as knowledge:
        check_knowledge(knowledge, QUESTION)
        with connect(folder) as client:  # a second client of the same folder sees and changes the same
            client.get_collection("pages", embedding_function=None).add(
                ["tea"], HASHED.embed([QUESTION]), documents=["Tea is made the whole day."]
            )
            assert ids(knowledge.search(QUESTION, 1)) == ["tea"]
        before = knowledge.search(QUESTION)
    with ChromaKnowledge.open(str(folder), "pages", embedder=HASHED) as again:
        assert again.search(QUESTION) == before and len(before) == 5
    nothing_is_open(folder)


def test_a_named_function_is_found_again(folder):
    with ChromaKnowledge.open(folder, "embedding") as knowledge:
        assert ids(knowledge.search(QUESTION, 1)) == ["hours"]


def test_a_function_that_is_not_known_here(folder, monkeypatch):
    monkeypatch.delitem(known_embedding_functions, "hashed")  # as in a process that did not register it
    with pytest.raises(EmbeddingError, match=r"'embedding' cannot embed \(.*hashed not found.*: give the embedder"):
        ChromaKnowledge.open(folder, "embedding")
    with ChromaKnowledge.open(folder, "embedding", embedder=HASHED) as knowledge:
        assert ids(knowledge.search(QUESTION, 1)) == ["hours"]


def test_closing(folder):
    with connect(folder) as client:
        theirs = ChromaKnowledge(client.get_collection("pages"), embedder=HASHED)
        ours = ChromaKnowledge.open(folder, "pages", embedder=HASHED)
        ours.close()
        ours.close()
        with pytest.raises(StoreError, match="closed: open it again"):
            ours.search(QUESTION)
        assert ids(theirs.search(QUESTION, 1)) == ["hours"], "the other client of the folder goes on"
        theirs.close()
        assert client.get_collection("pages").count() == 4, "a client that was given is not ours to close"


def test_what_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(IndexNotFound, match=r"no Chroma database in .*missing.*chroma\.sqlite3"):
        ChromaKnowledge.open(tmp_path / "missing", "pages", embedder=HASHED)
    assert not (tmp_path / "missing").exists()
    with pytest.raises(IndexNotFound, match=r"no collection 'page' in .*; there is: embedding, pages"):
        ChromaKnowledge.open(folder, "page", embedder=HASHED)
    nothing_is_open(folder)


def test_a_database_that_cannot_be_opened(folder):
    with (
        chromadb.PersistentClient(str(folder), Settings(anonymized_telemetry=False, allow_reset=True)),
        pytest.raises(StoreError, match=r"different settings.* give ChromaKnowledge a collection of that client"),
    ):
        ChromaKnowledge.open(folder, "pages", embedder=HASHED)
    (folder / "chroma.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"cannot open .*not a database"):
        ChromaKnowledge.open(folder, "pages", embedder=HASHED)


def test_vectors_of_another_length(memory, folder):
    collection = made(memory)
    late = made(memory, "late", records={})
    knowledge = ChromaKnowledge(late, embedder=HashEmbedder(8))
    late.add(["hours"], HASHED.embed(["We open."]), documents="We open.")
    with pytest.raises(DimensionMismatch, match=r"256, got 8.*: give the embedder that its vectors were made with"):
        knowledge.search(QUESTION)
    with pytest.raises(DimensionMismatch, match=r"'pages' \(8 instead of 256 numbers\)"):
        ChromaKnowledge(memory.get_collection(collection.name), embedder=HashEmbedder(8))
    with pytest.raises(DimensionMismatch):
        ChromaKnowledge.open(folder, "pages", embedder=HashEmbedder(8))
    nothing_is_open(folder)


def test_a_deleted_collection(client):
    knowledge = ChromaKnowledge(made(client), embedder=HASHED)
    client.delete_collection("pages")
    with pytest.raises(IndexNotFound, match="no longer there"):
        knowledge.search(QUESTION)


def test_nothing_is_downloaded(memory, no_model):
    made(memory)
    made(memory, "unnamed", function=Unnamed())
    made(memory, "default", function=DefaultEmbeddingFunction())
    made(memory, "onnx", function=ONNXMiniLM_L6_V2())
    for name in ("pages", "unnamed", "default", "onnx"):
        with pytest.raises(EmbeddingError, match=r"would be downloaded: give the embedder .*all-MiniLM-L6-v2"):
            ChromaKnowledge(memory.get_collection(name))
    with pytest.raises(EmbeddingError, match="would be downloaded"):
        ChromaKnowledge(memory.get_collection("onnx", embedding_function=ONNXMiniLM_L6_V2()))
    with pytest.raises(EmbeddingError, match="'pages' has no embedding function: give the embedder"):
        ChromaKnowledge(memory.get_collection("pages", embedding_function=None))
    for name in ("pages", "unnamed", "default"):
        knowledge = ChromaKnowledge(memory.get_collection(name), embedder=HASHED)
        assert ids(knowledge.search(QUESTION, 1)) == ["hours"]
    function = memory.get_collection("unnamed", embedding_function=Unnamed())
    assert ids(ChromaKnowledge(function).search(QUESTION, 1)) == ["hours"], "what the client was given is used"
    assert not no_model.exists()


def test_a_model_that_is_on_disk_may_be_used(memory, no_model):
    collection = made(memory, function=DefaultEmbeddingFunction())
    (no_model / "onnx").mkdir(parents=True)
    (no_model / "onnx" / "model.onnx").write_bytes(b"")
    assert ChromaKnowledge(collection).search(" ") == ()


def test_without_chromadb_the_extra_is_named(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "chromadb", None)
    with pytest.raises(ImportError, match=r"pip install 'vivavoce\[chroma\]'"):
        ChromaKnowledge.open(folder, "pages", embedder=HASHED)


def test_threads_search_while_another_one_adds(client):
    collection = made(client)
    knowledge = ChromaKnowledge(collection, embedder=HASHED)
    questions = {text: key for key, (text, _) in RECORDS.items()} | {QUESTION: "hours"}

    def add(part):
        names = [f"{part}-{number}" for number in range(50)]
        vectors = np.random.default_rng(part).normal(size=(50, HASHED.dim)).astype(np.float32)
        collection.add(names, vectors, documents=names)

    with ThreadPoolExecutor(6) as threads:
        adding = [threads.submit(add, part) for part in range(6)]
        found = [*threads.map(lambda question: knowledge.search(question, 1)[0].id, [*questions] * 20)]
        assert [one.result() for one in adding] == [None] * 6
    assert found == [*questions.values()] * 20
    assert collection.count() == len(RECORDS) + 300
