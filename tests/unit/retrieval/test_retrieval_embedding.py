import numpy as np
import pytest
from tiny_embedder import tiny_llama
from tiny_embedder import tokenizer as tokenizer

from vivavoce.retrieval import (
    DeviceUnavailable,
    DimensionMismatch,
    Document,
    EmbeddingError,
    LLMEmbedder,
    LocalKnowledge,
    SentenceTransformerEmbedder,
)
from vivavoce.retrieval.embedding.identity import model_name
from vivavoce.retrieval.testing import HashEmbedder, check_embedder


@pytest.fixture(scope="module")
def llama():
    return tiny_llama()


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("centred", [False, True], ids=["raw", "centred"])
def test_llm_embedder_keeps_the_contract(llama, tokenizer, pooling, centred):
    embedder = LLMEmbedder(llama, tokenizer, pooling=pooling)
    check_embedder(embedder.fit_center(["we open at seven", "oat milk costs more"]) if centred else embedder)


def test_hash_embedder_keeps_the_contract():
    check_embedder(HashEmbedder())


def test_contract_catches_a_vector_that_is_not_unit():
    class Doubled(HashEmbedder):
        def embed(self, texts, *, kind="passage"):
            return 2 * super().embed(texts, kind=kind)

    with pytest.raises(AssertionError, match="unit length"):
        check_embedder(Doubled())


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_pooling_is_that_of_the_text_alone_whatever_the_batch(llama, tokenizer, pooling):
    import torch

    texts = ["we open at seven on sunday", "milk", "oat milk costs more", ""]
    embedder = LLMEmbedder(llama, tokenizer, pooling=pooling, batch_tokens=12)
    pooled = embedder.pooled(texts)
    for text, vector in zip(texts, pooled, strict=True):
        ids = tokenizer(text)["input_ids"] or [0]
        with torch.inference_mode():
            states = llama(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        expected = states.mean(dim=0) if pooling == "mean" else states[-1]
        assert np.allclose(vector, expected.numpy(), atol=1e-5)
    assert tokenizer.padding_side == "left"


def test_centre_takes_the_mean_off_and_leaves_the_original_alone(llama, tokenizer):
    texts = ["we open at seven", "oat milk costs more", "close on sunday"]
    plain = LLMEmbedder(llama, tokenizer)
    centred = plain.fit_center(texts)
    assert plain.center is None and centred.center is not None
    assert np.allclose(centred.center, plain.pooled(texts).mean(axis=0), atol=1e-6)
    assert np.allclose(plain.finish(plain.pooled(texts)), plain.embed(texts))
    expected = plain.pooled(texts) - centred.center
    assert np.allclose(centred.embed(texts), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    assert np.allclose(LLMEmbedder(llama, tokenizer, center=centred.center).embed(texts), centred.embed(texts))


def test_fingerprint_is_of_weights_and_pooling_not_of_centre_or_dtype(llama, tokenizer):
    import torch

    embedder = LLMEmbedder(llama, tokenizer)
    same = {
        embedder.fingerprint,
        embedder.fit_center(["milk"]).fingerprint,
        LLMEmbedder(tiny_llama().to(torch.bfloat16), tokenizer).fingerprint,
    }
    assert len(same) == 1
    others = {
        LLMEmbedder(llama, tokenizer, pooling="last").fingerprint,
        LLMEmbedder(tiny_llama(1), tokenizer).fingerprint,
    }
    assert len(others | same) == 3


def test_long_texts_are_cut(llama, tokenizer):
    embedder = LLMEmbedder(llama, tokenizer, max_tokens=3)
    assert np.allclose(embedder.embed(["we open at seven"]), embedder.embed(["we open at"]), atol=1e-6)


def test_bad_options_are_refused(llama, tokenizer):
    embedder = LLMEmbedder(llama, tokenizer)
    with pytest.raises(ValueError, match="pooling"):
        LLMEmbedder(llama, tokenizer, pooling="max")
    with pytest.raises(ValueError, match="batch_tokens"):
        LLMEmbedder(llama, tokenizer, batch_tokens=0)
    with pytest.raises(ValueError, match="kind"):
        embedder.embed(["x"], kind="document")
    with pytest.raises(ValueError, match="at least one"):
        embedder.fit_center([])
    with pytest.raises(DimensionMismatch, match="centre"):
        embedder.with_center(np.zeros(3, np.float32))


def test_local_knowledge_fits_the_centre_and_keeps_it_with_the_index(llama, tokenizer, tmp_path):
    documents = [Document("a.md", "We open at seven."), Document("b.md", "Oat milk costs sixty cents more.")]
    embedder = LLMEmbedder(llama, tokenizer)
    with LocalKnowledge.from_documents(documents, embedder) as made:
        made.save(tmp_path / "index")
        expected = made.search("oat milk")
        assert made.embedder is not embedder
    assert embedder.center is None
    with LocalKnowledge.open(tmp_path / "index", embedder) as opened:
        assert opened.search("oat milk") == expected
        assert np.allclose(opened.embedder.center, made.embedder.center)


def test_a_reader_asks_with_the_centre_of_what_replaced_its_index(llama, tokenizer, tmp_path):
    embedder = LLMEmbedder(llama, tokenizer)
    with LocalKnowledge.from_documents([Document("a.md", "We open at seven.")], embedder) as made:
        made.save(tmp_path / "index")
    with LocalKnowledge.open(tmp_path / "index", embedder) as reader:
        other = [Document("b.md", "Oat milk costs more."), Document("c.md", "We close on Sunday at seven.")]
        with LocalKnowledge.from_documents(other, embedder) as made:
            made.save(tmp_path / "index")
            assert reader.search("oat milk") == made.search("oat milk") != ()


def test_an_index_opens_whatever_its_embedder_is_called(tmp_path):
    old, new = HashEmbedder(), HashEmbedder()
    old.name = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
    assert old.name != new.name and old.fingerprint == new.fingerprint
    with LocalKnowledge.from_documents([Document("a.md", "We open at seven.")], old) as made:
        made.save(tmp_path / "index")
    with LocalKnowledge.open(tmp_path / "index", new) as opened:
        assert [passage.source for passage in opened.search("seven")] == ["a.md"]


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("/models/minilm", "minilm"),
        ("models/minilm/", "minilm"),
        ("/models/minilm/../whisper", "whisper"),
        ("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("/hub/models--sentence-transformers--all-MiniLM-L6-v2/snapshots/c9745ed1", "all-MiniLM-L6-v2"),
        ("/hub/models--gpt2/snapshots/607a30d7/", "gpt2"),
        ("/mine/snapshots/c9745ed1", "c9745ed1"),
        ("", ""),
    ],
)
def test_a_model_is_called_by_its_name(where, name):
    assert model_name(where) == name


def test_a_folder_that_one_stands_in_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path / "minilm")
    assert model_name(".") == "minilm"


def test_no_such_sentence_transformer_is_a_clear_error(tmp_path):
    with pytest.raises(EmbeddingError, match="sentence-transformers model") as error:
        SentenceTransformerEmbedder(tmp_path / "nothing")
    assert error.value.stage == "embed"
    with pytest.raises(ValueError, match="batch_size"):
        SentenceTransformerEmbedder(tmp_path, batch_size=0)
    with pytest.raises(ValueError, match="device"):
        SentenceTransformerEmbedder(tmp_path, device="tpu")


def test_cuda_without_a_gpu_is_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceUnavailable, match="auto"):
        SentenceTransformerEmbedder(tmp_path, device="cuda")
