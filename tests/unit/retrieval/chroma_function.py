"""What collections of chromadb embed with in these tests, without weights."""

import chromadb

from vivavoce.retrieval.testing import HashEmbedder

HASHED = HashEmbedder()


class Function(chromadb.EmbeddingFunction):
    """What a collection embeds with by itself, and finds again by its name."""

    def __init__(self):
        pass

    def __call__(self, input):
        return list(HASHED.embed(input))

    @staticmethod
    def name():
        return "hashed"

    def get_config(self):
        return {}

    @staticmethod
    def build_from_config(config):
        return Function()
