"""A language model of two layers and eighteen words that learns to embed, and what it learns from."""

import random
from itertools import combinations

import pytest

from vivavoce.agent.training.plan import EmbedderTrainingOptions, Pair

WORDS = "<eos> <unk> we open at seven close on sunday oat milk costs sixty cents more . 拿铁".split()
PLAIN = [word for word in WORDS[2:] if word.isascii() and word.isalpha()]
# Questions are in other words than all answers: what belongs together has to be learned.
ASKED, TOLD = PLAIN[:6], PLAIN[6:12]
PAIRS = [Pair(f"{ASKED[i]} {ASKED[j]}", f"{TOLD[i]} {TOLD[j]}") for i, j in combinations(range(6), 2)]
TEXTS = [" ".join(random.Random(seed).sample(PLAIN, 4)) for seed in range(40)]
SMALL = EmbedderTrainingOptions(
    layers=1,
    rank=16,
    dim=16,
    max_tokens=32,
    train_tokens=32,
    texts=8,
    pairs=6,
    projection_texts=40,
    text_steps=6,
    pair_steps=120,
    distillation=0.1,
    learning_rate=2e-2,
    save_every=5,
    lexical=0.0,
    spoken=False,
)


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>", padding_side="left")


def tiny_llama(seed=0):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config).eval()
