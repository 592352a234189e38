import pytest

from vivavoce.retrieval import (
    DialogueOptions,
    DialogueSearch,
    Document,
    KnowledgeBase,
    LocalKnowledge,
    NameFinder,
    Query,
    SearchOptions,
)
from vivavoce.retrieval.testing import HashEmbedder, check_knowledge
from vivavoce.speech.lists.phonetics import sound_string

PLACES = ["Underdogs Too", "The Flying Falafel", "Good Hotel", "Hotel Nikko", "Taj Cuisine - Union Square", "Fable"]
ANSWERS = {
    "parking": "There is free parking behind",
    "dogs": "Dogs are welcome at",
    "cards": "Credit cards are taken at",
}


@pytest.fixture(scope="module")
def knowledge():
    documents = [
        Document(f"{name}/{topic}", f"{words} {name}.", "text", topic, {"place": name, "topic": topic})
        for name in PLACES
        for topic, words in ANSWERS.items()
    ]
    with LocalKnowledge.from_documents(documents, HashEmbedder(), options=SearchOptions(dense_weight=0.5)) as made:
        yield made


def names(mentions):
    return [mention.name for mention in mentions]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("i found the flying falafel for you", "The Flying Falafel"),
        ("the fly ink fell awful sounds good", None),
        ("it is called the tie jay cuisine i believe taj cuisine", "Taj Cuisine - Union Square"),
        ("is there parking at under dogs two", "Underdogs Too"),
        ("hotel nick oh is that near", "Hotel Nikko"),
    ],
)
def test_names_are_found_by_their_sound(text, name):
    found = NameFinder(PLACES, sound_string, ordinary={"good", "hotel", "able"}).find(text)
    if name is not None:
        assert found[0].name == name and 0 < found[0].score <= 1
    else:
        assert "Hotel Nikko" not in names(found)


def test_ordinary_words_are_no_names():
    finder = NameFinder(PLACES, sound_string, ordinary={"good", "able", "hotel"})
    assert "Fable" not in names(finder.find("i was not able to find it"))
    assert all(mention.score < 0.5 for mention in finder.find("that sounds good"))
    assert finder.find("let us go to fable")[0].score > 0.9


def test_letters_are_compared_without_sounds():
    assert names(NameFinder(PLACES).find("Hotel Niko"))[0] == "Hotel Nikko"
    assert NameFinder(PLACES).find("") == [] and NameFinder([]).find("Hotel Nikko") == []


def test_each_word_is_heard_once():
    (one,) = [mention for mention in NameFinder(["Mono Mono", "Bar"]).find("mono") if mention.name == "Mono Mono"]
    assert one.score == pytest.approx(0.5)


def test_the_latest_name_is_meant(knowledge):
    search = DialogueSearch(knowledge, key="place", sound=sound_string)
    said = ["is the flying falafel any good", "it is", "what about underdogs too", "it is open"]
    assert search.search_query(Query.of("do they take credit cards", history=said))[0].source == "Underdogs Too/cards"
    assert (
        search.search_query(Query.of("do they take credit cards", history=said[:2]))[0].source
        == "The Flying Falafel/cards"
    )
    assert search.search_query(Query.of("are dogs welcome at fable", history=said))[0].source == "Fable/dogs"
    assert search.spoken_of(Query.of("hello")) == []


def test_the_key_is_the_one_that_groups_most_finely(knowledge):
    assert DialogueSearch(knowledge).key == "place"


def test_without_names_it_is_a_plain_search():
    plain = LocalKnowledge.from_documents([Document("a.md", "# Tea\n\nWe open at seven.")], HashEmbedder())
    with plain:
        search = DialogueSearch(plain)
        assert search.key is None
        assert search.search("when do you open") == plain.search("when do you open")


def test_it_is_a_knowledge_base(knowledge):
    search = DialogueSearch(knowledge)
    assert isinstance(search, KnowledgeBase)
    check_knowledge(search, "Is there parking behind Hotel Nikko?")


@pytest.mark.parametrize(
    "wrong", [{"weight": -1}, {"decay": 0}, {"decay": 1.1}, {"names": 0}, {"readings": 0}], ids=str
)
def test_bad_options_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        DialogueOptions(**wrong)
