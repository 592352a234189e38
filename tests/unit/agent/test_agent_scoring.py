"""The scorer against the formula, on a tiny model with random weights."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from vivavoce.agent.errors import ConfigError
from vivavoce.agent.model.scorer import LanguageScorer, ScoringOptions
from vivavoce.agent.opening import open_chooser

TEXTS = ["the band played", "the ban played on", "the", "rain", ""]


class Bytes:
    """One token a byte."""

    unk_token_id = 0

    def __call__(self, text: str, add_special_tokens: bool) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[3 + byte for byte in text.encode()])


@pytest.fixture(scope="module")
def chat():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    return SimpleNamespace(model=LlamaForCausalLM(config).eval(), tokenizer=Bytes(), device="cpu", name="tiny")


def formula(chat, text: str, before: str) -> float:
    import torch

    head, line = ([3 + byte for byte in part.encode()] for part in (before, text + "\n"))
    with torch.inference_mode():
        spoken = chat.model(torch.tensor([[0, *head, *line]])).logits.log_softmax(-1)[0]
    return sum(float(spoken[len(head) + at, token]) for at, token in enumerate(line))


@pytest.mark.parametrize("opening", ["", "hello you\n"])
@pytest.mark.parametrize("context", ["", "go on"])
@pytest.mark.parametrize("batch_tokens", [1, 1024])
def test_shared_beginnings_padding_and_batches_change_no_score(chat, opening, context, batch_tokens):
    scorer = LanguageScorer(chat, options=ScoringOptions(opening=opening, batch_tokens=batch_tokens))
    wanted = [formula(chat, text, opening + (f"{context}\n" if context else "")) for text in TEXTS]
    assert scorer.score(TEXTS, context=context) == pytest.approx(wanted, abs=1e-3)
    assert scorer.score(TEXTS, context=context) == pytest.approx(wanted, abs=1e-3)
    assert scorer.score([]) == ()


def test_an_adapter_is_put_on_for_scoring_and_taken_off_again(chat, tmp_path):
    import torch
    from safetensors.torch import save_file

    weight = chat.model.model.layers[1].self_attn.q_proj.weight
    bare, down, up = weight.data.clone(), torch.randn(2, 32), torch.randn(32, 2)
    stem = "base_model.model.model.layers.1.self_attn.q_proj"
    save_file({f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    worn = LanguageScorer(chat, adapter=tmp_path, options=ScoringOptions(opening="")).score(TEXTS)
    assert torch.equal(weight.data, bare)
    assert worn != pytest.approx([formula(chat, text, "") for text in TEXTS], abs=1e-3)
    weight.data = bare + 2.0 * up @ down
    assert worn == pytest.approx([formula(chat, text, "") for text in TEXTS], abs=1e-3)
    weight.data = bare


def test_fingerprints_tell_apart_what_scores_differently(chat, tmp_path):
    import torch
    from safetensors.torch import save_file

    stem = "base_model.model.model.layers.1.self_attn.q_proj"
    matrices = {f"{stem}.lora_A.weight": torch.ones(2, 32), f"{stem}.lora_B.weight": torch.ones(32, 2)}
    save_file(matrices, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    plain = LanguageScorer(chat).fingerprint
    assert plain == LanguageScorer(chat, options=ScoringOptions(batch_tokens=1)).fingerprint
    others = LanguageScorer(chat, adapter=tmp_path), LanguageScorer(chat, options=ScoringOptions(opening=""))
    assert len({plain, *(scorer.fingerprint for scorer in others)}) == 3


def test_a_folder_without_an_adapter_is_named(chat, tmp_path):
    with pytest.raises(ConfigError, match="holds no adapter"):
        LanguageScorer(chat, adapter=tmp_path)


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match="batch_tokens"):
        ScoringOptions(batch_tokens=0)


def test_weights_go_with_methods_that_weigh(tmp_path):
    with pytest.raises(ConfigError, match="rover weighs no evidence"):
        open_chooser("rover", weights=tmp_path / "weights.json")
