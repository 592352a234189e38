import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_embedder import ASKED, PAIRS, PLAIN, SMALL, TEXTS, TOLD, tiny_llama
from tiny_embedder import tokenizer as tokenizer

from vivavoce.agent.training.contrastive import train_embedder
from vivavoce.agent.training.plan import EmbedderTrainingOptions, Pair
from vivavoce.retrieval import EmbeddingError, LLMEmbedder, LoadingError
from vivavoce.retrieval.embedding.adapter import Reading
from vivavoce.retrieval.embedding.likelihood import question_log_likelihoods
from vivavoce.retrieval.testing import HashEmbedder, check_embedder

pytestmark = pytest.mark.usefixtures("one_cpu")


@pytest.fixture(scope="module")
def adapter(tokenizer, one_cpu, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    train_embedder(tiny_llama(), tokenizer, PAIRS, TEXTS, folder, teacher=HashEmbedder(16), options=SMALL)
    return folder


def recall(embedder):
    asked = embedder.embed([pair.query for pair in PAIRS], kind="query")
    found = (asked @ embedder.embed([pair.passage for pair in PAIRS]).T).argmax(axis=1)
    return float(np.mean(found == np.arange(len(PAIRS))))


def test_training_finds_more_and_leaves_the_model_as_it_was(adapter, tokenizer, tmp_path):
    model = tiny_llama()
    train_embedder(model, tokenizer, PAIRS, [], tmp_path, options=SMALL)
    before = {name: weight.clone() for name, weight in tiny_llama().named_parameters()}
    trained = LLMEmbedder(model, tokenizer, adapter)
    check_embedder(trained)
    untrained = LLMEmbedder(model, tokenizer).fit_center(TEXTS)
    assert trained.dim == 16 and trained.name.endswith(f"+{adapter.name}")
    assert recall(trained) >= 0.7 > 2 * recall(untrained)
    assert all(weight.equal(before[name]) and weight.requires_grad for name, weight in model.named_parameters())
    assert len(model.get_decoder().layers) == 2 == model.config.num_hidden_layers
    card = json.loads((adapter / "card.json").read_text())
    assert card["pairs"] == len(PAIRS) and card["loss"]["pairs"]["last"] < card["loss"]["pairs"]["first"]
    assert not (adapter / "checkpoint.pt").exists()


def test_fingerprint_tells_adapters_apart(adapter, tokenizer, tmp_path):
    options = EmbedderTrainingOptions(**{**{name: getattr(SMALL, name) for name in SMALL.__slots__}, "pair_steps": 2})
    train_embedder(tiny_llama(), tokenizer, PAIRS, TEXTS, tmp_path, teacher=HashEmbedder(16), options=options)
    first, again = (LLMEmbedder(tiny_llama(), tokenizer, adapter) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint not in {
        LLMEmbedder(tiny_llama(), tokenizer, tmp_path).fingerprint,
        LLMEmbedder(tiny_llama(), tokenizer).fingerprint,
        LLMEmbedder(tiny_llama(1), tokenizer, adapter).fingerprint,
    }


def test_misheard_queries_are_read_and_meant_ones_followed(tokenizer, tmp_path):
    heard = []

    def misheard(text, rng):
        heard.append(text)
        return "milk"

    train_embedder(
        tiny_llama(), tokenizer, PAIRS, TEXTS, tmp_path, teacher=HashEmbedder(16), misheard=misheard, options=SMALL
    )
    assert {*heard} & {pair.query for pair in PAIRS} and "milk" not in heard


def test_tasks_have_their_instruction_and_vectors_of_their_own(tokenizer, tmp_path):
    requests = [Pair(pair.query, pair.passage, "tool", pair.passage) for pair in PAIRS]
    tasks = {"tool": Reading(f"{PLAIN[11]} {PLAIN[5]}:", 0.1)}
    options = replace(SMALL, tasks=tasks, pair_steps=20, word_steps=2, lexical=0.5)
    card = train_embedder(tiny_llama(), tokenizer, [*PAIRS, *requests], TEXTS, tmp_path, options=options)
    assert card["settings"]["tasks"]["tool"]["lexical"] == 0.1
    knowledge = LLMEmbedder(tiny_llama(), tokenizer, tmp_path)
    tool = knowledge.for_task("tool")
    assert tool.for_task("memory").fingerprint == knowledge.fingerprint != tool.fingerprint
    assert tool.fingerprint == LLMEmbedder(tiny_llama(), tokenizer, tmp_path, task="tool").fingerprint
    check_embedder(tool)
    text = PAIRS[0].query
    asked, told = (tool.embed([text], kind=kind)[0] for kind in ("query", "passage"))
    assert np.allclose(asked[16:], told[16:], atol=1e-6)  # the lexical part does not read the instruction
    assert not np.allclose(asked[:16], told[:16], atol=1e-3)
    assert asked[:16] @ asked[:16] == pytest.approx(0.9, abs=1e-3)
    plain = [knowledge.embed([text], kind=kind)[0] for kind in ("query", "passage")]
    assert np.allclose(*plain, atol=1e-6)
    # What is read is the text alone, whatever else is in the batch.
    assert np.allclose(tool.embed([text, " ".join(PLAIN)], kind="query")[0], asked, atol=1e-5)
    with pytest.raises(ValueError, match="example"):
        tool.for_task("recipes")


def test_pairs_of_one_group_are_not_told_apart(tokenizer, tmp_path):
    pairs = [Pair(query, told, "example", "same") for query in ASKED for told in TOLD]
    card = train_embedder(tiny_llama(), tokenizer, pairs, [], tmp_path, options=replace(SMALL, pair_steps=3))
    assert card["loss"]["pairs"] == {"first": 0.0, "last": 0.0}


def test_passages_that_make_a_question_likely_come_near(tokenizer, tmp_path):
    read = []

    def watched(model, of, pairs, **options):
        read.extend(pairs)
        return question_log_likelihoods(model, of, pairs, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vivavoce.agent.training.contrastive.question_log_likelihoods", watched)
        options = replace(SMALL, pair_steps=3, text_steps=0, generation=1.0, candidates=3)
        train_embedder(tiny_llama(), tokenizer, PAIRS, [], tmp_path, options=options)
    assert len(read) == 3 * SMALL.pairs * 3
    # The right passage is always among them.
    assert all(pair in {(one.query, one.passage) for one in PAIRS} for pair in read[::3])
    # Before the first update both have the same weights: what is more is how far the order is from the likelihoods'.
    once = replace(options, pair_steps=1)
    plain = replace(once, generation=0.0)
    both, alone = (
        train_embedder(tiny_llama(), tokenizer, PAIRS, [], tmp_path / name, options=how)
        for name, how in (("both", once), ("alone", plain))
    )
    assert both["loss"]["pairs"]["first"] > alone["loss"]["pairs"]["first"]


def test_how_likely_a_question_is_does_not_depend_on_what_is_read_beside_it(tokenizer):
    model = tiny_llama()
    pairs = [(pair.query, pair.passage) for pair in PAIRS] + [("", TEXTS[0]), (TEXTS[1] * 3, "")]
    together = question_log_likelihoods(model, tokenizer, pairs, max_tokens=8, batch_tokens=64)
    alone = [question_log_likelihoods(model, tokenizer, [pair], max_tokens=8)[0] for pair in pairs]
    assert np.allclose(together, alone, atol=1e-4) and all(value < 0 for value in together[:-2])
    assert together[-2] == 0.0, "a question without tokens is certain"
    assert question_log_likelihoods(model, tokenizer, []) == []


def test_without_a_teacher_there_are_only_pairs(tokenizer, tmp_path):
    card = train_embedder(tiny_llama(), tokenizer, PAIRS, [], tmp_path, options=SMALL)
    assert set(card["loss"]) == {"pairs"} and card["teacher"] is None


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"layers": 3}, EmbeddingError, "has 2"),
        ({"dim": 8}, EmbeddingError, "16 dimensions"),
        ({"pairs": 100}, LoadingError, "pairs do not fill"),
        ({"texts": 1000}, LoadingError, "texts do not fill"),
        ({"rank": 0}, ValueError, "rank"),
        ({"misheard": 2}, ValueError, "share"),
        ({"temperature": 0}, ValueError, "positive"),
        ({"text_steps": 0, "pair_steps": 0}, ValueError, "at least 1"),
    ],
    ids=str,
)
def test_what_cannot_work_is_told(tokenizer, tmp_path, change, error, words):
    with pytest.raises(error, match=words):
        options = EmbedderTrainingOptions(**{**{name: getattr(SMALL, name) for name in SMALL.__slots__}, **change})
        train_embedder(tiny_llama(), tokenizer, PAIRS, TEXTS, tmp_path, teacher=HashEmbedder(16), options=options)


@pytest.mark.parametrize("damage", ["embedder.json", "adapter.safetensors"])
@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_a_damaged_adapter_is_told(adapter, tokenizer, tmp_path, damage, how):
    for file in adapter.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if how == "missing":
        (tmp_path / damage).unlink()
    else:
        (tmp_path / damage).write_bytes((tmp_path / damage).read_bytes()[:-20])
    with pytest.raises(EmbeddingError, match="missing" if how == "missing" else "damaged"):
        LLMEmbedder(tiny_llama(), tokenizer, tmp_path)


def test_an_adapter_goes_with_the_mean(adapter, tokenizer):
    with pytest.raises(ValueError, match="mean"):
        LLMEmbedder(tiny_llama(), tokenizer, adapter, pooling="last")
