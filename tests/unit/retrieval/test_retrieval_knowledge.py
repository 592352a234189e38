import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vivavoce.retrieval import (
    ChunkOptions,
    Document,
    KnowledgeBase,
    LoadingError,
    LocalKnowledge,
    Passage,
    Query,
    SearchOptions,
    SkippedFile,
)
from vivavoce.retrieval.query.keyword import content_terms
from vivavoce.retrieval.testing import AWKWARD_QUERIES, FakeKnowledge, HashEmbedder, check_knowledge

PAGES = {
    "opening-hours.md": "# Opening hours\n\nWe open at seven.\n\n## Sunday\n\nOn Sunday the doors open at nine.",
    "milk.md": "# Milk\n\nOat milk is free. Almond milk costs sixty cents more.",
    "wifi.txt": "The password is roasted-bean-42.",
    "gift-cards.md": "# Gift cards\n\n## Expiry\n\nValid for three years.",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in PAGES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def knowledge(folder):
    with LocalKnowledge.from_folder(folder, HashEmbedder()) as made:
        yield made


@pytest.mark.parametrize(
    "channels",
    [("dense",), ("keyword",), ("phonetic",), ("dense", "keyword"), ("dense", "keyword", "phonetic")],
    ids="+".join,
)
@pytest.mark.parametrize("fusion", ["sum", "rrf"])
@pytest.mark.parametrize("saved", [False, True], ids=["built", "opened"])
def test_local_knowledge_keeps_the_contract(folder, tmp_path_factory, channels, fusion, saved):
    options = SearchOptions(channels=channels, fusion=fusion)
    made = LocalKnowledge.from_folder(folder, HashEmbedder(), options=options)
    if saved:
        path = tmp_path_factory.mktemp("index")
        made.save(path)
        made.close()
        made = LocalKnowledge.open(path, HashEmbedder(), options=options)
    with made:
        assert isinstance(made, KnowledgeBase)
        check_knowledge(made, "When do the doors open on Sunday?")


def test_fake_knowledge_keeps_the_contract():
    check_knowledge(FakeKnowledge(["We open at seven.", Passage("x", "Do you open?", "x.md")]))


def test_contract_catches_unsorted_passages():
    class Backwards(FakeKnowledge):
        def search(self, query, k=5):
            return super().search(query, k)[::-1]

    with pytest.raises(AssertionError, match="best first"):
        check_knowledge(Backwards(["when do you open", "open"]), "when do you open")


def test_passages_know_where_they_come_from(knowledge, folder):
    best = knowledge.search("When do you open on Sunday?")[0]
    assert (best.source, best.title, best.heading) == ("opening-hours.md", "Opening hours", "Sunday")
    assert best.breadcrumb == "Opening hours > Sunday"
    start, end = best.span
    assert (folder / best.source).read_text()[start:end] == best.text
    assert best.id.startswith("opening-hours.md#")
    assert best.text.startswith("## Sunday\n\nOn Sunday")
    assert best.in_context == "Opening hours > Sunday\nOn Sunday the doors open at nine."
    assert Passage("x", "Alone.", "x.md").in_context == "Alone."
    assert hash(best)


def test_scores_are_the_documented_mean(knowledge):
    for passage in knowledge.search("almond milk costs", options=SearchOptions(dense_weight=0.25)):
        assert passage.score == pytest.approx(0.25 * passage.similarity + 0.75 * passage.coverage)
        assert -1 <= passage.similarity <= 1 and 0 <= passage.coverage < 1


def test_similarity_is_the_cosine_even_of_what_was_found_by_words(knowledge):
    query = "How long is a gift card valid?"
    options = SearchOptions(depth=1)
    embedder = HashEmbedder()
    by_source = {passage.source: passage for passage in knowledge.search(query, 9, options=options)}
    passage = by_source["gift-cards.md"]
    expected = embedder.embed([query]) @ embedder.embed(["Gift cards > Expiry\nValid for three years."]).T
    assert passage.similarity == pytest.approx(expected.item(), abs=1e-5)


def test_channels_can_be_left_out(knowledge):
    words = knowledge.search("oat milk", options=SearchOptions(channels=("keyword",)))
    assert words[0].source == "milk.md" and words[0].similarity is None and words[0].score == words[0].coverage
    meaning = knowledge.search("oat milk", options=SearchOptions(channels=("dense",)))
    assert meaning[0].coverage is None and meaning[0].score == pytest.approx(meaning[0].similarity)
    assert not knowledge.search("zebra", options=SearchOptions(channels=("keyword",)))


def test_title_and_heading_count_more_than_the_body():
    pages = [
        Document("body.md", "# Other\n\nOur refunds desk sits upstairs beside the old piano and the window."),
        Document("title.md", "# Refunds\n\nBring the desk slip upstairs and wait beside the old piano please."),
    ]
    with LocalKnowledge.from_documents(pages, HashEmbedder()) as made:
        found = made.search("refunds", options=SearchOptions(channels=("keyword",)))
    assert [passage.source for passage in found] == ["title.md", "body.md"]


def test_words_are_stemmed_and_diacritics_do_not_matter():
    pages = [Document("a.md", "The café closed doors."), Document("b.md", "Nothing."), Document("c.md", "Naught.")]
    with LocalKnowledge.from_documents(pages, HashEmbedder()) as made:
        for query in ("CAFE", "cafés", "when does it close?", "door"):
            found = made.search(query, options=SearchOptions(channels=("keyword",)))
            assert [passage.source for passage in found] == ["a.md"], query


def test_a_long_spoken_question_is_about_its_content_words():
    assert content_terms("Um, so could you tell me what the Wi-Fi password is, please?") == ["wi", "fi", "password"]
    assert content_terms("Who are you?") == ["who", "are", "you"]
    assert len(content_terms(" ".join(f"w{number}" for number in range(5000)))) == 64


@pytest.mark.parametrize("query", AWKWARD_QUERIES, ids=lambda query: repr(query[:12]))
def test_any_text_can_be_asked(knowledge, query):
    found = knowledge.search_query(Query.of([query, "milk"], [0.9, 0.1]))
    assert found[0].source


@pytest.mark.parametrize("query", ["", " \t", "?!…", '"""'])
def test_a_question_without_words_finds_nothing(knowledge, query):
    assert knowledge.search(query) == ()
    assert knowledge.search_query(Query.of([query, query], [0.5, 0.5])) == ()
    assert knowledge.search_query(Query.of([])) == ()


def test_one_reading_is_a_plain_search(knowledge):
    plain = knowledge.search("oat milk")
    assert knowledge.search_query(Query.of(["oat milk"], [0.3])) == plain
    assert knowledge.search_query(Query.of(["oat milk", "oat  milk "], [0.3, 0.7])) == plain
    assert knowledge.search_query(Query.of(["oat milk", "gift cards"], [1.0, 0.0])) == plain


def test_readings_count_by_weight_and_evidence_joins_them(knowledge):
    readings = ["gift card", "oat milk"]
    assert knowledge.search_query(Query.of(readings, [0.9, 0.1]))[0].source == "gift-cards.md"
    assert knowledge.search_query(Query.of(readings, [0.1, 0.9]))[0].source == "milk.md"
    # "oath mill" speaks of nothing here: the less likely reading is the one with evidence.
    found = knowledge.search_query(Query.of(["oath mill", "oat milk"], [0.6, 0.4]))[0]
    alone = knowledge.search("oat milk")[0]
    assert found.source == "milk.md" and found.score < alone.score
    assert found.similarity == pytest.approx(alone.similarity) and found.coverage == pytest.approx(alone.coverage)


def test_bad_options_are_refused(knowledge):
    with pytest.raises(ValueError, match="k must"):
        knowledge.search("milk", 0)
    for bad in (
        {"channels": ()},
        {"channels": ("dense", "dense")},
        {"channels": ("sparse",)},
        {"phonetic_weight": 0.0},
        {"fusion": "max"},
        {"dense_weight": 1.0},
        {"title_weight": 0.0},
        {"depth": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            SearchOptions(**bad)


def test_progress_and_skipped_files_are_told(folder):
    (folder / "logo.png").write_bytes(b"\x89PNG")
    skipped: list[SkippedFile] = []
    steps: list[tuple[int, int]] = []
    (folder / "long.txt").write_text("One more sentence stands here. " * 200)
    with LocalKnowledge.from_folder(
        folder,
        HashEmbedder(),
        chunking=ChunkOptions(10),
        progress=lambda done, total: steps.append((done, total)),
        on_skip=skipped.append,
    ) as made:
        assert [one.source for one in skipped] == ["logo.png"]
        assert steps[0] == (64, len(made)) and steps[-1] == (len(made), len(made))
        assert made.sources == ("gift-cards.md", "long.txt", "milk.md", "opening-hours.md", "wifi.txt")


def test_documents_without_a_sentence_or_with_one_name_are_refused():
    with pytest.raises(LoadingError, match="headings at most"):
        LocalKnowledge.from_documents([Document("a.md", "# Title")], HashEmbedder())
    with pytest.raises(LoadingError, match="same source"):
        LocalKnowledge.from_documents([Document("a.md", "x"), Document("a.md", "y")], HashEmbedder())
    with pytest.raises(LoadingError, match=r"metadata of a\.md"):
        LocalKnowledge.from_documents([Document("a.md", "x", metadata={"when": object()})], HashEmbedder())


def test_metadata_travels_with_the_passage():
    document = Document("a.md", "Milk.", metadata={"year": 2024, "tags": ["x"]})
    with LocalKnowledge.from_documents([document], HashEmbedder()) as made:
        assert made.search("milk")[0].metadata == {"year": 2024, "tags": ["x"]}


def test_many_threads_find_the_same(knowledge):
    queries = ["oat milk", "gift card", "sunday doors", "wifi password"] * 30
    expected = {query: knowledge.search(query) for query in set(queries)}
    start = threading.Barrier(8)

    def ask(number):
        if number < 8:
            start.wait()
        return knowledge.search(queries[number]) == expected[queries[number]]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(len(queries))))


def test_an_error_of_the_embedder_is_not_an_empty_result(knowledge, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("no model")

    monkeypatch.setattr(knowledge.embedder, "embed", broken)
    with pytest.raises(RuntimeError, match="no model"):
        knowledge.search("milk")


def test_results_hold_plain_values(knowledge):
    passage = knowledge.search("oat milk")[0]
    assert type(passage.score) is float and type(passage.similarity) is float and type(passage.coverage) is float
    assert not isinstance(passage.similarity, np.floating)
