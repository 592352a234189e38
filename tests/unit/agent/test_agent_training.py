"""Training of the reader of P(<RET>), on a tiny model that can tell two kinds of turns apart."""

from __future__ import annotations

import gzip
import json
import random

import pytest
import torch

from vivavoce.agent import ConfigError, ReadOut, TransformersChatModel
from vivavoce.agent.training.readout import train_read_out

pytestmark = pytest.mark.usefixtures("one_cpu")


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """In bfloat16 a kernel is compiled for each length of prompt, which costs more than all the rest."""
    monkeypatch.setattr("vivavoce.agent.model.local.pick_dtype", lambda dtype, device: torch.float32)


def dialogue(needs: bool, number: int) -> dict:
    asked = f"what does number {number} cost ???" if needs else f"thanks a lot {number} !!!"
    return {
        "history": [{"role": "user", "text": "Hi."}, {"role": "assistant", "text": "Hello!"}],
        "turn": {"role": "user", "text": asked},
        "needs_retrieval": needs,
    }


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def damaged() -> bytes:
    """Gzip that is whole but for one byte in its middle."""
    data = bytearray(gzip.compress(json.dumps([dialogue(True, n) for n in range(9)]).encode()))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


@pytest.fixture
def dialogues(tmp_path):
    rows = [dialogue(number % 2 == 0, number) for number in range(60)]
    random.Random(0).shuffle(rows)
    return write(tmp_path / "dialogues.jsonl", rows)


def test_a_reader_is_trained_saved_and_read(tiny_llm, dialogues, tmp_path):
    told = []
    out = tmp_path / "reader.json"
    card = train_read_out(
        [dialogues], out, model=str(tiny_llm), device="cpu", progress=lambda *report: told.append(report)
    )
    assert told[0] == (1, 60, "reading turns") and told[-1] == (60, 60, "reading turns")
    assert sum(card["turns"][part] for part in ("fitted", "calibrated", "held_out")) == 60
    assert card["turns"]["need_retrieval"] == 30 and card["data"] == ["dialogues.jsonl"]
    assert card["held_out"]["auroc"] == 1.0, "two kinds of turns that look so different are told apart"
    assert json.loads(out.read_text())["card"] == card
    reader = ReadOut.load(out)
    assert (reader.model, reader.weights.shape) == (tiny_llm.name, (64,)) and reader.layer == 1
    model = TransformersChatModel(tiny_llm, read_out=reader, device="cpu")
    asks, thanks = (
        model.begin([{"role": "user", "content": dialogue(needs, 99)["turn"]["text"]}]).first.ret_probability
        for needs in (True, False)
    )
    assert asks > thanks


def test_the_same_seed_trains_the_same_reader(tiny_llm, dialogues, tmp_path):
    for name in ("one", "other"):
        train_read_out([dialogues], tmp_path / f"{name}.json", model=str(tiny_llm), layer=2, seed=3, device="cpu")
    assert (tmp_path / "one.json").read_text() == (tmp_path / "other.json").read_text()


def test_questions_and_requests_may_come_without_dialogues(tiny_llm, tmp_path):
    questions = write(tmp_path / "questions.jsonl.gz", [{"text": f"what does number {n} cost ???"} for n in range(30)])
    requests = [{"text": f"thanks a lot {n} !!!"} for n in range(30)]
    informative = [{"text": "how is the weather", "intent": "weather_query"}]  # neither kind: left out
    requests = write(tmp_path / "requests.jsonl", requests + informative)
    card = train_read_out(
        [], tmp_path / "reader.json", questions=[questions], requests=[requests], model=str(tiny_llm), device="cpu"
    )
    assert card["turns"]["need_retrieval"] == 30
    assert sum(card["turns"][part] for part in ("fitted", "calibrated", "held_out")) == 60
    assert card["data"] == ["questions.jsonl.gz", "requests.jsonl"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"turn": {"role": "user", "text": "x"}, "needs_retrieval": True}], 'line 1: there is no "history"'),
        ([{"history": [], "turn": "x", "needs_retrieval": True}], "row 1: .* objects with role and text"),
        ([{"history": [], "turn": {"role": "user"}, "needs_retrieval": True}], "row 1: .* objects with role and text"),
        ([dialogue(True, 1), ["no", "object"]], "line 2: expected a JSON object"),
        ([dialogue(n % 2 == 0, n) for n in range(20)], "20 turns, 10 of which.*at least 50 of both kinds"),
        ([dialogue(True, n) for n in range(60)], "60 turns, 60 of which"),
        ([], "has no rows: write"),
    ],
)
def test_files_that_cannot_teach(tiny_llm, tmp_path, rows, message):
    path = write(tmp_path / "bad.jsonl", rows)
    with pytest.raises(ConfigError, match=message):
        train_read_out([path], tmp_path / "reader.json", model=str(tiny_llm), device="cpu")
    assert not (tmp_path / "reader.json").exists()


@pytest.mark.parametrize("content", [None, b"no json", b"\x1f\x8bbroken", b"\xff\xfe", damaged()])
@pytest.mark.parametrize("name", ["bad.jsonl", "bad.jsonl.gz"])
def test_files_that_cannot_be_read(tiny_llm, tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.jsonl.*JSON object"):
        train_read_out([tmp_path / name], tmp_path / "reader.json", model=str(tiny_llm), device="cpu")


def test_plain_files_have_texts(tiny_llm, tmp_path):
    path = write(tmp_path / "questions.jsonl", [{"question": "x"}])
    with pytest.raises(ConfigError, match='line 1: there is no "text"; it has question'):
        train_read_out([], tmp_path / "reader.json", questions=[path], model=str(tiny_llm), device="cpu")


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_that_the_model_has_not(tiny_llm, dialogues, tmp_path, layer):
    with pytest.raises(ConfigError, match=f"layer must be 0 to 2, not {layer}"):
        train_read_out([dialogues], tmp_path / "reader.json", model=str(tiny_llm), layer=layer, device="cpu")
