"""``vivavoce eval`` and ``train``: what a small run gives, and what is said to input that cannot be measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from command_line import refused, vivavoce

from vivavoce.agent.understanding.directed import Wording
from vivavoce.speech import Audio
from vivavoce.speech.testing import FakeRecognizer

weights = pytest.mark.weights
Rows = Callable[[Sequence[dict]], Path]


class Parrot(FakeRecognizer):
    """Says yes and no in turns, and is always sure."""

    def __init__(self):
        super().__init__(["yes", "no"] * 20)


PARROT = f"{__name__}:Parrot"


@pytest.fixture
def rows(tmp_path) -> Rows:
    """Writes rows and names the file."""

    def write(rows: Sequence[dict]) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture(scope="module")
def order(coffeehouse) -> str:
    return str(coffeehouse / "questions" / "1-order-medium-mocha.flac")


@pytest.fixture
def silence(tmp_path) -> str:
    Audio.silence(2.0).write(tmp_path / "silence.wav")
    return str(tmp_path / "silence.wav")


def measured(*arguments: object) -> dict:
    """The one object that a command prints."""
    done = vivavoce(*arguments, "--json")
    assert done.code == 0, done.err
    [summary] = done.lines
    return summary


def written(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- recordings -----------------------------------------------------------------------------------------------------


@weights
def test_word_errors_and_stages_are_measured(rows, order, whisper_dir, tmp_path):
    manifest = rows([{"audio_filepath": order, "text": "I want a medium mocha with whole milk and honey"}])
    options = ("--n-best", 3, "--choose", "rover", "--out", tmp_path / "items.jsonl")
    summary = measured("eval", "wer", "--manifest", manifest, *options)
    assert summary["n"] == 1 and summary["wer_1best"] == pytest.approx(1 / 10) == summary["wer_chosen"]
    assert summary["wer_oracle"] <= 1 / 10 and summary["distinct_share"] == 1.0
    assert summary["ratio_faster_whisper"] > 0 and summary["wer_faster_whisper"] < 0.3
    assert {"ece", "rtf"} <= set(summary)
    encode, decode = summary["seconds_encode"], summary["seconds_decode"]
    assert min(encode, decode) > 0 and encode + decode < summary["seconds"]
    [item] = written(tmp_path / "items.jsonl")
    assert (item["seconds_encode"], item["seconds_decode"]) == (encode, decode)
    assert len(item["hypotheses"]) == 3 and "mocha" in item["chosen"]


def test_other_engines_have_no_stages(rows, order):
    manifest = rows([{"audio_filepath": order, "text": text} for text in ("no", "yes", "yes", "no")])
    # The first yes is given to warm up; then no, yes, no is heard.
    summary = measured("eval", "wer", "--manifest", manifest, "--engine", PARROT, "--no-rival", "--limit", 3)
    assert summary["n"] == 3 and summary["wer_1best"] == pytest.approx(1 / 3)
    assert summary["seconds_encode"] is None and summary["seconds_decode"] is None
    assert "ratio_faster_whisper" not in summary


@weights
def test_what_holds_no_speech_is_refused(rows, order, silence, whisper_dir, tmp_path):
    Audio(np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32), 16_000).write(tmp_path / "noise.wav")
    nothing = rows([{"audio_filepath": path} for path in (silence, str(tmp_path / "noise.wav"))])
    summary = measured("eval", "speech-gate", "--manifest", nothing, "--expect", "none")
    assert {key: summary[key] for key in ("n", "passed", "refused", "wrong")} == {
        "n": 2,
        "passed": 0,
        "refused": 2,
        "wrong": 0,
    }
    assert sum(summary["reasons"].values()) == 2
    mixed, items = rows([{"audio_filepath": path} for path in (order, silence)]), tmp_path / "items.jsonl"
    summary = measured("eval", "speech-gate", "--manifest", mixed, "--expect", "speech", "--out", items)
    assert (summary["passed"], summary["wrong"]) == (1, 1)
    assert [item["is_speech"] for item in written(items)] == [True, False] and "mocha" in written(items)[0]["text"]


@weights
def test_keywords_are_counted(rows, coffeehouse, whisper_dir, tmp_path):
    clip = {"audio_filepath": str(coffeehouse / "questions" / "4-free-drink.flac"), "said": "stamps"}
    keywords, items = ("--field", "said", "--keywords", "umbrella, stamps,caramel"), tmp_path / "items.jsonl"
    summary = measured("eval", "keywords", "--manifest", rows([clip]), *keywords, "--n-best", 5, "--out", items)
    assert summary == {"n": 1, "accuracy_1best": 1.0, "accuracy_nbest": 1.0, "refused": 0}
    assert written(items)[0]["spotted"] == "stamps"
    strange = rows([{**clip, "said": "jacket"}])
    refused(vivavoce("eval", "keywords", "--manifest", strange, *keywords), "'jacket'", "name it in --keywords")


def test_sureness_is_fitted(rows, order):
    manifest = rows([{"audio_filepath": order, "text": "yes"}] * 30)
    summary = measured("eval", "calibrate", "--manifest", manifest, "--engine", PARROT)
    assert summary["n"] == 30 and summary["temperature"] > 0 and {"other", "other_per_token"} <= set(summary)
    assert summary["ece_before"] == 0.5, "sure of everything, right half of the time"
    assert summary["ece_held_out"] < 0.25
    few = rows([{"audio_filepath": order, "text": "yes"}] * 22)
    summary = measured("eval", "calibrate", "--manifest", few, "--engine", PARROT)
    assert summary["n"] == 22 and summary["ece_held_out"] is None, "four fifths of 22 are too few to fit"


GRAMMAR = ("--grammar", "grammar.yaml")
KEYWORDS = ("--field", "said", "--keywords", "yes")
EXPECT = ("--expect", "speech")


@pytest.mark.parametrize(
    ("verb", "options", "field"),
    [
        ("wer", (), "text"),
        ("calibrate", (), "text"),
        ("keywords", KEYWORDS, "said"),
        ("commands", GRAMMAR, "intent"),
        ("speech-gate", EXPECT, "audio_filepath"),
    ],
)
def test_a_manifest_that_lacks_something(rows, order, tmp_path, monkeypatch, verb, options, field):
    monkeypatch.chdir(tmp_path)
    Path("grammar.yaml").write_text("context:\n  expressions:\n    agree:\n      - yes please\n")
    measure = ("eval", verb, *options, "--manifest")
    here = {} if field == "audio_filepath" else {"audio_filepath": order}
    refused(vivavoce(*measure, rows([{**here, "other": "x"}])), f'line 1: there is no "{field}"; it has')
    refused(vivavoce(*measure, "nowhere.jsonl"), "Cannot read nowhere.jsonl", "No such file")
    refused(vivavoce(*measure, rows([])), "has no rows")
    gone = {"audio_filepath": "gone.wav", "text": "yes", "said": "yes", "intent": "agree", "slots": {}}
    refused(vivavoce(*measure, rows([gone])), "there is no recording", "gone.wav")


@pytest.mark.parametrize("verb", [("wer", "--no-rival"), ("calibrate",), ("speech-gate", *EXPECT)], ids=lambda v: v[0])
def test_an_engine_that_nobody_knows(rows, order, verb):
    manifest = rows([{"audio_filepath": order, "text": "yes"}])
    done = vivavoce("eval", *verb, "--manifest", manifest, "--engine", "kaldi")
    refused(done, "no engine 'kaldi'", "ctranslate2, openai, transformers, ctc")


def test_wrong_values_are_named(rows, order, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = rows([{"audio_filepath": order, "text": "yes", "intent": "agree", "slots": {}}])
    refused(vivavoce("eval", "speech-gate", "--manifest", manifest, "--expect", "music"), "'speech', 'none'", code=2)
    refused(vivavoce("eval", "wer", "--manifest", manifest, "--noise", tmp_path), "There is no sound file in")
    unknown = ("--engine", PARROT, "--no-rival", "--choose", "best")
    refused(vivavoce("eval", "wer", "--manifest", manifest, *unknown), "1best, rover")
    refused(vivavoce("eval", "commands", "--manifest", manifest, "--grammar", "no.yaml"), "no.yaml")
    refused(vivavoce("eval", "calibrate", "--manifest", manifest, "--engine", PARROT), "give at least 20")


# -- texts ----------------------------------------------------------------------------------------------------------


LISTS = [
    {"hypotheses": ["the bant played", "the band played", "the band plaid"], "text": "The band played."},
    {"hypotheses": ["so be it"], "text": "so be it"},
]


def test_lists_are_rated_without_their_audio(rows, tmp_path):
    items = tmp_path / "items.jsonl"
    summary = measured("eval", "nbest", "--data", rows(LISTS), "--choose", "1best", "--out", items)
    assert (summary["n"], summary["wer_oracle"]) == (2, 0.0)
    assert summary["wer_1best"] == summary["wer_chosen"] == pytest.approx(1 / 6, abs=1e-4)
    assert [item["chosen"] for item in written(items)] == ["the bant played", "so be it"]


def test_lists_that_cannot_be_rated(rows, tmp_path):
    refused(vivavoce("eval", "nbest", "--data", rows(LISTS), "--choose", "best"), "1best, rover")
    refused(vivavoce("eval", "nbest", "--data", rows([{"text": "x"}])), 'line 1: there is no "hypotheses"')
    refused(vivavoce("eval", "nbest", "--data", tmp_path / "nowhere"), "Cannot read", "nowhere")
    none = rows([{"hypotheses": [], "text": "x"}])
    refused(vivavoce("eval", "nbest", "--data", none, "--choose", "1best"), "list 1", "at least one")


def test_the_wording_of_requests_is_trained(tmp_path):
    asked, told, out = (tmp_path / name for name in ("asked.jsonl", "told.jsonl", "wording.json"))
    asked.write_text("".join(json.dumps({"text": f"switch on lamp {n}"}) + "\n" for n in range(60)))
    told.write_text("".join(json.dumps({"text": f"she saw {n} ships"}) + "\n" for n in range(60)))
    card = measured("train", "directed", "--directed", asked, "--other", told, "--out", out)
    assert card["sentences"] == {"fitted": 90, "held_out": 30, "directed": 60} and card["held_out"]["auroc"] == 1.0
    wording = Wording.load(out)
    assert wording.probability("switch on the radio") > 0.5 > wording.probability("she saw the radio")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "hello"}', "give at least 50 of both"),
        ('{"words": "hello"}', 'a row needs a "text"'),
        ("hello", "line 1: expected a JSON object"),
        (None, "Cannot read"),
    ],
)
def test_what_no_wording_can_be_trained_on(tmp_path, line, said):
    if line is not None:
        (tmp_path / "rows.jsonl").write_text(line + "\n")
    files = ("--directed", tmp_path / "rows.jsonl", "--other", tmp_path / "rows.jsonl")
    refused(vivavoce("train", "directed", *files, "--out", tmp_path / "wording.json"), said)
    assert not (tmp_path / "wording.json").exists()


# -- searching ------------------------------------------------------------------------------------------------------

PAGES = [
    {"_id": "hours", "text": "The doors are unlocked at seven in the morning.", "metadata": {"place": "cafe"}},
    {"_id": "milk", "text": "Drinks with oat milk cost the same.", "metadata": {"place": "cafe"}},
    {"_id": "dogs", "text": "Pets may sit in the garden.", "metadata": {"place": "hotel"}},
    {"_id": "pool", "text": "You can swim until nine.", "metadata": {"place": "hotel"}},
]


@pytest.fixture
def searched(tmp_path):
    """A folder in BEIR's layout."""
    asked = [{"_id": "q1", "text": "When do you open?"}, {"_id": "q2", "text": "Can I bring my dog?"}]
    for name, content in (("corpus", PAGES), ("queries", asked)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\thours\t1\nq2\tdogs\t1\n")
    return tmp_path


@weights
def test_searching_is_measured(searched):
    files = [f"--{part}={searched / name}" for part, name in (("corpus", "corpus.jsonl"), ("queries", "queries.jsonl"))]
    files.append(f"--qrels={searched / 'qrels.tsv'}")
    summary = measured("eval", "retrieval", *files, "--channels", "dense", "--run", searched / "run.trec")
    assert summary["n"] == 2 and summary["recall@1"] == summary["mrr@5"] == summary["ndcg@10"] == 1.0
    assert summary["ms_per_query"] > 0
    assert (searched / "run.trec").read_text().split()[:3] == ["q1", "Q0", "hours"]
    for name in ("likelihood", "full"):
        again = measured("eval", "retrieval", *files, "--rerank", name)
        assert again["n"] == 2 and again["recall@5"] == 1.0 and again["ms_per_query"] > summary["ms_per_query"]
    refused(vivavoce("eval", "retrieval", *files, "--channels", "smell"), "channels")
    refused(vivavoce("eval", "retrieval", *files, "--field", "asr"), "asr")


@weights
def test_searching_in_dialogues_is_measured(searched, rows):
    said = [{"role": "assistant", "text": "I found the hotel."}]
    turn = {"history": said, "turn": {"text": "Can I swim?"}, "needs_retrieval": True, "doc_ids": ["pool"]}
    data = rows([turn, {"history": said, "turn": {"text": "Thanks."}, "needs_retrieval": False}])
    summary = measured(
        "eval", "dialogue-retrieval", "--data", data, "--corpus", searched / "corpus.jsonl", "--key", "place"
    )
    assert summary["n"] == 1 and summary["recall@1"] == 1.0


@weights
def test_an_embedding_adapter_is_trained_and_used(searched, tmp_path):
    questions = [{"question": f"Where is house {n}?", "passage": f"House {n} stands in street {n}."} for n in range(30)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in questions))
    out = tmp_path / "adapter"
    kept = ("--without", searched / "corpus.jsonl")
    card = measured(
        "train", "embedder", "--data", data, *kept, "--out", out, "--layers", 2, "--text-steps", 0, "--pair-steps", 2
    )
    assert (
        card["pairs"] == 30 and card["teacher"] == "all-minilm-l6-v2" and card["command"].startswith("vivavoce train")
    )
    assert str(tmp_path) not in (out / "card.json").read_text()
    files = ("--corpus", searched / "corpus.jsonl", "--queries", searched / "queries.jsonl")
    summary = measured(
        *("eval", "retrieval", *files, "--qrels", searched / "qrels.tsv"),
        *("--embedder", "llm", "--adapter", out, "--channels", "dense"),
    )
    assert summary["n"] == 2 and 0 <= summary["recall@1"] <= summary["recall@5"] == 1.0
    other = vivavoce("eval", "retrieval", *files, "--qrels", searched / "qrels.tsv", "--adapter", out)
    refused(other, "adapter")
