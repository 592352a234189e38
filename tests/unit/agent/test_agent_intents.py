"""Intents, learned on words that are hashed, states of a tiny language model, and copies of a tiny encoder."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vivavoce.agent import ConfigError, TransformersChatModel
from vivavoce.agent.evaluation.intents import evaluate_intents, heard_in
from vivavoce.agent.understanding.heads import LabelHead, Mixture
from vivavoce.agent.understanding.intents import IntentClassifier, IntentOptions, plainly
from vivavoce.agent.understanding.readers import EmbeddingReader, StateOptions, StateReader, TextReader
from vivavoce.agent.understanding.tuning import TunedEncoders, TuningOptions
from vivavoce.retrieval import SentenceTransformerEmbedder
from vivavoce.retrieval.testing import HashEmbedder
from vivavoce.speech import Hypothesis, Transcript

EXAMPLES = {
    "alarm": ["wake me at six", "set an alarm for noon", "wake me up early", "an alarm at nine please"],
    "music": ["play some jazz", "play my favourite song", "put on some music", "play that song again"],
    "weather": ["will it rain today", "is it cold outside", "will it snow outside", "how cold is it today"],
}
TEXTS = [text for texts in EXAMPLES.values() for text in texts]
LABELS = [label for label, texts in EXAMPLES.items() for _ in texts]


@pytest.fixture(scope="module")
def readers() -> list[TextReader]:
    return [EmbeddingReader(HashEmbedder(512))]


@pytest.fixture(scope="module")
def classifier(readers):
    return IntentClassifier(readers).fit(TEXTS, LABELS)


@pytest.mark.parametrize(
    ("text", "intent"), [("play jazz", "music"), ("an alarm for six", "alarm"), ("will it snow today?", "weather")]
)
def test_a_new_sentence_gets_the_label_of_those_that_are_like_it(classifier, text, intent):
    prediction = classifier.predict(text)
    assert prediction.intent == intent
    assert prediction.ranked[0] == (intent, prediction.probability) and len(prediction.ranked) == 3
    assert sum(p for _, p in prediction.ranked) == pytest.approx(1)
    assert 0 < prediction.margin < prediction.probability < 1


def test_a_list_is_a_mixture_over_its_hypotheses(classifier):
    wrong, right = classifier.predict("play some chess"), classifier.predict("set an alarm")
    mixed = classifier.predict([("play some chess", 1.0), ("set an alarm", 3.0)])
    for label in classifier.labels:
        expected = 0.25 * dict(wrong.ranked)[label] + 0.75 * dict(right.ranked)[label]
        assert dict(mixed.ranked)[label] == pytest.approx(expected, abs=1e-6)
    assert (wrong.intent, mixed.intent) == ("music", "alarm")


def test_a_transcript_is_weighed_by_its_posteriors(classifier):
    hypotheses = (Hypothesis("play some jazz", -1.0, 4), Hypothesis("will it rain", -1.5, 4))
    heard = Transcript(hypotheses, "en", 0.0, 1.0)
    texts = [hypothesis.text for hypothesis in hypotheses]
    by_hand = classifier.predict(list(zip(texts, heard.posteriors(), strict=True)))
    assert classifier.predict(heard) == by_hand


def test_hypotheses_that_are_the_same_once_plain_are_one(classifier):
    assert classifier.predict(["Play some jazz!", "play some jazz"]) == classifier.predict("play some jazz")


@pytest.mark.parametrize("nothing", ["", " ?! ", [], Transcript.nothing("Nobody spoke", 1.0)])
def test_who_says_nothing_wants_nothing(classifier, nothing):
    prediction, said = classifier.predict_many([nothing, "play some jazz"])
    assert (prediction.intent, prediction.probability, prediction.margin) == ("", 0.0, 0.0)
    assert said.intent == "music"


def test_what_is_saved_predicts_the_same(classifier, readers, tmp_path):
    loaded = IntentClassifier.load(classifier.save(tmp_path / "intents"), readers=readers)
    assert loaded.predict("play some jazz") == classifier.predict("play some jazz")
    assert {path.suffix for path in (tmp_path / "intents").iterdir()} == {".json", ".safetensors"}


def test_a_head_is_not_put_on_other_readers(classifier, tmp_path):
    folder = classifier.save(tmp_path)
    other = EmbeddingReader(HashEmbedder(512))
    other.name = "other"
    with pytest.raises(ConfigError, match="other"):
        IntentClassifier.load(folder, readers=[other])


@pytest.mark.parametrize("damage", ["missing", "text", "keys", "labels"])
def test_a_damaged_folder_is_refused_with_the_command_that_makes_one(classifier, readers, tmp_path, damage):
    card = classifier.save(tmp_path) / "intents.json"
    if damage == "missing":
        card.unlink()
    elif damage == "text":
        card.write_text("no json")
    else:
        values = json.loads(card.read_text())
        values = {} if damage == "keys" else {**values, "labels": ["one"]}
        card.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="train"):
        IntentClassifier.load(tmp_path, readers=readers)


def test_what_cannot_be_learned_is_refused(readers):
    classifier = IntentClassifier(readers)
    with pytest.raises(ConfigError, match="fit it"):
        classifier.predict("play")
    for items, labels in ((["a", "b"], ["x", "x"]), (["a", "b"], ["x"]), (["a", "?"], ["x", "y"])):
        with pytest.raises(ConfigError):
            classifier.fit(items, labels)
    with pytest.raises(ConfigError, match="shrinkage"):
        IntentOptions(shrinkage=0.0)
    with pytest.raises(ConfigError, match="reader"):
        IntentClassifier([])


def test_one_example_of_each_label_is_enough_to_begin_with(readers):
    prediction = IntentClassifier(readers).fit(["play some jazz", "set an alarm"], ["music", "alarm"]).predict("jazz")
    assert prediction.intent == "music" and 0.5 < prediction.probability < 0.999


def test_leave_one_out_is_what_fitting_without_each_text_gives():
    rng = np.random.default_rng(0)
    places = np.arange(24) % 3
    block = (rng.normal(size=(24, 8)) + 1.5 * np.eye(3, 8)[places]).astype(np.float32)
    labels = [f"label {place}" for place in places]
    head = LabelHead.fit([block], labels, shrinkage=0.3)
    kernel = np.exp(2 * (head.rows @ head.rows.T).astype(np.float64) - 2)
    targets = np.where(places[:, None] == np.arange(3), 1.0, -1.0)
    right = 0
    for row in range(24):
        kept = np.arange(24) != row
        dual = np.linalg.solve(kernel[np.ix_(kept, kept)] + 0.3 * np.eye(23), targets[kept])
        right += int((kernel[row, kept] @ dual).argmax() == places[row])
    assert head.left_out == pytest.approx(right / 24) and 0.5 < head.left_out < 1


def test_texts_are_read_as_recognisers_write_them():
    assert plainly("What 's the < unk > WEATHER, please?") == "what's the weather please"
    assert plainly("don’t 'stop' it 50%") == "don't stop it 50%"
    assert plainly("?!") == ""


def test_states_depend_on_the_whole_sentence_and_not_on_the_batch(tiny_llm, one_cpu):
    reader = StateReader(TransformersChatModel(tiny_llm, device="cpu"), options=StateOptions(batch_tokens=400))
    texts = ["yes", "play some jazz", "a much longer sentence, so that the shorter ones are padded", ""]
    together, alone = reader.read(texts), [reader.read([text]) for text in texts]
    assert [block.shape for block in together] == [(4, 64)] * 4
    for row, blocks in enumerate(alone):
        for block, own in zip(together, blocks, strict=True):
            assert block[row] == pytest.approx(own[0], abs=0.05 * float(np.abs(own).max()))
    first, second = reader.read(["play some jazz", "play some rock"])[0]
    assert not np.allclose(first, second)


def test_evaluation_counts_labels_that_were_never_seen_as_errors(readers):
    train = [{"text": text, "intent": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    test = [
        {"asr": "play jazz", "hypotheses": ["play jazz"], "intent": "music"},
        {"asr": "it will rain", "hypotheses": [{"text": "it will rain", "posterior": 0.9}], "intent": "weather"},
        {"asr": "play chess", "hypotheses": ["play chess"], "intent": "game"},
    ]
    for field in ("asr", "hypotheses"):
        summary, rows = evaluate_intents(IntentClassifier(readers), train, test, field, baseline=HashEmbedder(512))
        assert summary["n"] == 3 and summary["accuracy"] == pytest.approx(2 / 3, abs=1e-4)
        assert summary["unseen_label_share"] == pytest.approx(1 / 3, abs=1e-4)
        assert 0 < summary["macro_f1"] < 1 and summary["baseline_accuracy"] >= 1 / 3
        assert [row["predicted"] for row in rows[:2]] == ["music", "weather"]


def test_a_row_without_the_field_is_named():
    with pytest.raises(ConfigError, match="hypotheses"):
        heard_in({"text": "yes"}, "hypotheses")
    with pytest.raises(ConfigError, match="posterior"):
        heard_in({"hypotheses": [{"score": 1}]}, "hypotheses")


TUNING = TuningOptions(members=2, epochs=3, learning_rate=1e-3, head_rate=2e-2, batch=4)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, one_cpu):
    """Folder of a BERT of 2 layers and width 32 with random weights, and a tokenizer of the examples' words."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("models") / "tiny-encoder"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word for text in TEXTS for word in text.split()})]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tuned(readers, encoder):
    options = IntentOptions(tuned_from=12, tuning=TUNING)
    return IntentClassifier(readers, encoder=encoder, options=options).fit(TEXTS, LABELS)


def items() -> tuple[list[dict[str, float]], np.ndarray]:
    return [{text: 1.0} for text in TEXTS], np.array([sorted(EXAMPLES).index(label) for label in LABELS])


def test_an_encoder_is_fine_tuned_from_a_number_of_examples_on(readers, encoder, tuned):
    assert tuned.mixture is not None and tuned.left_out == tuned.mixture.left_out
    few = IntentClassifier(readers, encoder=encoder, options=IntentOptions(tuned_from=13, tuning=TUNING))
    few.fit(TEXTS, LABELS)
    assert few.mixture is None and few.left_out == few.head.left_out
    assert few.predict("play some jazz") == IntentClassifier(readers).fit(TEXTS, LABELS).predict("play some jazz")


def test_what_was_fine_tuned_is_saved_without_pickle_and_predicts_the_same(tuned, readers, encoder, tmp_path):
    loaded = IntentClassifier.load(tuned.save(tmp_path / "intents"), readers=readers, encoder=encoder)
    for heard in ("play some jazz", [("wake me", 2.0), ("will it rain", 1.0)]):
        assert dict(loaded.predict(heard).ranked) == pytest.approx(dict(tuned.predict(heard).ranked), abs=1e-6)
    assert {path.suffix for path in (tmp_path / "intents").iterdir()} == {".json", ".safetensors"}
    with pytest.raises(ConfigError, match="tiny-encoder"):
        IntentClassifier.load(tmp_path / "intents", readers=readers, encoder=tmp_path / "another")
    snapshot = tmp_path / "models--owner--tiny-encoder" / "snapshots" / "12fd25f7"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(encoder)
    assert SentenceTransformerEmbedder(snapshot, device="cpu").name == "tiny-encoder"
    IntentClassifier.load(tmp_path / "intents", readers=readers, encoder=snapshot)
    card = tmp_path / "intents" / "intents.json"
    card.write_text(card.read_text().replace("tiny-encoder", "12fd25f7"))  # as it was written once
    IntentClassifier.load(tmp_path / "intents", readers=readers, encoder=snapshot)
    IntentClassifier(readers).fit(TEXTS, LABELS).save(tmp_path / "intents")
    assert IntentClassifier.load(tmp_path / "intents", readers=readers).mixture is None


@pytest.mark.parametrize("damage", ["missing", "names"])
def test_encoders_that_are_damaged_are_refused(tuned, readers, encoder, tmp_path, damage):
    from safetensors.numpy import save_file

    arrays = tuned.save(tmp_path) / "tuned.safetensors"
    arrays.unlink()
    if damage == "names":
        save_file({"0.other": np.zeros(1, np.float16)}, arrays)
    with pytest.raises(ConfigError, match="train"):
        IntentClassifier.load(tmp_path, readers=readers, encoder=encoder)


def test_fine_tuned_encoders_learn_their_labels_and_judge_what_they_left_out(encoder):
    tuned = TunedEncoders(encoder, 3, device="cpu")
    options = TuningOptions(members=2, epochs=12, learning_rate=1e-3, head_rate=2e-2, batch=4, garbled=0.0)
    lists, places = items()
    left_out = tuned.fit(lists, places, options)
    given = tuned.log_probabilities(TEXTS)
    assert np.exp(given).sum(axis=1) == pytest.approx(np.ones(12), abs=1e-4)
    assert (given.argmax(axis=1) == places).mean() > 0.8
    # A member that has not seen a text is less sure of its label than both together, one of which has.
    rows = np.arange(12)
    assert left_out.shape == (12, 3) and given[rows, places].mean() > left_out[rows, places].mean()


def test_saving_ends_the_run_and_removes_its_checkpoint(readers, encoder, tmp_path):
    options = IntentOptions(tuned_from=12, tuning=TUNING)
    classifier = IntentClassifier(readers, encoder=encoder, options=options)
    classifier.fit(TEXTS, LABELS, resume=tmp_path / "checkpoint.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"], "a kill before saving loses nothing"
    classifier.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_lists_are_learned_from_by_weight(encoder):
    lists = [{text: 0.999, "noise": 0.001} for text in TEXTS]
    tuned = TunedEncoders(encoder, 3, device="cpu")
    left_out = tuned.fit(lists, items()[1], TUNING)
    assert np.exp(left_out).sum(axis=1) == pytest.approx(np.ones(12), abs=1e-4)


def test_a_mixture_counts_both_alike_and_knows_how_sure_it_may_be():
    rng = np.random.default_rng(0)
    places = np.arange(300) % 3
    noise = np.log(rng.dirichlet(np.ones(3), 300))
    sure = np.log(0.8 * np.eye(3)[places] + 0.2 / 3)
    one, other = Mixture.fit(noise, sure, places), Mixture.fit(sure, noise, places)
    assert one == other and one.left_out > 0.8
    assert one.probabilities(sure, noise) == pytest.approx(one.probabilities(noise, sure))
    assert one.probabilities(sure, noise).sum(axis=1) == pytest.approx(np.ones(300))
    assert Mixture.fit(noise, noise, places).sharpness < one.sharpness


@pytest.mark.parametrize(
    "wrong", [{"members": 1}, {"epochs": 0}, {"learning_rate": 0.0}, {"smoothing": 1.0}, {"garbled": 1.5}]
)
def test_settings_of_fine_tuning_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        TuningOptions(**wrong)


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no sentence encoder"):
        TunedEncoders(tmp_path, 2)
