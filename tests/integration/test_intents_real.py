"""Intents with the real models: few examples, and a list that knows better than its first line."""

from __future__ import annotations

import pytest

from vivavoce.agent import TransformersChatModel
from vivavoce.agent.intents import IntentClassifier, StateReader

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
