import pytest

from vivavoce.retrieval import Document, InstructionNotUnderstood, LocalKnowledge, Query, read_instruction
from vivavoce.retrieval.testing import HashEmbedder

CITIES = ("Bath", "Bristol", "New York", "New York City")
ROWS = [
    {
        "city": CITIES[number % 4],
        "published": f"{2018 + number // 4}-{1 + number % 12:02}-15",
        "price": 1 + number / 2,
        "stars": 1 + number % 5,
        "vegan": number % 2 == 0,
        "shop": {"owner": "Ann" if number < 12 else "Bob"},
    }
    for number in range(24)
]


@pytest.fixture(scope="module")
def knowledge():
    documents = [
        Document(f"{number}.md", f"Cake {number} with {'nuts' if number % 3 else 'oat milk'}.", "text", "Cakes", row)
        for number, row in enumerate(ROWS)
    ]
    documents.append(Document("wine.md", "We pour wine from Bath.", "text", "Wine list"))
    return LocalKnowledge.from_documents(documents, HashEmbedder())


def found(knowledge, instruction, question="cake wine"):
    passages = knowledge.search(question, 50, instruction=instruction)
    return sorted(int(passage.source[:-3]) for passage in passages if passage.source != "wine.md")


def rows(fits):
    return [number for number, row in enumerate(ROWS) if fits(row)]


@pytest.mark.parametrize(
    ("instruction", "fits"),
    [
        ("only after 2020", lambda row: row["published"] >= "2021"),
        ("After 2020, please", lambda row: row["published"] >= "2021"),
        ("nothing newer than March 2021", lambda row: row["published"] < "2021-04"),
        ("since 15 May 2022", lambda row: row["published"] >= "2022-05-15"),
        ("until 2019-02-15", lambda row: row["published"] <= "2019-02-15"),
        ("published between 2019 and 2021", lambda row: "2019" <= row["published"] < "2022"),
        ("from 2020", lambda row: row["published"][:4] == "2020"),
        ("from 2020 on", lambda row: row["published"] >= "2020"),
        ("2018 or earlier", lambda row: row["published"] < "2019"),
        ("price under $5", lambda row: row["price"] < 5),
        ("price over 3.50 and not before 2020", lambda row: row["price"] > 3.5 and row["published"] >= "2020"),
        ("at least 4 stars", lambda row: row["stars"] >= 4),
        ("no more than 4 stars", lambda row: row["stars"] <= 4),
        ("exactly 3 stars", lambda row: row["stars"] == 3),
        ("only Bath or Bristol", lambda row: row["city"] in CITIES[:2]),
        ("nothing from New York", lambda row: row["city"] != "New York"),
        ("new york city only", lambda row: row["city"] == "New York City"),
        ("only vegan ones", lambda row: row["vegan"]),
        ("not vegan", lambda row: not row["vegan"]),
        ("owner is Ann", lambda row: row["shop"]["owner"] == "Ann"),
        ("only Bath, but not after 2020", lambda row: row["city"] == "Bath" and row["published"] < "2021"),
        ("only Bath before 2020", lambda row: row["city"] == "Bath" and row["published"] < "2020"),
        ("vegan ones from Bath at a price under 5 dollars", lambda row: row["city"] == "Bath" and row["price"] < 5),
        ("after 2018 before 2020", lambda row: row["published"][:4] == "2019"),
        ("nothing from Bath after 2020", lambda row: not (row["city"] == "Bath" and row["published"] >= "2021")),
        ("ignore the wine list; only Bath", lambda row: row["city"] == "Bath"),
    ],
)
def test_metadata_is_asked_in_plain_words(knowledge, instruction, fits):
    assert found(knowledge, instruction) == rows(fits)


def test_words_can_be_asked_for_and_kept_out(knowledge):
    assert found(knowledge, "mentioning oat milk") == [number for number in range(24) if number % 3 == 0]
    assert found(knowledge, "mentioning oaty milks") == found(knowledge, "mentioning oat milk")
    assert found(knowledge, "without nuts") == [number for number in range(24) if number % 3 == 0]


def test_titles_are_values(knowledge):
    (wine,) = knowledge.search("wine cake", 50, instruction="only the wine list")
    assert wine.source == "wine.md"


def test_it_goes_together_with_a_filter_and_with_readings(knowledge):
    both = knowledge.search_query(
        Query.of(["cake", "cakes"], [0.7, 0.3], where={"stars": 5}, instruction="only after 2020"), 50
    )
    assert sorted(int(passage.source[:-3]) for passage in both) == rows(
        lambda row: row["stars"] == 5 and row["published"] >= "2021"
    )


@pytest.mark.parametrize(
    "instruction",
    [
        "only green ones",
        "only after breakfast",
        "only green Bath",
        "tall ones after 2020",
        "nothing but the best",
        "please",
        "?",
    ],
)
def test_what_nobody_knows_is_refused_and_what_there_is_is_named(knowledge, instruction):
    with pytest.raises(InstructionNotUnderstood, match=r"published \(2018-01-15 to 2023-12-15\)"):
        knowledge.search("cake", instruction=instruction)


def test_what_may_be_about_two_keys_is_asked_back(knowledge):
    with pytest.raises(InstructionNotUnderstood, match="price or stars: name the one that is meant"):
        knowledge.search("cake", instruction="under 5")


def test_numbers_that_are_years_and_values_that_were_misheard():
    documents = [Document(f"{year}.md", "Wine.", "text", metadata={"year": year}) for year in (2019, 2020, 2021)]
    documents.append(Document("x.md", "Wine.", "text", metadata={"wine": "Tokaji"}))
    knowledge = LocalKnowledge.from_documents(documents, HashEmbedder())
    assert read_instruction("after 2020", knowledge) == {"year": {"$gt": 2020}}
    assert read_instruction("only tockaji", knowledge) == {"wine": "Tokaji"}, "it sounds the same"
    with pytest.raises(InstructionNotUnderstood):
        read_instruction("only tomato", knowledge)
    assert read_instruction("only 'kaj", knowledge, lambda word: "kaj" if "kaj" in word else word) == {"wine": "Tokaji"}


def test_without_an_instruction_nothing_changes(knowledge):
    assert knowledge.search("cake", 5, instruction="  ") == knowledge.search("cake", 5)
