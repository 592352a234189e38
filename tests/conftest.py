"""Fixtures that every test may ask for: where the real weights are."""

from pathlib import Path

import pytest

from vivavoce.agent import weights
from vivavoce.agent.weights.registry import ASR, EMBEDDING, LLM

ROOT = Path(__file__).parents[1]


def _weights(name: str) -> Path:
    # `make test` fetches first, so that no test waits for a download.
    return weights.resolve(name, fetch=False)


@pytest.fixture(scope="session")
def whisper_dir() -> Path:
    return _weights(ASR)


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    return _weights(EMBEDDING)


@pytest.fixture(scope="session")
def llm_dir() -> Path:
    return _weights(LLM)


@pytest.fixture(scope="session")
def coffeehouse() -> Path:
    return ROOT / "examples" / "coffeehouse"
