"""Rescoring with the real language model."""

from __future__ import annotations

import pytest

from vivavoce.agent import TransformersChatModel
from vivavoce.agent.evaluation.nbest import ranked
from vivavoce.agent.model.scorer import LanguageScorer, ScoringOptions
from vivavoce.agent.opening import open_chooser

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def chat(llm_dir):
    return TransformersChatModel(llm_dir)


def test_a_batch_scores_as_its_sentences_alone(chat):
    scorer = LanguageScorer(chat)
    texts = ["The band changed its name.", "The ban changed its name.", "Rain.", "The band changed."]
    alone = [scorer.score([text])[0] for text in texts]
    # Padding and shared beginnings change nothing but the rounding of bfloat16.
    assert scorer.score(texts) == pytest.approx(alone, rel=0.03)
    assert LanguageScorer(chat, options=ScoringOptions(batch_tokens=1)).score(texts) == pytest.approx(alone, rel=0.03)


def test_context_makes_what_fits_it_likelier(chat):
    scorer = LanguageScorer(chat)
    (without,) = scorer.score(["She steered it into the harbour."])
    (behind,) = scorer.score(["She steered it into the harbour."], context="The captain bought a new ship.")
    assert behind > without


def test_words_that_exist_win_where_they_sound_alike(chat):
    chooser = open_chooser("auto", model=chat)
    choice = chooser.choose(
        ranked(["he was also a commitator of the main event", "he was also a commentator of the main event"])
    )
    assert choice.index == 1
    assert chooser.choose(ranked(["I will see you on friday", "I will see you on sunday"])).index == 0
