"""Retrieval with real sentence embeddings on a small handbook."""

import pytest

from vivavoce.agent.opening import open_embedder
from vivavoce.retrieval import EmbedderMismatch, LocalKnowledge, Query, SearchOptions, SentenceTransformerEmbedder
from vivavoce.retrieval.testing import HashEmbedder, check_embedder, check_knowledge

pytestmark = pytest.mark.weights

PAGES = {
    "opening-hours.md": "# Opening hours\n\n## Sunday\n\nOn Sunday we close at 5 in the afternoon.\n\n"
    "## Friday\n\nOn Friday we close at 10 in the evening.",
    "dogs.md": "# Dogs\n\nDogs are welcome on the terrace, on a lead.",
    "wifi.md": "# Wifi\n\nThe network is called Lantern Guest. The password is roasted-bean-42.",
    "gift-cards.md": "# Gift cards\n\n## Expiry\n\nA gift card is valid for 3 years.",
    "parking.md": "# Parking and bikes\n\nBicycles can be locked in the yard. There is no car park.",
    "refunds.md": "# Refunds\n\nIf we made your drink wrong, bring it back and we will make it again.",
}
QUESTIONS = {
    "when do you shut on fridays": "opening-hours.md",
    "may my puppy come in": "dogs.md",
    "what is the internet code": "wifi.md",
    "how long can i use a voucher": "gift-cards.md",
    "where do i lock up my bike": "parking.md",
    "they gave me the wrong coffee": "refunds.md",
}


@pytest.fixture(scope="module")
def embedder(minilm_dir):
    return SentenceTransformerEmbedder(minilm_dir, device="cpu")


@pytest.fixture(scope="module")
def knowledge(embedder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("handbook")
    for name, text in PAGES.items():
        (folder / name).write_text(text)
    with LocalKnowledge.from_folder(folder, embedder) as made:
        yield made


def test_minilm_keeps_the_contracts(embedder, knowledge):
    check_embedder(embedder)
    check_knowledge(knowledge, "when do you close on sunday")
    assert embedder.dim == 384


@pytest.mark.parametrize(("question", "source"), QUESTIONS.items())
def test_other_words_find_the_right_page(knowledge, question, source):
    assert knowledge.search(question)[0].source == source


def test_meaning_is_needed_for_that(knowledge):
    words = SearchOptions(channels=("keyword",))
    found = [knowledge.search(question, 1, options=words) for question in QUESTIONS]
    right = [
        passages and passages[0].source == source for passages, source in zip(found, QUESTIONS.values(), strict=True)
    ]
    assert sum(map(bool, right)) < len(QUESTIONS) - 1


def test_a_misheard_question_is_found_by_the_reading_that_fits(knowledge):
    readings = ["how long is a gift cart ballad", "how long is a gift card valid", "how longest gift cart valid"]
    assert knowledge.search_query(Query.of(readings, [0.5, 0.3, 0.2]))[0].heading == "Expiry"


def test_the_language_model_finds_them_too_with_the_adapter_that_ships(llm_dir):
    embedder = open_embedder("llm")
    check_embedder(embedder)
    near = embedder.embed(list(QUESTIONS), kind="query") @ embedder.embed(list(PAGES.values())).T
    found = [list(PAGES)[place] for place in near.argmax(axis=1)]
    assert sum(one == meant for one, meant in zip(found, QUESTIONS.values(), strict=True)) >= 5


def test_similarity_and_score_tell_small_talk_from_questions(knowledge):
    small_talk = [knowledge.search(text, 1)[0] for text in ("hello how are you today", "tell me a joke", "thanks bye")]
    asked = [knowledge.search(text, 1)[0] for text in QUESTIONS]
    assert max(one.score for one in small_talk) < min(one.score for one in asked)
    assert max(one.similarity for one in small_talk) < min(one.similarity for one in asked)


def test_saved_index_opens_with_the_same_model_only(knowledge, embedder, minilm_dir, tmp_path):
    knowledge.save(tmp_path / "index")
    again = SentenceTransformerEmbedder(minilm_dir, device="cpu")
    assert again.fingerprint == embedder.fingerprint
    with LocalKnowledge.open(tmp_path / "index", again) as opened:
        assert [one.id for one in opened.search("wifi code")] == [one.id for one in knowledge.search("wifi code")]
    with pytest.raises(EmbedderMismatch, match=r"minilm|MiniLM"):
        LocalKnowledge.open(tmp_path / "index", HashEmbedder(384))
