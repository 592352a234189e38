"""A collection of Chroma that is there already, as knowledge. Needs pip install 'vivavoce[chroma]'."""

from pathlib import Path

import chromadb

from vivavoce.agent import Persona, VoiceAgent, weights
from vivavoce.retrieval import Embedder, SentenceTransformerEmbedder
from vivavoce.retrieval.integrations.chroma import ChromaKnowledge

FOLDER = Path("out") / "chroma"
MENU = {
    "scone": ("The cheese scone is baked with cheddar and a little mustard.", {"source": "bakery", "price": 3.2}),
    "roll": ("The cinnamon roll is glazed with brown butter.", {"source": "bakery", "price": 3.6}),
    "mocha": ("The mocha is made with dark chocolate from Ghana.", {"source": "bar", "price": 4.1}),
}


def collect(embedder: Embedder) -> None:
    """What somebody else's program has done: a collection, its vectors made by a model of their choice."""
    texts = [text for text, _ in MENU.values()]
    with chromadb.PersistentClient(FOLDER, chromadb.config.Settings(anonymized_telemetry=False)) as client:
        space = {"hnsw": {"space": "cosine"}}
        menu = client.get_or_create_collection("menu", configuration=space, embedding_function=None)
        menu.upsert([*MENU], embedder.embed(texts), [about for _, about in MENU.values()], texts)


def main() -> None:
    embedder = SentenceTransformerEmbedder(weights.resolve("all-minilm-l6-v2"))
    collect(embedder)
    persona = Persona.load(Path(__file__).parent / "coffeehouse" / "persona.json")
    with ChromaKnowledge.open(FOLDER, "menu", embedder=embedder) as knowledge:
        for passage in knowledge.search("something sweet", where={"price": {"$lt": 4}}):
            print(f"{passage.score:.2f}", passage.text)
        with VoiceAgent.load(knowledge, embedder=embedder, recognizer=None, synthesizer=None, persona=persona) as agent:
            turn = agent.ask("Where does the chocolate in your mocha come from?")
            print(turn.text, *turn.sources)


if __name__ == "__main__":
    main()
