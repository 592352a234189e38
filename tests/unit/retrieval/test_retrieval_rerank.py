import numpy as np
import pytest
import torch

from vivavoce.agent import TransformersChatModel
from vivavoce.retrieval import (
    CrossEncoderReranker,
    EmbeddingError,
    LikelihoodReranker,
    ListwiseReranker,
    Passage,
    Query,
    RerankedKnowledge,
    Reranker,
)
from vivavoce.retrieval.testing import FakeKnowledge, check_knowledge

QUESTION = "When was the Eiffel Tower built?"
TEXTS = (
    "Bananas are rich in potassium and grow in bunches.",
    "The Eiffel Tower was built between 1887 and 1889 for the World's Fair in Paris.",
    "A tower is a tall structure.",
    "Paris is the capital of France. " * 20,
)


@pytest.fixture(scope="module")
def chat(llm_dir):
    return TransformersChatModel(llm_dir, device="cpu")


@pytest.fixture(scope="module")
def cross_encoder(minilm_dir, tmp_path_factory):
    """A real one of MiniLM's size, whose head nobody trained: it gives an order, if not a good one."""
    from sentence_transformers import CrossEncoder

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("cross-encoder")
    CrossEncoder(str(minilm_dir), num_labels=1, device="cpu").save_pretrained(str(folder))
    return folder


def passages(texts=TEXTS):
    return [Passage(f"p{place}", text, f"{place}.md", 1 - place / 100) for place, text in enumerate(texts)]


def scored(found):
    return {passage.id: passage.score for passage in found}


def test_likelihood_reads_each_passage_with_the_question(chat):
    reranker = LikelihoodReranker(chat.model, chat.tokenizer)
    assert isinstance(reranker, Reranker)
    found = reranker.rerank(QUESTION, passages(), 3)
    assert found[0].id == "p1" and len(found) == 3
    assert [passage.score for passage in found] == sorted((passage.score for passage in found), reverse=True)
    assert reranker.rerank(QUESTION, passages(), 1) == found[:1]
    assert reranker.rerank(QUESTION, []) == ()
    with pytest.raises(ValueError, match="k must be at least 1"):
        reranker.rerank(QUESTION, passages(), 0)


def test_likelihoods_do_not_depend_on_what_is_read_beside_them(chat):
    together = LikelihoodReranker(chat.model, chat.tokenizer).log_likelihoods(QUESTION, TEXTS)
    alone = [LikelihoodReranker(chat.model, chat.tokenizer).log_likelihoods(QUESTION, [text])[0] for text in TEXTS]
    assert together == pytest.approx(alone, abs=2e-2)
    by_hand = [by_one_pass(chat, f"Passage: {text}\nQuestion about it:", f" {QUESTION}") for text in TEXTS[:3]]
    assert together[:3] == pytest.approx(by_hand, abs=2e-2)


def by_one_pass(chat, head, question):
    first, second = (chat.tokenizer(text, add_special_tokens=False).input_ids for text in (head, question))
    with torch.inference_mode():
        logits = chat.model(torch.tensor([first + second])).logits[0].float().log_softmax(-1)
    return float(np.mean([logits[len(first) - 1 + place, token] for place, token in enumerate(second)]))


def test_letters_are_ordered_by_one_forward_pass(chat, monkeypatch):
    calls = []
    forward = chat.model.forward
    monkeypatch.setattr(chat.model, "forward", lambda *given, **named: calls.append(1) or forward(*given, **named))
    reranker = ListwiseReranker(chat.model, chat.tokenizer)
    found = reranker.rerank(QUESTION, passages())
    assert len(calls) == 1 and {passage.id for passage in found} == {"p0", "p1", "p2", "p3"}
    assert [passage.score for passage in found] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert reranker.rerank(QUESTION, passages()) == found
    assert reranker.rerank(QUESTION, passages()[:1])[0].id == "p0" and reranker.rerank(QUESTION, []) == ()


class Knowing(ListwiseReranker):
    """Windows and letters as they are; how good a passage is, its text says."""

    def __init__(self, tokenizer, **options):
        super().__init__(None, tokenizer, **options)
        self.windows = []

    def _logits(self, query, texts):
        self.windows.append(len(texts))
        return np.array([float(text) for text in texts])


@pytest.mark.parametrize(
    ("count", "options", "windows", "best"),
    [
        (45, {}, [20, 20, 20, 20], [44, 43, 42]),
        (20, {}, [20], [19, 18, 17]),
        (7, {}, [7], [6, 5, 4]),
        (45, {"window": None}, [45], [44, 43, 42]),
        (60, {"window": None}, [52], [51, 50, 49]),
        (12, {"window": 4, "step": 2}, [4, 4, 4, 4, 4], [11, 10]),
    ],
)
def test_windows_slide_from_the_last_to_the_first(chat, count, options, windows, best):
    reranker = Knowing(chat.tokenizer, **options)
    found = reranker.rerank("?", passages([str(place) for place in range(count)]), count)
    assert reranker.windows == windows
    assert [int(passage.text) for passage in found[: len(best)]] == best
    assert sorted(int(passage.text) for passage in found) == list(range(count))


@pytest.mark.parametrize("options", [{"window": 1}, {"window": 53}, {"step": 0}, {"step": 20}, {"max_tokens": 0}])
def test_windows_that_make_no_sense_are_refused(chat, options):
    with pytest.raises(ValueError, match=r"window|step"):
        ListwiseReranker(chat.model, chat.tokenizer, **options)


def test_a_cross_encoder_orders_as_it_says_itself(cross_encoder):
    from sentence_transformers import CrossEncoder

    said = CrossEncoder(str(cross_encoder), device="cpu").predict([(QUESTION, text) for text in TEXTS])
    found = CrossEncoderReranker(cross_encoder, device="cpu").rerank(QUESTION, passages(), 4)
    assert scored(found) == pytest.approx({f"p{place}": float(score) for place, score in enumerate(said)}, abs=1e-5)
    assert [passage.id for passage in found] == [f"p{place}" for place in np.argsort(-said)]


def test_a_missing_cross_encoder_and_one_that_tells_classes_apart_are_refused(tmp_path, minilm_dir):
    from sentence_transformers import CrossEncoder

    with pytest.raises(EmbeddingError, match="give its folder"):
        CrossEncoderReranker(tmp_path / "none")
    CrossEncoder(str(minilm_dir), num_labels=3, device="cpu").save_pretrained(str(tmp_path / "three"))
    with pytest.raises(EmbeddingError, match="3 classes"):
        CrossEncoderReranker(tmp_path / "three", device="cpu")


class Backwards:
    def __init__(self):
        self.asked = []

    def rerank(self, query, passages, k=5):
        self.asked.append((query, len(passages)))
        return tuple(reversed(passages))[:k]


def test_a_reranked_base_is_a_knowledge_base(chat):
    base = FakeKnowledge(TEXTS)
    check_knowledge(RerankedKnowledge(base, LikelihoodReranker(chat.model, chat.tokenizer)), QUESTION)


def test_all_readings_search_and_the_likeliest_is_read():
    reranker = Backwards()
    knowledge = RerankedKnowledge(FakeKnowledge(TEXTS), reranker, depth=2)
    assert len(knowledge.search_query(Query.of(["tower", "the Eiffel tower"], [0.2, 0.8]), 5)) == 3
    assert reranker.asked == [("the Eiffel tower", 3)]
    assert knowledge.search_query(Query(())) == () and knowledge.search("xylophone") == ()
    found = RerankedKnowledge(FakeKnowledge(TEXTS), reranker, depth=3).search("tower", 1)
    assert len(found) == 1 and reranker.asked[-1][1] == 2
    with pytest.raises(ValueError, match="depth"):
        RerankedKnowledge(FakeKnowledge(TEXTS), reranker, depth=0)
