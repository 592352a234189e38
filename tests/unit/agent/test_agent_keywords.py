"""Keywords and wake phrases in lists of hypotheses."""

from __future__ import annotations

import pytest

from vivavoce.agent.errors import ConfigError
from vivavoce.agent.understanding.keywords import KeywordOptions, KeywordSpotter, WakePhrase
from vivavoce.speech import Hypothesis, Transcript

DIGITS = "zero one two three four five six seven eight nine".split()


def heard(*scored: tuple[str, float]) -> Transcript:
    return Transcript(tuple(Hypothesis(text, score, 3) for text, score in scored), "en", 0.1, 1.0)


@pytest.fixture(scope="module")
def digits() -> KeywordSpotter:
    return KeywordSpotter(DIGITS)


@pytest.mark.parametrize(
    ("text", "keyword"),
    [("ate", "eight"), ("8.", "eight"), ("For!", "four"), ("Tree?", "three"), ("Won.", "one"), ("Heaven.", "seven")],
)
def test_a_keyword_is_known_by_its_sound(digits, text, keyword):
    best = digits.ranked(text)[0]
    assert best.keyword == keyword and best.probability > 0.5
    assert digits.spot(text)[0] == best


def test_several_keywords_and_where_they_are(digits):
    text = "Call five, then 2, then nine."
    spotted = digits.spot(text)
    assert {found.keyword: text[found.start : found.end] for found in spotted} == {
        "five": "five",
        "two": "2",
        "nine": "nine",
    }
    assert (
        digits.spot("good morning everybody") == () == digits.spot("…") == digits.ranked(Transcript.nothing("x", 1.0))
    )


def test_later_hypotheses_count(digits):
    listed = heard(("Hey.", -1.0), ("Eight.", -1.2), ("8th.", -1.3), ("Ate it.", -1.4))
    assert digits.spot(heard(("Hey.", -1.0))) == ()
    best = digits.spot(listed)[0]
    assert best.keyword == "eight" and best.hypothesis == 1
    assert digits.prompt.startswith("zero, one") and digits.prompt.endswith("nine.")


def test_probabilities_of_rivals_are_at_most_one(digits):
    assert sum(found.probability for found in digits.ranked("nine")) <= 1 + 1e-9


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ([], "list of words"),
        ("yes", "list of words"),
        (["?"], "has no sound"),
        (["for", "four"], "sound the same"),
        (["a", "a"], "sound the same"),
    ],
)
def test_bad_keywords_are_refused(keywords, words):
    with pytest.raises(ConfigError, match=words):
        KeywordSpotter(keywords)


@pytest.mark.parametrize("change", [{"tolerance": 0}, {"threshold": 1}, {"sharpness": 0}, {"temperature": -1}])
def test_bad_options_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        KeywordOptions(**change)


def test_what_follows_the_wake_phrase_stays_a_list():
    wake = WakePhrase("hey barista")
    called = wake.listen(
        heard(("Hey Barista, a mocha.", -1.0), ("Hey, ballista! A moka.", -1.5), ("They bury a mocha.", -4.0))
    )
    assert called.called and called.probability > 0.8
    assert [hypothesis.text for hypothesis in called.rest.hypotheses] == ["a mocha.", "A moka."]


def test_who_is_not_called_hears_nothing():
    wake = WakePhrase("hey barista")
    ignored = wake.listen("The barrister said he was ill.")
    assert not ignored.called and ignored.probability < 0.5 and "hey barista" in (ignored.rest.refusal or "")
    alone = wake.listen("Hey, barista!")
    assert alone.called and "behind" in (alone.rest.refusal or "")
    silent = wake.listen(Transcript.nothing("nobody spoke", 1.0))
    assert not silent.called and silent.rest.reason == "nobody spoke"
