"""When to look something up: the gates, and the reader of P(<RET>) that the default one asks."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from vivavoce.agent import (
    AlwaysRetrieve,
    ConfigError,
    Decision,
    FirstToken,
    Gate,
    NeverRetrieve,
    ReadOut,
    TokenGate,
    TransformersChatModel,
)
from vivavoce.agent.opening import default_gate, is_small
from vivavoce.agent.testing import ScriptedModel, check_gate
from vivavoce.speech import Hypothesis, Transcript

HEARD = Transcript((Hypothesis("when do you open", -1.0, 5),), "en", 0.0, 1.0)


@pytest.mark.parametrize("gate", [NeverRetrieve(), AlwaysRetrieve(), TokenGate(), TokenGate(0.01), TokenGate(0.99)])
def test_the_built_in_gates_keep_the_contract(gate):
    check_gate(gate)
    assert isinstance(gate, Gate)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"retrieve": "flipped"}, "never a reason against"),
        ({"probability": 1.5}, "is one"),
        ({"gate": "someone else"}, "its name"),
        ({"reason": ""}, "a reason"),
    ],
)
def test_the_contract_finds_a_broken_gate(change, sentence):
    class Broken:
        name = "token"

        def decide(self, first, heard):
            decision = TokenGate().decide(first, heard)
            changes = {"retrieve": not decision.retrieve} if "retrieve" in change else change
            return dataclasses.replace(decision, **changes)

    with pytest.raises(AssertionError, match=sentence):
        check_gate(Broken())


def test_the_threshold_itself_looks_up():
    gate = TokenGate(0.3)
    decided = [gate.decide(FirstToken(p), HEARD) for p in (0.29, 0.3, 0.31)]
    assert [decision.retrieve for decision in decided] == [False, True, True]
    assert decided[1] == Decision(True, 0.3, "token", "P(<RET>) 0.30 ≥ 0.30")


def test_never_and_always_tell_the_probability_all_the_same():
    assert NeverRetrieve().decide(FirstToken(0.9), HEARD).probability == 0.9
    assert AlwaysRetrieve().decide(FirstToken(0.1), HEARD).probability == 0.1


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 2, math.nan])
def test_a_threshold_that_decides_nothing_is_refused(threshold):
    with pytest.raises(ConfigError, match=r"NeverRetrieve, AlwaysRetrieve"):
        TokenGate(threshold)


def test_the_default_gate_takes_the_threshold_of_the_models_reader(tiny_llm):
    reader = ReadOut("tiny-llm", 1, np.zeros(64, np.float32), 0.0, threshold=0.37)
    model = TransformersChatModel(tiny_llm, read_out=reader, device="cpu")
    assert default_gate(model) == TokenGate(0.37)
    assert default_gate(ScriptedModel()) == TokenGate(0.5)
    assert is_small(model) and not is_small(ScriptedModel())


# -- the reader -----------------------------------------------------------------------------------------------------


def reader(**changes) -> ReadOut:
    return dataclasses.replace(ReadOut("tiny", 1, np.array([1.0, -2.0, 0.5], np.float32), 0.25, 0.4), **changes)


def test_the_probability_is_logistic():
    state = np.array([0.5, 0.25, 2.0], np.float32)
    assert reader().probability(state) == pytest.approx(1 / (1 + math.exp(-1.25)))


@pytest.mark.parametrize(("scale", "expected"), [(1e6, 1.0), (-1e6, 0.0)])
def test_the_probability_of_an_extreme_state_is_one(scale, expected):
    probability = reader().probability(np.array([scale, 0, 0], np.float32))
    assert 0 <= probability <= 1 and probability == pytest.approx(expected)


def test_saved_and_loaded_it_reads_the_same(tmp_path):
    path = tmp_path / "reader.json"
    reader(weights=np.array([1 / 3, -2e-7, 1e6], np.float32)).save(path, {"what": "a test"})
    assert json.loads(path.read_text())["card"] == {"what": "a test"}
    loaded = ReadOut.load(path)
    assert (loaded.model, loaded.layer, loaded.bias, loaded.threshold) == ("tiny", 1, 0.25, 0.4)
    assert loaded.weights.dtype == np.float32
    np.testing.assert_allclose(loaded.weights, [1 / 3, -2e-7, 1e6], rtol=1e-5)


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "not json",
        "[]",
        "{}",
        '{"model": "m", "layer": 1, "bias": 0, "threshold": 0.5, "weights": ["a"]}',
        '{"model": "m", "layer": "one", "bias": 0, "threshold": 0.5, "weights": [1]}',
        '{"model": "m", "layer": 1, "bias": null, "threshold": 0.5, "weights": [1]}',
    ],
)
def test_a_file_that_is_no_reader(tmp_path, content):
    path = tmp_path / "reader.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"reader\.json is no read-out .*vivavoce train read-out"):
        ReadOut.load(path)


@pytest.mark.parametrize(
    "wrong",
    [{"weights": np.zeros((2, 2), np.float32)}, {"weights": np.array([np.nan], np.float32)}]
    + [{"threshold": threshold} for threshold in (0.0, 1.0)],
)
def test_bad_numbers_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        reader(**wrong)


def test_it_is_for_one_shape_of_model():
    class Config:
        hidden_size, num_hidden_layers = 3, 2

    reader().check(Config)
    for wrong in (reader(layer=3), reader(layer=-1), reader(weights=np.zeros(4, np.float32))):
        with pytest.raises(ConfigError, match=r"trained on tiny \(layer -?\d, width \d\).*2 layers of width 3"):
            wrong.check(Config)


def test_one_comes_with_the_package():
    shipped = ReadOut.shipped("smollm2-135m-instruct")
    assert shipped is not None and shipped.weights.shape == (576,) and shipped.model == "smollm2-135m-instruct"
    assert ReadOut.shipped("no-such-model") is None


def test_a_folder_is_no_name_of_a_shipped_one(tmp_path):
    assert ReadOut.shipped(str(tmp_path)) is None
    assert ReadOut.shipped("owner/name") is None


def test_a_path_is_no_name_of_a_shipped_one(tmp_path):
    reader().save(tmp_path / "mine.json", {})
    above = "../" * 40 + str(tmp_path / "mine").lstrip("/")
    for path in (str(tmp_path / "mine"), above, "../data/smollm2-135m-instruct", "./smollm2-135m-instruct", "", "."):
        assert ReadOut.shipped(path) is None, path
    assert ReadOut.shipped("directed") is None, "a file of another kind"
