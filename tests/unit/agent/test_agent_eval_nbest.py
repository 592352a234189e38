"""Lists without audio: rates, and the data that a corrector is trained on."""

from __future__ import annotations

import pytest

from vivavoce.agent.errors import ConfigError
from vivavoce.agent.evaluation.nbest import evaluate_lists, ranked
from vivavoce.agent.opening import open_chooser
from vivavoce.agent.training.corrector import TrainingOptions, ranked_readings
from vivavoce.speech.lists.choosing import Choice


class Last:
    def choose(self, transcript, *, context=""):
        return Choice(transcript.hypotheses[-1].text, "last", len(transcript.hypotheses) - 1, 1.0)


ROWS = [
    {"id": "a", "hypotheses": ["the bant played", "the band plaid", "the band played"], "text": "The band played."},
    {"id": "b", "hypotheses": ["so be it", "so bee it"], "text": "so be it"},
]


def test_rates_of_the_first_the_chosen_and_the_best():
    summary, items = evaluate_lists(ROWS, Last())
    assert summary["wer_1best"] == pytest.approx(1 / 6, abs=1e-4) == summary["wer_chosen"]
    assert (summary["wer_oracle"], summary["better"], summary["worse"], summary["relative"]) == (0.0, 1, 1, 0.0)
    assert [item["errors_chosen"] for item in items] == [0, 1]


def test_copies_in_a_list_add_up():
    transcript = ranked(["one", "two", "Two!", "three"])
    assert [hypothesis.text for hypothesis in transcript.hypotheses] == ["one", "two", "three"]
    assert transcript.hypotheses[1].log_prob > -1.0


@pytest.mark.parametrize("hypotheses", [[], "text", [1]])
def test_what_is_no_list_of_texts_is_named(hypotheses):
    with pytest.raises(ConfigError, match="list 1"):
        evaluate_lists([{"hypotheses": hypotheses, "text": "x"}], Last())


def test_choosers_by_name():
    assert open_chooser("1best").choose(ranked(["one", "two"])).text == "one"
    with pytest.raises(ConfigError, match="1best, rover"):
        open_chooser("best")
    with pytest.raises(ConfigError, match="train corrector"):
        open_chooser("corrector")


def test_readings_to_train_on():
    ranked = ranked_readings(["the bant played", "The band played", "the ban plaid"], "the band played")
    assert ranked is not None
    assert ranked.texts == ("The band played.", "The bant played.", "The ban plaid.")
    assert (ranked.errors, ranked.ranks) == ((0, 1, 2), (1, 0, 2))
    assert ranked_readings(["So."], "so") is None


def test_bad_training_options_are_refused():
    with pytest.raises(ConfigError, match="rank"):
        TrainingOptions(rank=0)
