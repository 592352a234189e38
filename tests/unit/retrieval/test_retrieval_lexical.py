import numpy as np
import pytest
import torch
from tiny_embedder import PAIRS, SMALL, TEXTS, tiny_llama
from tiny_embedder import tokenizer as tokenizer

from vivavoce.agent.training.contrastive import train_embedder
from vivavoce.agent.training.plan import EmbedderTrainingOptions
from vivavoce.retrieval import EmbeddingError, LLMEmbedder
from vivavoce.retrieval.embedding.adapter import WEIGHTS
from vivavoce.retrieval.embedding.lexical import fit_lexical, spoken
from vivavoce.retrieval.testing import check_embedder


def table(tokens=50, width=12, seed=0):
    # As in a language model: a common offset, and a few directions that carry almost all the variance.
    values = np.random.default_rng(seed).normal(size=(tokens, width)) * np.geomspace(30, 0.1, width) + 12
    return torch.tensor(values, dtype=torch.float32)


TEXT = [[0, 1, 2, number] for number in range(3, 50)] * 2


def test_whitened_tokens_lie_apart_and_rare_ones_count_more():
    lexical = fit_lexical(table(), TEXT)
    single = lexical.embed(table(), [[token] for token in range(50)])
    raw = torch.nn.functional.normalize(table(), dim=-1)
    off = ~torch.eye(50, dtype=torch.bool)
    assert (raw @ raw.T)[off].mean() > 0.3 > 10 * abs((single @ single.T)[off].mean())
    assert lexical.log_weights[0] < lexical.log_weights[10]  # 0 stands in all texts, 10 in one of 47
    mixed = lexical.embed(table(), [[0, 10]])[0]
    assert mixed @ single[10] > 0.8 > mixed @ single[0]


def test_repetitions_count_less_and_less_and_order_not_at_all():
    lexical = fit_lexical(table(), TEXT)
    once, twice, often, turned = lexical.embed(table(), [[10, 20], [10, 10, 20], [*[10] * 50, 20], [20, 10]])
    ten = lexical.embed(table(), [[10]])[0]
    assert once @ ten < twice @ ten < often @ ten < 0.98
    assert torch.allclose(once, turned)


def test_a_map_needs_texts():
    with pytest.raises(ValueError, match="texts"):
        fit_lexical(table(), [])


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("When was Casimir Pulaski born?", " when was casimir pulaski born"),
        ("It's 5_000 (about)…", " it's 5 000 about"),
        ("拿铁。", " 拿铁"),
        ("", " "),
    ],
)
def test_texts_are_read_as_spoken(text, read):
    assert spoken(text) == read


@pytest.fixture(scope="module")
def adapter(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lexical")
    values = {name: getattr(SMALL, name) for name in SMALL.__slots__}
    values |= {"lexical": 0.5, "spoken": True, "word_steps": 5, "text_steps": 0, "pair_steps": 5}
    card = train_embedder(tiny_llama(), tokenizer, PAIRS, TEXTS, folder, options=EmbedderTrainingOptions(**values))
    assert set(card["loss"]) == {"words", "pairs"}
    return folder


def test_vectors_hold_both_parts_and_do_not_hear_marks(adapter, tokenizer):
    embedder = LLMEmbedder(tiny_llama(), tokenizer, adapter)
    check_embedder(embedder)
    assert embedder.dim == 16 + 32
    one, other = embedder.embed(["We open, at seven!", "we open at seven"])
    assert np.allclose(one, other, atol=1e-6)
    assert np.allclose([one[:16] @ one[:16], one[16:] @ one[16:]], 0.5, atol=1e-3)


def test_an_adapter_for_another_vocabulary_is_refused(adapter, tokenizer, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in adapter.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / WEIGHTS)
    weights["lexical.log_weights"] = weights["lexical.log_weights"][:-1].clone()
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(EmbeddingError, match="vocabulary"):
        LLMEmbedder(tiny_llama(), tokenizer, tmp_path)
