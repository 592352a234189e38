"""Weights that a chooser learns from lists, and a run that goes on where it was broken off."""

from __future__ import annotations

import json

import pytest

from vivavoce.agent.errors import ConfigError
from vivavoce.agent.evaluation.nbest import ranked
from vivavoce.agent.opening import read_weights
from vivavoce.agent.training.chooser import train_chooser
from vivavoce.speech import Transcript
from vivavoce.speech.lists.choosing import LanguageChooser, LanguageOptions
from vivavoce.speech.lists.evidence import EVIDENCE


class KnowsBand:
    """Likes sentences with the word "band"; breaks after some calls, if it is told to."""

    fingerprint = "band"

    def __init__(self, breaks_after: int | None = None) -> None:
        self.calls = 0
        self._left = breaks_after

    def score(self, texts, *, context=""):
        if self._left is not None and self.calls >= self._left:
            raise KeyboardInterrupt
        self.calls += 1
        return [-5.0 if "band" in text else -9.0 for text in texts]

    def lengths(self, texts):
        return [len(text.split()) for text in texts]


@pytest.fixture
def rows(tmp_path):
    """The recogniser prefers "bant" in its first hypothesis; what was said is "band"."""
    path = tmp_path / "lists.jsonl"
    lines = [
        {"hypotheses": [f"the bant played song{n}", f"the band played song{n}"], "scores": [-1.0, -4.0], "text": t}
        for n in range(60)
        for t in [f"the band played song{n}"]
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_weights_are_learned_written_and_read(rows, tmp_path):
    out = tmp_path / "learned" / "weights.json"
    told = []
    card = train_chooser([rows], out, KnowsBand(), progress=lambda *told_: told.append(told_))
    assert (card["lists"], card["telling"], told[-1][:2]) == (60, 60, (60, 60))
    assert card["wer_left_out"] == 0.0 < card["wer_1best"] == card["wer_by_hand"] == 0.2
    weights = read_weights(out)
    assert set(weights) == set(EVIDENCE)
    chooser = LanguageChooser(KnowsBand(), options=LanguageOptions(weights=weights))
    heard: Transcript = ranked(["the bant played on", "the band played on"], [-1.0, -4.0])
    assert chooser.choose(heard).text == "the band played on"


def test_a_run_that_was_broken_off_reads_no_list_twice(rows, tmp_path):
    out = tmp_path / "weights.json"
    with pytest.raises(KeyboardInterrupt):
        train_chooser([rows], out, KnowsBand(breaks_after=25))
    scorer = KnowsBand()
    card = train_chooser([rows], out, scorer)
    assert scorer.calls == 35 and card["lists"] == 60


def test_too_few_lists_and_wrong_rows_are_refused(rows, tmp_path):
    with pytest.raises(ConfigError, match="only 30 of 30 lists"):
        train_chooser([rows], tmp_path / "w.json", KnowsBand(), limit=30)
    assert [*tmp_path.iterdir()] == [rows], "no checkpoint stands in the way of the same with more data"
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text(json.dumps({"hypotheses": ["a", "b"], "scores": [1.0], "text": "a"}) + "\n")
    with pytest.raises(ConfigError, match="2 hypotheses have 1 scores"):
        train_chooser([wrong], tmp_path / "w.json", KnowsBand())


@pytest.mark.parametrize("content", ["", "[]", '{"weights": {"loud": 1.0}}', '{"weights": {"heard": "much"}}'])
def test_a_file_without_weights_names_the_command(tmp_path, content):
    path = tmp_path / "weights.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="vivavoce train chooser"):
        read_weights(path)
