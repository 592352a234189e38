"""How hypothesis draws its examples, and the fixtures that every test may ask for: where the real weights are."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from vivavoce.agent import weights
from vivavoce.agent.weights.registry import ASR, EMBEDDING, LLM

# The same examples in every run, by hand and where CI is set; HYPOTHESIS_PROFILE=random draws many others.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("random", max_examples=5_000, derandomize=False, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

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
