"""What the Whisper engines share, and what they refuse before a model is loaded."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest

from vivavoce.speech import Audio, Hypothesis, ModelError, Transcript, VadOptions, WhisperOptions
from vivavoce.speech.engines.loading import pick_device, torch_number_format
from vivavoce.speech.engines.openai_whisper import OpenAIWhisperRecognizer
from vivavoce.speech.engines.transformers_whisper import TransformersWhisperRecognizer
from vivavoce.speech.engines.whisper_tokens import WhisperTokens, context_ids
from vivavoce.speech.engines.windows import WindowedRecognizer, log_mel, token_limit, window_transcript
from vivavoce.speech.lists.judging import compression, judge
from vivavoce.speech.sound.segments import Window
from vivavoce.speech.testing import FakeDetector

ENGINES = [OpenAIWhisperRecognizer, TransformersWhisperRecognizer]
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.float32)
each_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.__name__)


@each_engine
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (WhisperOptions(tails=(6.0,)), "leave it out"),
        (WhisperOptions(threads=2), "torch.set_num_threads"),
        (WhisperOptions(compute_type="int8"), "'float32' or 'float16'"),
    ],
)
def test_what_only_ctranslate2_can_do_is_refused(engine, options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        engine(tmp_path, options=options, device="cpu")


@each_engine
def test_a_device_that_there_is_not_is_refused(engine, tmp_path):
    with pytest.raises(ValueError, match="'auto', 'cpu' or 'cuda'"):
        engine(tmp_path, device="tpu")


def test_a_missing_model_says_what_to_name(tmp_path):
    with pytest.raises(ModelError, match=r"does not exist; name the folder of a Whisper model in transformers'"):
        TransformersWhisperRecognizer(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"has no config\.json, tokenizer\.json"):
        TransformersWhisperRecognizer(tmp_path)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("broken")
    with pytest.raises(ModelError, match=r"cannot load the Whisper model"):
        TransformersWhisperRecognizer(tmp_path)


def test_without_its_package_an_engine_names_the_pip_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "whisper", None)
    with pytest.raises(ImportError, match=r"pip install 'vivavoce\[whisper\]'"):
        OpenAIWhisperRecognizer(tmp_path / "base.pt", device="cpu")


def test_devices_and_number_formats():
    import torch

    there = "cuda" if torch.cuda.is_available() else "cpu"
    assert pick_device("cpu", "torch") == "cpu" and pick_device("auto", "torch") == there
    if there == "cpu":
        with pytest.raises(ModelError, match="torch sees no CUDA device"):
            pick_device("cuda", "torch")
    with pytest.raises(ValueError, match="'auto', 'cpu' or 'cuda'"):
        pick_device("tpu", "CTranslate2")
    assert torch_number_format("auto", "cpu") == torch_number_format("float32", "cuda") == torch.float32
    assert torch_number_format("auto", "cuda") == torch_number_format("float16", "cpu") == torch.float16


# -- judging -------------------------------------------------------------------------------------------------------

CLEAR = {"no_speech_prob": 0.1, "voice_prob": 0.9, "language": "en"}


def test_what_was_said_passes():
    heard = [Hypothesis("Good morning.", -1.0, 4), Hypothesis("Good mourning.", -3.0, 4)]
    assert judge(heard, WhisperOptions(), **CLEAR) == (heard, "")


def test_a_hypothesis_that_leaves_words_out_is_dropped():
    whole, short = Hypothesis("One two three four five six.", -4.0, 10), Hypothesis("One.", -3.0, 3)
    assert judge([whole, short], WhisperOptions(), **CLEAR) == ([whole], "")
    assert judge([whole, short], WhisperOptions(completeness=0.0), **CLEAR) == ([whole, short], "")


@pytest.mark.parametrize(
    ("heard", "given", "words"),
    [
        ([Hypothesis("la " * 200, -5.0, 200)], {}, "repeated itself"),
        ([], {}, "repeated itself"),
        ([Hypothesis("Thank you.", -9.0, 4)], {"no_speech_prob": 0.9}, "does not sound like speech"),
        ([Hypothesis("Bye.", -3.0, 3)], {"voice_prob": 0.5}, "does not sound like speech"),
        ([Hypothesis("you", -1.0, 2)], {"no_speech_prob": 0.97, "voice_prob": 0.5}, "does not sound like speech"),
        ([Hypothesis("...", -0.5, 2)], {}, "no words"),
    ],
)
def test_what_cannot_have_been_said_is_refused_with_a_reason(heard, given, words):
    kept, reason = judge(heard, WhisperOptions(), **(CLEAR | given))
    assert kept == [] and words in reason


def test_marks_without_words_do_not_stay_in_the_list():
    said = Hypothesis("Yes.", -1.0, 3)
    assert judge([said, Hypothesis("...", -2.0, 3)], WhisperOptions(), **CLEAR) == ([said], "")


def test_compression_is_a_ratio():
    assert compression("") == 0.0
    assert compression("Good morning.") < 1.5 < 10 < compression("la " * 200)


# -- windows -------------------------------------------------------------------------------------------------------


def test_english_needs_fewer_tokens_than_other_scripts():
    window = Window(Audio.silence(10.0), 0.0, 10.0, 0.9)
    assert 100 < token_limit(window, "en") < token_limit(window, "ta") <= 300


class _Windowed(WindowedRecognizer[WhisperOptions]):
    def __init__(self, hear, detector, **vad):
        self.options, self._detector, self._hear = WhisperOptions(vad=VadOptions(**vad)), detector, hear

    def _hearing(self, n_best, prompt, hotwords):
        return self._hear


def test_windows_are_heard_in_the_language_of_the_first_one_with_words():
    asked = []

    def hear(window, language):
        asked.append(language)
        if len(asked) == 1:
            return window_transcript(window, [], "noise", language="cy", no_speech_prob=0.9, n_best=1)
        heard = [Hypothesis("Guten Tag", -2.0, 3), Hypothesis("guten tag!", -2.0, 3), Hypothesis("Gute Nacht", -4.0, 3)]
        return window_transcript(window, heard, "", language="de", no_speech_prob=0.1, n_best=5)

    speech, pause = Audio(TONE, 16_000), Audio.silence(2.0)
    recognizer = _Windowed(hear, FakeDetector(), padding=0.1)
    found = list(recognizer.transcribe_long(Audio.join([pause, speech] * 3), n_best=1))
    assert asked == [None, None, "de"]
    assert [w.offset for w in found] == pytest.approx([1.9, 4.9, 7.9], abs=0.04)
    assert found[0].refusal == "noise" and found[0].no_speech_prob == 0.9
    assert [h.text for h in found[1].hypotheses] == ["Guten Tag", "Gute Nacht"], "copies merge"
    assert all(isinstance(w, Transcript) and w.duration == pytest.approx(1.2, abs=0.2) for w in found)


def test_a_recording_leaves_the_detector_alone_and_bad_numbers_are_refused_at_once():
    detector = FakeDetector()
    before = copy.copy(detector.__dict__)
    with pytest.raises(ValueError, match="n_best must be at least 1"):
        _Windowed(None, detector).transcribe_long(Audio.silence(1.0), n_best=0)
    assert list(_Windowed(None, detector).transcribe_long(Audio.silence(1.0), n_best=1)) == []
    assert detector.__dict__ == before


def test_log_mel_is_filled_up_with_silence():
    mel = log_mel(TONE, 80)
    assert mel.shape == (1, 80, 3000) and mel.dtype == np.float32
    assert np.all(mel[0, :, 200:] == mel.max() - 2.0)
    assert log_mel(TONE, 128, tail=2.0).shape == (1, 128, 400)  # one frame more than a second, filled to a whole one


# -- tokens --------------------------------------------------------------------------------------------------------

SPECIAL = ["endoftext", "startoftranscript", "en", "de", "transcribe", "startofprev", "nocaptions", "notimestamps"]


def vocabulary(path, special):
    import tokenizers

    words = {word: i for i, word in enumerate(["?", *"abcdefgh"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([f"<|{name}|>" for name in special])
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize("no_speech", ["nocaptions", "nospeech"])
def test_tokens_by_name(tmp_path, no_speech):
    names = [no_speech if name == "nocaptions" else name for name in SPECIAL]
    path = vocabulary(tmp_path / "tokenizer.json", names)
    tokens = WhisperTokens(path, multilingual=True, advice="fetch it")
    ids = {name: 9 + i for i, name in enumerate(names)}
    assert (tokens.begin, tokens.end, tokens.no_speech) == (ids["startoftranscript"], ids["endoftext"], ids[no_speech])
    assert tokens.languages == {"en": ids["en"], "de": ids["de"]}
    assert tokens.start("de") == [ids[n] for n in ("startoftranscript", "de", "transcribe", "notimestamps")]
    assert tokens.context("b c", ["a"])[0] == ids["startofprev"] and tokens.context(" ") == []
    assert tokens.text([1, 2, ids["endoftext"]]) == "a b"
    with pytest.raises(ValueError, match="no language 'fr'"):
        tokens.start("fr")
    english = WhisperTokens(path, multilingual=False, advice="fetch it")
    assert english.start("en") == [ids["startoftranscript"], ids["notimestamps"]]
    with pytest.raises(ValueError, match="English-only"):
        english.start("de")


def test_a_tokenizer_of_something_else_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no Whisper model; fetch it"):
        WhisperTokens(vocabulary(tmp_path / "tokenizer.json", SPECIAL[:3]), multilingual=True, advice="fetch it")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="is broken"):
        WhisperTokens(tmp_path / "tokenizer.json", multilingual=True, advice="fetch it")


def test_likely_words_stand_before_the_prompt_and_both_have_room():
    def encode(text):
        return [ord(sign) for sign in text]

    def read(*args):
        return "".join(map(chr, context_ids(encode, *args)))

    assert read("Good morning.", ["flat white", " ", "Nairobi"]) == " flat white, Nairobi. Good morning."
    assert read("", []) == "" and read(" ", ["", " "]) == ""
    assert read("", ["Nairobi"]) == " Nairobi."
    long = read("x" * 500 + "the end", ["flat white"])
    assert len(long) == 223 and long.startswith(" flat white.x") and long.endswith("the end")
    both = read("y" * 500, ["word"] * 100)
    assert len(both) == 223 and both.startswith(" word, word") and both.count("y") == 112
