"""The prefix beam search against all alignments, and the engine on a tiny model with random weights."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivavoce.speech import Audio, ModelError, VadOptions
from vivavoce.speech.engines.ctc import CTCOptions, CTCRecognizer, label_frames, label_log_probs, prefix_beam_search
from vivavoce.speech.testing import FakeDetector, check_recognizer

LETTERS = "|etaonihsrdlumwcfgypbvkxjqz'"
TIME = np.arange(32_000) / 16_000
SOUND = Audio((0.3 * np.sin(2 * np.pi * 300 * TIME * (1 + TIME))).astype(np.float32), 16_000)


def random_log_probs(seed: int, frames: int, labels: int) -> np.ndarray:
    logits = 2.0 * np.random.default_rng(seed).normal(size=(frames, labels))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def all_texts(log_probs: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    """Log-probability of every label sequence, by walking through all alignments."""
    frames, labels = log_probs.shape
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(labels), repeat=frames):
        text = tuple(label for label, _ in itertools.groupby(path) if label != blank)
        found[text] = np.logaddexp(found.get(text, -math.inf), log_probs[range(frames), path].sum())
    return found


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), frames=st.integers(1, 4), labels=st.integers(2, 4), blank=st.sampled_from([0, 1]))
def test_a_wide_beam_finds_every_text_in_the_order_of_its_probability(seed, frames, labels, blank):
    log_probs = random_log_probs(seed, frames, labels)
    truth = all_texts(log_probs, blank)
    found = prefix_beam_search(log_probs, blank=blank, beam_width=10_000)
    assert set(found) == set(truth) and len(found) == len(truth)
    scores = label_log_probs(log_probs, found, blank=blank)
    assert scores == pytest.approx([truth[labels] for labels in found], abs=1e-9)
    assert list(scores) == sorted(scores, reverse=True)
    assert np.exp(scores).sum() == pytest.approx(1.0)


def test_a_narrow_beam_finds_the_likeliest_text_of_what_it_carries():
    right = 0
    for seed in range(20):
        log_probs = random_log_probs(seed, 6, 3)
        truth = all_texts(log_probs, 0)
        found = prefix_beam_search(log_probs, blank=0, beam_width=12)
        assert len(found) <= 12 and len(set(found)) == len(found)
        assert label_log_probs(log_probs, found, blank=0) == pytest.approx([truth[labels] for labels in found])
        right += found[0] == max(truth, key=truth.get)
    assert right >= 19


def spelt(path: list[int], labels: int = 3, sure: float = 0.98) -> np.ndarray:
    rest = (1 - sure) / (labels - 1)
    return np.log(np.array([[sure if label == said else rest for label in range(labels)] for said in path]))


def test_a_letter_comes_twice_only_with_a_blank_between():
    for path, text in (([1, 1], (1,)), ([1, 0, 1], (1, 1)), ([0, 1, 1, 0, 0], (1,)), ([1, 2, 1], (1, 2, 1)), ([0], ())):
        assert prefix_beam_search(spelt(path), blank=0, beam_width=10)[0] == text


def test_two_alignments_of_a_text_count_together():
    # One text has the best single alignment (all blank, 0.36), another more of them (0.24 + 0.24 + 0.16).
    log_probs = np.log(np.array([[0.6, 0.4], [0.6, 0.4]]))
    assert prefix_beam_search(log_probs, blank=0, beam_width=10) == [(1,), ()]


def test_labels_below_the_threshold_are_not_tried():
    log_probs = spelt([1, 2], sure=0.9)  # the others have 0.05, -3 nats
    assert prefix_beam_search(log_probs, blank=0, beam_width=100, label_threshold=-2.0)[0] == (1, 2)
    tried = {
        label
        for labels in prefix_beam_search(log_probs[:1], blank=0, beam_width=9, label_threshold=-2.0)
        for label in labels
    }
    assert tried == {1}


def test_what_a_text_is_worth_decides_what_is_found():
    log_probs = np.log(np.array([[0.1, 0.5, 0.4]]))
    assert prefix_beam_search(log_probs, blank=0, beam_width=1) == [(1,)]
    assert prefix_beam_search(log_probs, blank=0, beam_width=1, extra=lambda labels: float(2 in labels)) == [(2,)]


def test_labels_stand_where_the_likeliest_alignment_has_them():
    for seed in range(20):
        log_probs = random_log_probs(seed, 6, 3)
        for text in ((), (1,), (1, 1), (2, 1), (1, 2, 1), (2, 2, 2)):
            paths = [
                path
                for path in itertools.product(range(3), repeat=6)
                if tuple(label for label, _ in itertools.groupby(path) if label) == text
            ]
            best = max(paths, key=lambda path: log_probs[range(6), path].sum())
            runs, time = [], 0
            for label, run in itertools.groupby(best):
                length = len(list(run))
                runs += [(time, time + length - 1)] if label else []
                time += length
            assert label_frames(log_probs, text, blank=0) == runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import torch
    import transformers

    path = tmp_path_factory.mktemp("ctc")
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {letter: 4 + i for i, letter in enumerate(LETTERS)}
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    transformers.Wav2Vec2CTCTokenizer(str(path / "vocab.json")).save_pretrained(path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    transformers.Wav2Vec2ForCTC(config).save_pretrained(path)
    return path


class Said(CTCRecognizer):
    """Hears the log-probabilities that it is given."""

    said: np.ndarray | None = None

    def _log_probs(self, samples):
        return super()._log_probs(samples) if self.said is None else self.said

    def spell(self, *words: str, sure: float = 0.9) -> None:
        """Letter by letter, with a blank between; "a/o" are two letters of which the first is a little likelier."""
        rows = []
        for letter in itertools.chain.from_iterable((*word.split("."), "|") for word in words):
            row = np.full(len(self._pieces), 1e-6)
            first, *second = (LETTERS.index(x) + 4 for x in letter.split("/"))
            row[first] = sure if not second else 0.55 * sure
            row[second] = 0.45 * sure
            row[0] = 1 - sure
            rows += [row, np.eye(len(row))[0] + 1e-6]
        self.said = np.log(np.stack(rows) / np.stack(rows).sum(axis=1, keepdims=True))


@pytest.fixture
def recognizer(folder) -> Said:
    return Said(folder, detector=FakeDetector(), device="cpu", options=CTCOptions(beam_width=16))


def test_the_engine_keeps_the_contract(recognizer):
    check_recognizer(recognizer, SOUND)


def test_a_text_is_scored_by_the_whole_model(recognizer, folder):
    import torch
    import transformers

    transcript = recognizer.transcribe(SOUND, n_best=3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    log_probs = torch.from_numpy(recognizer._log_probs(SOUND.samples))
    assert np.exp(log_probs.numpy()).sum(axis=1) == pytest.approx(1.0)
    best = transcript.hypotheses[0]
    labels = torch.tensor([tokenizer(best.text).input_ids])
    lost = torch.nn.functional.ctc_loss(
        log_probs[:, None], labels, torch.tensor([len(log_probs)]), torch.tensor([labels.shape[1]]), reduction="sum"
    )
    # Spellings of the same words (a space more at an end) have been merged into it.
    assert -float(lost) - 1e-6 <= best.log_prob <= 0
    assert best.n_tokens >= 1


def test_words_and_their_competitors(recognizer):
    recognizer.spell("t.e.a", "f.o/a.r", "t.w.o")
    transcript = recognizer.transcribe(SOUND, n_best=2)
    assert [h.text for h in transcript.hypotheses] == ["tea for two", "tea far two"]
    assert transcript.language == "en" and transcript.duration == pytest.approx(2.0)
    words = transcript.hypotheses[0].words
    assert [word.text for word in words] == ["tea", "for", "two"]
    # 24 frames for two seconds; "for" begins with the ninth and ends with the thirteenth.
    assert (words[1].start, words[1].end) == pytest.approx((8 / 12, 13 / 12), abs=0.01)
    assert words[0].probability == pytest.approx(0.9, abs=0.01) and words[1].probability < 0.8
    first, second = transcript.posteriors()
    assert first / second == pytest.approx(0.55 / 0.45, rel=0.02)


def test_a_likely_word_is_found_and_does_not_change_what_was_heard(folder):
    narrow = Said(folder, detector=FakeDetector(), device="cpu", options=CTCOptions(beam_width=1))
    narrow.spell("f.l.a.t", "w.h.e/i.t/d.e")
    plain = narrow.transcribe(SOUND, n_best=1)
    helped = narrow.transcribe(SOUND, n_best=1, hotwords=["Flat WHITE"])
    assert (plain.text, helped.text) == ("flat whete", "flat white")
    assert helped.hypotheses[0].log_prob < plain.hypotheses[0].log_prob
    wide = Said(folder, detector=FakeDetector(), device="cpu")
    wide.said = narrow.said
    both = {h.text: h.log_prob for h in wide.transcribe(SOUND, n_best=5, hotwords=["white"]).hypotheses}
    plain = {h.text: h.log_prob for h in wide.transcribe(SOUND, n_best=5).hypotheses}
    assert both["flat white"] == pytest.approx(plain["flat white"], abs=0.01), "the bonus is no part of the score"
    assert narrow.transcribe(SOUND, n_best=1, hotwords=["wholesale"]).text == "flat whete"


def test_a_scorer_reads_each_word_behind_the_words_before(folder):
    asked = set()

    class Grammar:
        def score(self, before, word):
            asked.add((tuple(before), word))
            return 0.0 if (*before[-1:], word) != ("for", "too") else -5.0

    recognizer = Said(folder, detector=FakeDetector(), device="cpu", scorer=Grammar())
    recognizer.spell("t.e.a", "f.o.r", "t.o/w.o")
    assert recognizer.transcribe(SOUND, n_best=1).text == "tea for two"
    assert (("tea", "for"), "too") in asked
    plain = Said(folder, detector=FakeDetector(), device="cpu")
    plain.said = recognizer.said
    assert plain.transcribe(SOUND, n_best=1).text == "tea for too"


def test_blanks_and_loops_are_refused(recognizer):
    recognizer.said = np.log(np.full((90, len(recognizer._pieces)), 1e-9) + np.eye(len(recognizer._pieces))[0])
    transcript = recognizer.transcribe(SOUND)
    assert "does not sound like speech" in transcript.reason and transcript.no_speech_prob == pytest.approx(
        1.0, abs=1e-4
    )
    recognizer.spell(*["l.a"] * 60, sure=0.999)
    assert "repeated itself" in recognizer.transcribe(SOUND).reason
    recognizer.spell("'")
    assert "no words" in recognizer.transcribe(SOUND).reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"language": ""}, "language"),
        ({"beam_width": 0}, "beam_width"),
        ({"label_threshold": 0.0}, "label_threshold"),
        ({"hotword_bonus": -1.0}, "hotword_bonus"),
        ({"no_speech_threshold": 1.5}, "probability"),
        ({"vad": VadOptions(max_speech=30.0)}, "at most 29.4"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(CTCOptions(), **changes)


def test_a_missing_or_broken_model_says_what_to_name(tmp_path):
    with pytest.raises(ModelError, match=r"does not exist.*CTC model in transformers' format"):
        CTCRecognizer(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"has no config\.json, preprocessor_config\.json"):
        CTCRecognizer(tmp_path)
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match="cannot load"):
        CTCRecognizer(tmp_path)
    with pytest.raises(ValueError, match="'auto', 'cpu' or 'cuda'"):
        CTCRecognizer(tmp_path, device="tpu")
