"""Ask a PDF file, and get the passage with its page.

python examples/knowledge_from_pdf.py [PDF] [QUESTION…]
"""

import sys
from pathlib import Path

from vivavoce.agent import weights
from vivavoce.retrieval import LocalKnowledge, SentenceTransformerEmbedder

MANUAL = Path(__file__).parent / "coffeehouse" / "espresso-machine.pdf"
QUESTIONS = ("How often do I descale the boiler?", "Why does no steam come out of the wand?")


def main(pdf: str | Path = MANUAL, *questions: str) -> None:
    embedder = SentenceTransformerEmbedder(weights.resolve("all-minilm-l6-v2"))
    with LocalKnowledge.from_folder(pdf, embedder) as knowledge:  # a folder may hold any number of them
        for question in questions or QUESTIONS:
            for passage in knowledge.search(question, k=1):
                print(f"{question}\n  {passage.breadcrumb}")
                print(f"  {passage.source}, page {passage.page}: {' '.join(passage.text.split())}")


if __name__ == "__main__":
    main(*sys.argv[1:])
