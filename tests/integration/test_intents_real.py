"""Intents with the real models: few examples, and a list that knows better than its first line."""

from __future__ import annotations

import numpy as np
import pytest

from vivavoce.agent import TransformersChatModel
from vivavoce.agent.model.embedder import default_embedder
from vivavoce.agent.understanding.intents import IntentClassifier, IntentOptions
from vivavoce.agent.understanding.readers import EmbeddingReader, StateReader
from vivavoce.agent.understanding.tuning import TunedEncoders, TuningOptions

pytestmark = pytest.mark.weights

EXAMPLES = {
    "alarm": ["wake me at six", "set an alarm for noon", "I have to get up at eight", "ring at half past five"],
    "music": ["play some jazz", "I want to hear a song", "put on my favourite album", "play the radio"],
    "weather": ["will it rain today", "is it cold outside", "what is the forecast", "do I need an umbrella"],
    "shopping": ["add milk to my list", "we need to buy bread", "put eggs on the shopping list", "order more coffee"],
}
NEW = {
    "get me out of bed at seven": "alarm",
    "I would like to listen to the Beatles": "music",
    "is the sun going to shine tomorrow": "weather",
    "don't let me forget to buy apples": "shopping",
}


@pytest.fixture(scope="module")
def classifier(llm_dir):
    labels = [label for label, texts in EXAMPLES.items() for _ in texts]
    reader = StateReader(TransformersChatModel(llm_dir))
    return IntentClassifier([reader]).fit([text for texts in EXAMPLES.values() for text in texts], labels)


def test_a_few_examples_are_enough(classifier):
    assert [prediction.intent for prediction in classifier.predict_many(list(NEW))] == list(NEW.values())


def test_the_list_is_understood_where_its_first_line_is_not(classifier):
    heard = [
        ("wake knee at sick", 0.3),
        ("wake me at six", 0.25),
        ("wake me at sixth", 0.2),
        ("whether it sticks", 0.25),
    ]
    wrong = [("is it cold at sea", 0.35), ("set an alarm for three", 0.33), ("an alarm for three", 0.32)]
    assert classifier.predict(heard).intent == "alarm"
    assert classifier.predict(wrong[0][0]).intent == "weather" and classifier.predict(wrong).intent == "alarm"


def test_a_fine_tuned_encoder_knows_sentences_that_are_said_otherwise(minilm_dir):
    names = list(EXAMPLES)
    places = np.array([names.index(label) for label in names for _ in EXAMPLES[label]])
    tuned = TunedEncoders(minilm_dir, len(names), device="cpu")
    options = TuningOptions(members=2, epochs=16, batch=8)
    tuned.fit([{text: 1.0} for texts in EXAMPLES.values() for text in texts], places, options)
    given = tuned.log_probabilities([text.lower() for text in NEW]).argmax(axis=1)
    assert [names[place] for place in given] == list(NEW.values())


def test_what_was_fine_tuned_opens_again_with_the_assistants_own_encoder(minilm_dir, tmp_path):
    readers = [EmbeddingReader(default_embedder("cpu"))]
    options = IntentOptions(tuned_from=16, tuning=TuningOptions(members=2, epochs=4, batch=8))
    fitted = IntentClassifier(readers, encoder=minilm_dir, options=options, device="cpu")
    labels = [label for label, texts in EXAMPLES.items() for _ in texts]
    fitted.fit([text for texts in EXAMPLES.values() for text in texts], labels)
    opened = IntentClassifier.load(fitted.save(tmp_path), readers=readers, device="cpu")
    assert opened.mixture == fitted.mixture is not None
    for text in NEW:
        assert dict(opened.predict(text).ranked) == pytest.approx(dict(fitted.predict(text).ranked), abs=1e-4)
