"""Lists of hypotheses: their probabilities, what counts as the same, how windows are joined."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.speech import Audio, Hypothesis, Transcript, distinct, normalizer
from vivavoce.speech.lists.nbest import joined
from vivavoce.speech.testing import FakeRecognizer, check_recognizer


def heard(*scored: tuple[str, float], duration: float = 1.0) -> Transcript:
    return Transcript(tuple(Hypothesis(text, score, 5) for text, score in scored), "en", 0.1, duration)


def test_posteriors_are_a_softmax_of_the_sums():
    transcript = heard(("a", math.log(0.06)), ("b", math.log(0.03)), ("c", math.log(0.01)))
    assert transcript.posteriors() == pytest.approx((0.6, 0.3, 0.1))
    assert transcript.text == "a" and transcript.is_speech and transcript.refusal is None
    assert transcript.confidence == pytest.approx(0.6) and transcript.margin == pytest.approx(0.3)
    assert transcript.entropy == pytest.approx(-sum(p * math.log(p) for p in (0.6, 0.3, 0.1)))
    assert transcript.posteriors(1e6) == pytest.approx((1 / 3,) * 3, abs=1e-4)
    with pytest.raises(ValueError, match="temperature"):
        transcript.posteriors(0)


def test_one_hypothesis_is_certain_and_none_is_nothing():
    one = heard(("a", -300.0))
    assert (one.posteriors(), one.entropy, one.margin, one.confidence) == ((1.0,), 0.0, 1.0, 1.0)
    none = Transcript.nothing("nobody spoke", 2.0)
    assert (none.posteriors(), none.entropy, none.margin, none.confidence) == ((), 0.0, 0.0, 0.0)
    assert not none.is_speech and none.text == "" and none.refusal == "nobody spoke" and none.no_speech_prob == 1.0


@given(st.lists(st.floats(-500, 0), min_size=1, max_size=8))
def test_posteriors_are_probabilities(scores):
    transcript = heard(*((str(i), score) for i, score in enumerate(sorted(scores, reverse=True))))
    assert sum(transcript.posteriors()) == pytest.approx(1.0)
    assert 0 <= transcript.entropy <= math.log(len(scores)) + 1e-9
    assert 0 <= transcript.margin <= transcript.confidence <= 1


def test_same_words_merge_into_the_best_writing_with_the_probability_of_all():
    merged = distinct(
        [
            Hypothesis("Two coffees!", math.log(0.2), 4),
            Hypothesis("too coffees", math.log(0.3), 4),
            Hypothesis("2 coffees", math.log(0.15), 4),
            Hypothesis("two coffees...", math.log(0.05), 5),
        ]
    )
    assert [h.text for h in merged] == ["Two coffees!", "too coffees"]
    assert [math.exp(h.log_prob) for h in merged] == pytest.approx([0.4, 0.3])
    assert merged[0].n_tokens == 4 and merged[0].mean_log_prob == pytest.approx(math.log(0.4) / 4)


def test_lists_are_cut_but_never_padded():
    one = [Hypothesis("yes", -1.0, 2), Hypothesis("Yes.", -2.0, 3)]
    assert len(distinct(one, n_best=5)) == 1
    assert len(distinct([Hypothesis(w, -1.0, 2) for w in "red green blue".split()], n_best=2)) == 2
    assert distinct([]) == ()
    with pytest.raises(ValueError, match="n_best"):
        distinct(one, n_best=0)


def test_other_languages_keep_their_signs():
    assert normalizer("en")("Colour, it's 20 percent.") == "color it is 20%"
    assert normalizer("de")("Schöne Grüße!") == "schöne grüße"
    assert normalizer("hi")("नमस्ते।") == "नमस्ते"
    assert normalizer("en")(" ... ") == normalizer("de")("?!") == ""


def test_windows_are_joined_and_only_the_doubtful_one_varies():
    sure = heard(("Good morning.", -0.1), ("Good mourning.", -9.0), duration=3.0)
    doubtful = heard(("A flat white.", -1.0), ("A fat white.", -1.2), ("A cat's bite.", -3.0), duration=2.0)
    noise = Transcript.nothing("nobody spoke", 1.0)
    whole = joined([sure, noise, doubtful], duration=9.0, n_best=2)
    assert [h.text for h in whole.hypotheses] == ["Good morning. A flat white.", "Good morning. A fat white."]
    assert [h.log_prob for h in whole.hypotheses] == pytest.approx([-1.1, -1.3])
    assert (whole.duration, whole.language, whole.hypotheses[0].n_tokens) == (9.0, "en", 10)


def test_joining_nothing_says_why():
    assert "2.0 s" in (joined([], duration=2.0, n_best=5).refusal or "")
    refused = [Transcript.nothing("a", 1.0, 0.9), Transcript.nothing("b", 1.0, 0.7)]
    assert joined(refused, duration=2.0, n_best=5) == Transcript.nothing("b", 2.0, 0.7)


def test_the_fake_recognizer_keeps_the_contract_and_its_script():
    script = [heard(("one coffee", -0.5), ("won coffee", -2.0)), "thank you"]
    tone = Audio(Audio.silence(1.0).samples + 0.1, 16_000)
    check_recognizer(FakeRecognizer(script[:1]), tone)
    fake = FakeRecognizer(script)
    texts = [fake.transcribe(tone, prompt=p).text for p in ("a", "b", "c")]
    assert texts == ["one coffee", "thank you", "thank you"] and fake.prompts == ["a", "b", "c"]
    assert len(fake.heard) == 3
    with pytest.raises(ValueError, match="script"):
        FakeRecognizer([])


@pytest.mark.parametrize(
    ("transcript", "words"),
    [
        (heard(("a coffee", -2.0), ("a tea", -1.0)), "best hypothesis comes first"),
        (heard(("a coffee", -1.0), ("A coffee!", -2.0)), "differ"),
        (heard(("a coffee", 1.0)), "at most 0"),
        (heard(("...", -1.0)), "without words"),
        (Transcript.nothing("deaf", 1.0), "nothing was heard"),
    ],
)
def test_contract_notices_a_broken_recognizer(transcript, words):
    with pytest.raises(AssertionError, match=words):
        check_recognizer(FakeRecognizer([transcript]), Audio(Audio.silence(1.0).samples + 0.1, 16_000))
