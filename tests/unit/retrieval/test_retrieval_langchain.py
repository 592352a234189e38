import pytest
from langchain_core.documents import Document as Page
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from vivavoce.retrieval import Document, KnowledgeBase, LocalKnowledge, Passage
from vivavoce.retrieval.integrations.langchain import KnowledgeRetriever, LangChainKnowledge
from vivavoce.retrieval.testing import FakeKnowledge, HashEmbedder, check_knowledge

PAGES = [
    Page("We open at seven.", metadata={"source": "hours.md", "title": "Opening hours", "floor": 1}),
    Page("Oat milk is free.", metadata={"source": "milk.md", "heading": "Extras"}),
    Page("Dogs are welcome."),
]


class Hashed(Embeddings):
    def embed_documents(self, texts):
        return HashEmbedder().embed(texts).tolist()

    def embed_query(self, text):
        return self.embed_documents([text])[0]


class Fixed(BaseRetriever):
    """Takes no k, and repeats itself."""

    def _get_relevant_documents(self, query, *, run_manager):
        return [*PAGES, PAGES[0], Page("  ")]


@pytest.fixture
def store():
    made = InMemoryVectorStore(Hashed())
    made.add_documents(PAGES)
    return made


def test_a_vector_store_keeps_the_contract(store):
    for one in (store, store.as_retriever(), store.as_retriever(search_kwargs={"k": 1})):
        knowledge = LangChainKnowledge(one)
        assert isinstance(knowledge, KnowledgeBase)
        check_knowledge(knowledge, "When do you open?")
        assert [len(knowledge.search("When do you open?", k)) for k in (1, 2, 9)] == [1, 2, 3]


def test_what_langchain_knows_is_carried_over(store):
    best = LangChainKnowledge(store).search("do you open at seven", 1)[0]
    assert (best.source, best.title, best.text, best.score) == ("hours.md", "Opening hours", "We open at seven.", 1.0)
    assert best.metadata == {"floor": 1} and best.id
    others = {
        passage.text: passage for passage in LangChainKnowledge(store, name="pages").search("dogs or oat milk", 3)
    }
    assert others["Dogs are welcome."].source == "pages" and others["Oat milk is free."].heading == "Extras"


def test_any_retriever_is_asked_copies_and_blanks_are_left_out():
    knowledge = LangChainKnowledge(Fixed())
    check_knowledge(knowledge)
    found = knowledge.search("anything", 10)
    assert [passage.text for passage in found] == [page.page_content for page in PAGES]
    assert [passage.score for passage in found] == [1, 1 / 2, 1 / 3] and len({passage.id for passage in found}) == 3
    with pytest.raises(ValueError, match="at least 1"):
        knowledge.search("anything", 0)


def test_a_failure_is_no_empty_result():
    class Broken(Fixed):
        def _get_relevant_documents(self, query, *, run_manager):
            raise ConnectionError("the server is gone")

    with pytest.raises(ConnectionError, match="gone"):
        LangChainKnowledge(Broken()).search("anything")


def test_our_knowledge_is_a_retriever():
    pages = [Document("hours.md", "# Opening hours\n\nWe open at seven.", metadata={"floor": 1})]
    with LocalKnowledge.from_documents(pages, HashEmbedder()) as local:
        chain = KnowledgeRetriever(knowledge=local) | RunnableLambda(lambda found: [page.metadata for page in found])
        [told] = chain.invoke("when do you open")
    assert told.pop("score") > 0 and told == {"source": "hours.md", "title": "Opening hours", "floor": 1}
    many = KnowledgeRetriever(
        knowledge=FakeKnowledge(["open one", "open two", Passage("x", "open three", "x.md")]), k=2
    )
    assert len(many.invoke("open")) == 2 and len(many.invoke("open", k=3)) == 3
    assert many.invoke("open", k=1)[0].id == "p0"
