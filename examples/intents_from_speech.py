"""What somebody wants, learned from a few sentences, understood from everything that may have been said."""

from pathlib import Path

from vivavoce.agent import IntentClassifier, weights
from vivavoce.agent.understanding.readers import open_readers
from vivavoce.speech import Audio, WhisperRecognizer

QUESTIONS = Path(__file__).parent / "coffeehouse" / "questions"
EXAMPLES = {
    "order": [
        "I'd like a latte, please",
        "can I get a large espresso with milk",
        "one small tea to go",
        "make me two cappuccinos with brown sugar",
        "a hot chocolate with whipped cream for me",
    ],
    "opening hours": [
        "when do you open",
        "are you open on Saturday evening",
        "until what time can I come on Monday",
        "what are your hours on holidays",
        "do you close early tomorrow",
    ],
    "lost property": [
        "I forgot my jacket here",
        "did anybody find a phone",
        "I think I left my keys on a table",
        "where do you keep lost things",
        "somebody lost a glove in your shop",
    ],
    "loyalty card": [
        "how does your loyalty card work",
        "is there a stamp on my card for every coffee",
        "when do I get something for free",
        "can I have a new stamp card",
        "my card is full, what do I get",
    ],
    "allergens": [
        "are there nuts in the brownie",
        "is the oat milk free of gluten",
        "which cakes contain eggs",
        "does the chai have milk in it",
        "I have an allergy, what can I eat",
    ],
    "small talk": ["how are you", "nice weather today", "thank you very much", "good morning", "you are very kind"],
}


def main() -> None:
    labels = [intent for intent, sentences in EXAMPLES.items() for _ in sentences]
    sentences = [sentence for sentences in EXAMPLES.values() for sentence in sentences]
    classifier = IntentClassifier(open_readers()).fit(sentences, labels)
    recognizer = WhisperRecognizer(weights.resolve("whisper-base"))
    for recording in sorted(QUESTIONS.glob("*.flac")):
        heard = recognizer.transcribe(Audio.read(recording), n_best=5)
        wanted = classifier.predict(heard)
        print(f"{wanted.probability:.2f} {wanted.intent:14} {heard.text}")


if __name__ == "__main__":
    main()
