"""A knowledge base of one's own: any object with a method `search`."""

from pathlib import Path

from vivavoce.agent import Persona, VoiceAgent
from vivavoce.retrieval import Passage

STOCK = {"almond croissant": 11, "cheese scone": 2, "cinnamon roll": 4}


class Counter:
    """What lies on the counter right now, which no index of documents can know."""

    def search(self, query: str, k: int = 5) -> list[Passage]:
        """The items that the question names."""
        asked = [item for item in STOCK if item in query.lower()]
        return [Passage(item, f"We have {STOCK[item]} {item}s left.", "counter", score=1.0) for item in asked[:k]]


def main() -> None:
    persona = Persona.load(Path(__file__).parent / "coffeehouse" / "persona.json")
    with VoiceAgent.load(Counter(), recognizer=None, synthesizer=None, persona=persona) as agent:
        for question in ("How many cinnamon rolls do you have left?", "Thank you very much!"):
            turn = agent.ask(question)
            print(question, "→", turn.text, *turn.sources)


if __name__ == "__main__":
    main()
