"""Wait for "Hey barista", and understand the order behind it."""

from pathlib import Path

from vivavoce.agent import Grammar, SlotFiller, WakePhrase, weights
from vivavoce.speech import Audio, HibariSynthesizer, WhisperRecognizer

QUESTIONS = Path(__file__).parent / "coffeehouse" / "questions"
ORDER = {
    "size": ["small", "medium", "large"],
    "drink": ["espresso", "cappuccino", "latte", "mocha", "iced coffee"],
    "milk": ["whole milk", "skim milk", "almond milk", "soy milk"],
    "sugar": ["sugar", "brown sugar", "sweetener"],
}


def main() -> None:
    recognizer = WhisperRecognizer(weights.resolve("whisper-base"))
    wake = WakePhrase("hey barista")
    filler = SlotFiller(Grammar.from_values({"order": ORDER}))
    name = Audio.join(HibariSynthesizer().speak("Hey barista!"))
    for recording in ("1-order-medium-mocha.flac", "2-sunday-closing.flac"):
        said = Audio.read(QUESTIONS / recording)
        for audio in (said, Audio.join([name, said])):
            called = wake.listen(recognizer.transcribe(audio, n_best=10))
            print(f"{called.probability:.2f}", called.rest.text or called.rest.reason)
            if called.called:
                command = filler.fill(called.rest)
                print("    ", dict(command.slots) if command.accepted else command.reason)


if __name__ == "__main__":
    main()
