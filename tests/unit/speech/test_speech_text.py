"""Text on its way to the loudspeaker: what is cut where, and what is not said at all."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vivavoce.speech import HibariSynthesizer, sentences, speakable
from vivavoce.speech.testing import FakeSynthesizer, check_synthesizer

CUT = {
    "plain": "Hello there.|How are you?|Fine!",
    "titles": "Dr. Smith met Mrs. Jones at St. Mary's.|They talked.",
    "initials": "It was J. K. Rowling who said so.|So do I.|Then she left.",
    "decimals": "A flat white is 3.50 pounds.|A large one is 4.20.|Cash or card?",
    "times": "We open at 7 a.m. and close at 6 p.m. on weekdays.|On Sunday we open at 9 a.m. The kitchen opens later.",
    "days": "Come by from 7 a.m. Monday to Friday.|Thanks.",
    "ellipsis": "Well... let me see.|Hm…|Yes.",
    "quotes": 'She said "No."|Then she left (at once.)|Good.',
    "numbers": "See No. 7 on the list.|No.|We do not.",
    "sources": "We open at seven. [hours.md]|It is 3.50. [menu.md] [prices.md]|Bye.",
    "lists": "Choose one:|1. Espresso|2. Flat white, e.g. with oat milk.|- Tea",
    "latin": "Bring milk, sugar, etc. for the table.|Cold drinks, i.e. iced coffee, cost more.",
    "other scripts": "你好。|请问几点开门？|谢谢。",
    "unfinished": "This sentence has no end",
}


@pytest.mark.parametrize("text", CUT.values(), ids=CUT.keys())
def test_sentences_are_cut_where_a_speaker_would(text):
    expected = text.split("|")
    # "9 a.m. The" is the one end that an abbreviation hides only from those who do not look at what follows.
    expected = [part for sentence in expected for part in sentence.replace("9 a.m. The", "9 a.m.|The").split("|")]
    glue = "\n" if expected[0] == "Choose one:" else " "
    assert list(sentences([glue.join(expected)])) == expected


WORDS = (
    'Hello world a.m. Monday The Dr. 3.50 etc. … ... ! ? . [menu.md] [ ] " ) , ; — No. 7 i.e. J. 你好。 。 ” [a. B] x'
).split()
BLANKS = st.sampled_from(["", " ", " ", "\n", " \n ", "\t"])
TEXTS = st.lists(st.sampled_from(WORDS) | BLANKS, max_size=60).map("".join)


@example("a.m. \n [menu.md] Hello", 1, 20)  # a source in the next line
@example("Hello. [menu.md]\n[a. B] The", 1, 40)
@example("Hello.[a. B] The world", 1, 40)  # a source without a blank before it, marks in it
@example("Dr. [a. B]x The world", 1, 40)
@example("你好。” Hello", 1, 40)  # what closes behind marks that need no blank
@example("你好。。。Hello", 1, 40)
@example("Hello world. [ " + "x" * 90 + " The", 1, 40)  # a bracket that becomes no source
@example("Hello. [a][b] [c]x The", 1, 20)
@example("3.50 a.m. Monday. x... The", 1, 20)
@given(TEXTS, st.integers(1, 7), st.sampled_from([20, 40, 200]))
def test_the_cut_of_the_stream_does_not_matter(text, size, limit):
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    streamed = list(sentences(pieces, limit=limit))
    assert streamed == list(sentences([text], limit=limit))
    assert "".join("".join(streamed).split()) == "".join(text.split()), "no character is lost"
    assert all(len(sentence) <= limit + 10 for sentence in streamed)


def test_sentences_come_while_the_text_is_written():
    written = []

    def pieces():
        for word in "Hello there. How are you? I am well.".split(" "):
            written.append(word)
            yield word + " "

    stream = sentences(pieces())
    assert next(stream) == "Hello there."
    assert written == ["Hello", "there.", "How"]


def test_a_long_sentence_is_cut_at_a_comma():
    clause = "and then we walked along the river for a while, "
    parts = list(sentences([clause * 8]))
    assert all(100 < len(part) <= 200 and part.endswith(",") for part in parts[:-1]) and len(parts) > 1
    assert all(len(part) <= 200 for part in sentences(["word " * 200]))
    with pytest.raises(ValueError, match="limit"):
        sentences(["a"], limit=3)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("A **flat white** is *really* `3.50` [menu.md].", "A flat white is really 3.50."),
        ("## Opening hours\n\n- Monday: 7 a.m.\n* Sunday: 9 a.m.", "Opening hours\nMonday: 7 a.m.\nSunday: 9 a.m."),
        ("Read [the menu](https://example.org/menu), please.", "Read the menu, please."),
        ("See https://example.org/a?b=c.", "See."),
        ("Mail <mailto:a@example.org> us (https://example.org).", "Mail us."),
        ("Oat milk costs more [1][2, 3] [menu.md > Milk, extras.md].", "Oat milk costs more."),
        ("| Size | Price |\n|---|---:|\n| small | 3.00 |", "Size, Price\nsmall, 3.00"),
        ("Run:\n```sh\nrm -rf /\n```\nDone.", "Run:\nDone."),
        ("![a cup](cup.png) <b>Hot</b> <RET> coffee", "a cup Hot coffee"),
        ("> quoted\n\n---\n\nsnake_case and _stress_", "quoted\nsnake_case and stress"),
        ("2 * 3 = 6, 5 < 6, a_b_c, [really]", "2 * 3 = 6, 5 < 6, a_b_c, [really]"),
        ("", ""),
        ("  \n", ""),
    ],
)
def test_marks_are_not_said(written, said):
    assert speakable(written) == said
    assert speakable(said) == said


@pytest.mark.parametrize("synthesizer", [FakeSynthesizer(), HibariSynthesizer()], ids=lambda s: type(s).__name__)
def test_synthesizers_keep_the_contract(synthesizer):
    check_synthesizer(synthesizer)


def test_contract_notices_a_broken_synthesizer():
    class Chatty:
        def speak(self, text):
            return FakeSynthesizer().speak("Well.")

    with pytest.raises(AssertionError, match="nothing is to be said"):
        check_synthesizer(Chatty())


def test_hibari_speaks_at_the_speed_asked_for_and_the_same_each_time():
    slow, fast = (HibariSynthesizer(speed=speed) for speed in (0.8, 1.6))
    text = "Your coffee is ready."
    once, again = (next(slow.speak(text)) for _ in range(2))
    assert once.samples.tolist() == again.samples.tolist()
    assert once.rate == 24_000 and once.seconds > 1.4 * next(fast.speak(text)).seconds


def test_hibari_refuses_wrong_options():
    with pytest.raises(ValueError, match="heart"):
        HibariSynthesizer(voice="nobody")
    with pytest.raises(ValueError, match="speed"):
        HibariSynthesizer(speed=9.0)


def test_hibari_says_nothing_where_nothing_can_be_said():
    assert list(HibariSynthesizer().speak("你好。 😀 ...")) == []


class Watched:
    """Another Hibari, which notices when a second thread comes in while a first one is at work."""

    def __init__(self, hibari):
        self._hibari, self._busy = hibari, threading.Lock()
        self.sample_rate = hibari.sample_rate
        self.overlapped = False

    def phonemize(self, text):
        return self._alone(lambda: self._hibari.phonemize(text))

    def from_phonemes(self, *args, **options):
        return self._alone(lambda: self._hibari.from_phonemes(*args, **options))

    def _alone(self, work):
        if not self._busy.acquire(blocking=False):
            self.overlapped = True
            return work()
        try:
            time.sleep(0.01)  # invites the others
            return work()
        finally:
            self._busy.release()


def test_hibari_is_used_by_one_thread_at_a_time():
    texts = ["Your coffee is ready. It is hot.", "We open at seven.", "Zorbulax tea is brewing.", "Goodbye."]
    alone = HibariSynthesizer()
    expected = [[audio.samples.tolist() for audio in alone.speak(text)] for text in texts]
    shared = HibariSynthesizer()
    shared._hibari = watched = Watched(shared._hibari)
    with ThreadPoolExecutor(len(texts)) as pool:
        spoken = list(pool.map(lambda text: [audio.samples.tolist() for audio in shared.speak(text)], texts))
    assert spoken == expected
    assert not watched.overlapped


def test_a_listener_who_stops_half_way_does_not_silence_the_others():
    synthesizer = HibariSynthesizer()
    left = synthesizer.speak("Your coffee is ready. It is hot.")
    next(left)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: len(list(synthesizer.speak("Goodbye.")))).result(timeout=60) == 1
    assert len(list(left)) == 1, "and the first may go on"
