import pytest

from vivavoce.retrieval import Document, LocalKnowledge, SearchOptions
from vivavoce.retrieval.query.sounds import SoundAlikes, spelled_sound
from vivavoce.retrieval.testing import HashEmbedder


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("knight", "nite"),
        ("phone", "fone"),
        ("cell", "sell"),
        ("Mexico", "meksiko"),
        ("Wright", "right"),
        ("tacks", "tax"),
        ("Beyoncé", "beyonce"),
        ("latte", "late"),
    ],
)
def test_words_that_sound_alike_have_one_sound(one, other):
    assert spelled_sound(one) == spelled_sound(other) != ""


def test_sounds_of_other_scripts_stay_and_of_nothing_there_is_none():
    assert spelled_sound("拿铁") == "拿铁" and spelled_sound("...") == ""


@pytest.mark.parametrize(
    ("heard", "following", "meant"),
    [
        ("polasky", "", "pulaski"),
        ("kazimir", "", "casimir"),
        ("tesla", "", None),
        ("pull", "askey", "pulaski"),
        ("ox", "", None),
        ("1999", "", None),
    ],
)
def test_the_nearest_word_is_found(heard, following, meant):
    alikes = SoundAlikes(["pulaski", "casimir", "warsaw", "1998", "oak", "born"])
    assert alikes.nearest(heard, following) == meant


PAGES = [
    Document("pulaski.md", "# Generals\n\nCasimir Pulaski was born in Warsaw."),
    Document("chopin.md", "# Music\n\nFrederic Chopin moved to Paris, born elsewhere."),
    Document("tea.md", "# Tea\n\nTea costs two."),
]


@pytest.fixture
def knowledge():
    with LocalKnowledge.from_documents(PAGES, HashEmbedder()) as made:
        yield made


def test_misheard_names_find_what_they_sound_like(knowledge):
    misheard = "who was fredrick"
    assert [one.source for one in knowledge.search(misheard, options=SearchOptions(channels=("keyword",)))] == []
    (found,) = knowledge.search(misheard, options=SearchOptions(channels=("phonetic",)))
    assert found.source == "chopin.md" and found.coverage > 0
    both = knowledge.search("kazimer polasky", 1)[0]
    assert both.source == "pulaski.md"
    exact = knowledge.search("casimir pulaski", 1)[0]
    assert 0 < both.coverage < exact.coverage, "what only sounds alike counts less"


def test_words_that_stand_there_are_not_replaced(knowledge):
    options = [SearchOptions(channels=channels) for channels in (("keyword",), ("keyword", "phonetic"), ("phonetic",))]
    found = [[(one.id, one.score) for one in knowledge.search("born in warsaw", options=how)] for how in options]
    assert found[0] and found[0] == found[1] == found[2]


def test_new_words_are_known_at_once_and_old_ones_forgotten(knowledge):
    how = SearchOptions(channels=("phonetic",))
    assert knowledge.search("kopernikus", options=how) == ()
    knowledge.upsert([Document("sky.md", "Copernicus looked up.")])
    assert knowledge.search("kopernikus", options=how)[0].source == "sky.md"
    assert knowledge.search("fredrick", options=how)[0].source == "chopin.md"
    knowledge.delete(["chopin.md"])
    assert knowledge.search("fredrick", options=how) == ()
