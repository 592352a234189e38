import gzip
import json
import math

import pytest

from vivavoce.agent.errors import ConfigError
from vivavoce.agent.evaluation.beir import Question, read_corpus, read_qrels, read_questions, write_run
from vivavoce.agent.evaluation.retrieval import (
    evaluate_dialogues,
    evaluate_retrieval,
    index_whole,
    measures,
    search_options,
)
from vivavoce.agent.training.embedder import gather
from vivavoce.retrieval import DialogueSearch, SearchOptions
from vivavoce.retrieval.testing import HashEmbedder

CORPUS = [
    {
        "_id": "hours",
        "title": "Opening hours",
        "text": "We open at seven. We close at nine.",
        "metadata": {"place": "cafe"},
    },
    {"_id": "milk", "title": "Milk", "text": "Oat milk is free.", "metadata": {"place": "cafe"}},
    {"_id": "dogs", "text": "Dogs are welcome in the garden.", "metadata": {"place": "hotel"}},
]
QUERIES = [
    {
        "_id": "q1",
        "text": "When do you open?",
        "asr": "when do you open",
        "list": [{"text": "win do"}, {"text": "open at"}],
    },
    {"_id": "q2", "text": "Are dogs welcome?", "asr": "our dogs well come", "list": ["dogs"]},
    {"_id": "q3", "text": "Is there tea?", "asr": "is their tea", "list": ["tea"]},
]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def beir(tmp_path):
    lines(tmp_path / "corpus.jsonl", CORPUS)
    lines(tmp_path / "queries.jsonl", QUERIES)
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\thours\t1\nq2\tdogs\t2\nq2\tmilk\t0\n")
    return tmp_path


def test_beir_is_read(beir):
    assert [document.source for document in read_corpus(beir / "corpus.jsonl")] == ["hours", "milk", "dogs"]
    assert read_qrels(beir / "qrels.tsv") == {"q1": {"hours": 1}, "q2": {"dogs": 2}}
    assert [question.texts for question in read_questions(beir / "queries.jsonl", "list")] == [
        ("win do", "open at"),
        ("dogs",),
        ("tea",),
    ]


def test_trec_qrels_have_a_column_more(tmp_path):
    (tmp_path / "qrels").write_text("q1\t0\thours\t1\n")
    assert read_qrels(tmp_path / "qrels") == {"q1": {"hours": 1}}


@pytest.mark.parametrize("text", ["q1\n", "q1\thours\tgood\nq1\thours\t1\n\tx", ""], ids=["short", "words", "empty"])
def test_broken_qrels_are_told(tmp_path, text):
    (tmp_path / "qrels.tsv").write_text(text)
    if text:
        with pytest.raises(ConfigError, match="query-id"):
            read_qrels(tmp_path / "qrels.tsv")
    else:
        assert read_qrels(tmp_path / "qrels.tsv") == {}


def test_two_passages_of_one_name_are_told(tmp_path):
    with pytest.raises(ConfigError, match="two passages 'milk'"):
        read_corpus(lines(tmp_path / "corpus.jsonl", [CORPUS[1], CORPUS[1]]))


IDEAL = sum(1 / math.log2(place + 1) for place in range(1, 11))


def test_measures_by_hand():
    found = measures(["a", "b", "c", "d", "e", "f"], {"b": 1, "f": 1})
    assert (found["recall@1"], found["recall@5"], found["recall@10"], found["mrr@5"]) == (0, 1, 1, 0.5)
    assert found["ndcg@10"] == pytest.approx((0.63093 + 0.35621) / (1 + 0.63093), abs=1e-4)
    assert measures(["f", "x", "y", "z", "w", "b"], {"b": 1})["mrr@5"] == 0.0
    assert not any(measures([], {"b": 1}).values())


@pytest.mark.parametrize(
    ("ranked", "relevant", "expected"),
    [
        ("abcdefghijkl", {"a": 1}, (1, 1, 1, 1, 1)),
        (
            "bacdefghijkl",
            {"a": 2, "e": 1},
            (0, 1, 1, 1 / 2, (2 / math.log2(3) + 1 / math.log2(6)) / (2 + 1 / math.log2(3))),
        ),
        ("bcdefa", {"a": 3}, (0, 0, 1, 0, 1 / math.log2(7))),
        ("bcdefghijka", {"a": 1}, (0, 0, 0, 0, 0)),
        ("b", {"a": 1, "b": 3, "c": 2}, (1, 1, 1, 1, 3 / (3 + 2 / math.log2(3) + 1 / 2))),
        ("", {"a": 1}, (0, 0, 0, 0, 0)),
        ("cba", {name: 1 for name in "abcdefghijklmn"}, (1, 1, 1, 1, sum(1 / math.log2(n) for n in (2, 3, 4)) / IDEAL)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_measures_are_those_of_their_formulas(ranked, relevant, expected):
    names = ("recall@1", "recall@5", "recall@10", "mrr@5", "ndcg@10")
    assert measures(ranked, relevant) == pytest.approx(dict(zip(names, expected, strict=True)), abs=1e-12)


@pytest.mark.parametrize("field", ["text", "asr", "list"])
def test_only_questions_with_an_answer_count(beir, field):
    documents, relevant = read_corpus(beir / "corpus.jsonl"), read_qrels(beir / "qrels.tsv")
    knowledge = index_whole(documents, HashEmbedder(), SearchOptions(), None)
    assert len(knowledge) == 3  # no passage is cut
    summary, items = evaluate_retrieval(knowledge, read_questions(beir / "queries.jsonl", field), relevant)
    assert summary["n"] == 2 and summary["recall@5"] == 1.0 and summary["recall@1"] <= summary["recall@5"]
    assert [item["id"] for item in items] == ["q1", "q2"]
    write_run(beir / "run.trec", {item["id"]: item["found"] for item in items}, "mine")
    first = (beir / "run.trec").read_text().splitlines()[0].split()
    assert first[:2] == ["q1", "Q0"] and first[3] == "1" and first[5] == "mine"


def test_questions_that_nothing_answers_are_told(beir):
    knowledge = index_whole(read_corpus(beir / "corpus.jsonl"), HashEmbedder(), SearchOptions(), None)
    with pytest.raises(ConfigError, match="qrels"):
        evaluate_retrieval(knowledge, [Question("q9", ("tea",), {})], {"q1": {"hours": 1}})


def test_dialogues_count_where_they_need_it(beir):
    knowledge = index_whole(read_corpus(beir / "corpus.jsonl"), HashEmbedder(), SearchOptions(), None)
    rows = [
        {
            "history": [{"text": "the hotel"}],
            "turn": {"text": "are they welcome"},
            "needs_retrieval": True,
            "doc_ids": ["dogs"],
        },
        {"history": [], "turn": {"text": "thanks"}, "needs_retrieval": False, "doc_ids": []},
    ]
    summary, items = evaluate_dialogues(DialogueSearch(knowledge, key="place"), rows)
    assert summary["n"] == 1 and summary["recall@1"] == 1.0 and items[0]["spoken_of"][0][0] == "hotel"
    with pytest.raises(ConfigError, match="doc_ids"):
        evaluate_dialogues(DialogueSearch(knowledge), rows[1:])


def test_unknown_channels_are_told():
    assert search_options("keyword", "rrf").fusion == "rrf"
    with pytest.raises(ConfigError, match="channels"):
        search_options("dense,smell", "sum")


def test_what_is_kept_for_measuring_is_not_trained_on(beir, tmp_path):
    rows = [
        {"question": "Who?", "answers": ["Ann"], "passage": "Ann did it."},
        {"question": "Who?", "answers": ["Bob"], "passage": "Nobody did it."},
        {
            "question": "What?",
            "paragraphs": [{"text": "It.", "is_supporting": True}, {"text": "No.", "is_supporting": False}],
        },
    ]
    long = (
        "One sentence is here for you. Another sentence follows it at once, and goes on for long. A third one ends it. "
    )
    with gzip.open(tmp_path / "texts.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": long * 2}) + "\n" + json.dumps({"turn": {"text": "oat milk is free!!"}}) + "\n")
    kept = lines(tmp_path / "kept.jsonl", CORPUS[1:2])
    gathered = gather([beir, lines(tmp_path / "qa.jsonl", rows)], [tmp_path / "texts.jsonl.gz"], [kept], seed=0)
    asked = [(pair.query, pair.passage) for pair in gathered.pairs]
    assert ("When do you open?", CORPUS[0]["text"]) in asked and ("Who?", "Ann did it.") in asked
    assert ("What?", "It.") in asked and len(asked) == 5  # with one sentence taken out of a paragraph
    taken = asked[-1]
    assert taken[0] in long and len(taken[1]) < len(long * 2)
    assert gathered.left_out == 1 and not any("milk" in text.lower() for text in gathered.texts)
    with pytest.raises(ConfigError, match="--texts"):
        gather([lines(tmp_path / "bad.jsonl", [{"question": "Why?"}])], [], [], seed=0)


def test_requests_and_memories_are_gathered(tmp_path):
    said = [("turn it up", "volume_up"), ("louder please", "volume_up"), ("any mail", "email_query")]
    requests = lines(tmp_path / "said.jsonl", [{"text": text, "intent": intent} for text, intent in said])
    rows = [
        {"question": "Who did it?", "passage": "It was late. Ann did it. So they say.", "answers": ["Ann"]},
        {"question": "When?", "passage": "It was late, late. It was late.", "answers": ["late"]},
    ]
    told = lines(tmp_path / "qa.jsonl", rows)
    gathered = gather([told], [], [], 0, requests=[requests], memories=True)
    found = {(pair.task, pair.query, pair.passage, pair.group) for pair in gathered.pairs}
    assert found == {
        ("knowledge", rows[0]["question"], rows[0]["passage"], ""),
        ("knowledge", rows[1]["question"], rows[1]["passage"], ""),
        ("memory", "Who did it?", "Ann did it.", ""),
        ("tool", "turn it up", "volume up", "volume_up"),
        ("tool", "louder please", "volume up", "volume_up"),
        ("tool", "any mail", "email query", "email_query"),
        ("example", "turn it up", "louder please", "volume_up"),
        ("example", "louder please", "turn it up", "volume_up"),
    }
    assert "any mail" not in gathered.texts
