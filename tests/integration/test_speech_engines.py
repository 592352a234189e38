"""The packaged weights in three Whisper engines: they hear the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import whisper_weights

from vivavoce.agent.engines import open_recognizer
from vivavoce.speech import Audio, ModelError, WhisperOptions, WhisperRecognizer, normalizer
from vivavoce.speech.openai_whisper import OpenAIWhisperRecognizer
from vivavoce.speech.testing import check_recognizer
from vivavoce.speech.transformers_whisper import TransformersWhisperRecognizer
from vivavoce.speech.whisper_tokens import WhisperTokens
from vivavoce.speech.windows import log_mel

DATA = Path(__file__).parents[1] / "data" / "speech"
CLIPS = [json.loads(line)["audio_filepath"] for line in (DATA / "manifest.jsonl").read_text().splitlines()]
NARROW = WhisperOptions(beams_per_hypothesis=1)  # five beams: what is compared is the same, and costs a third
same = normalizer()

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def checkpoint(whisper_dir, tmp_path_factory) -> Path:
    return whisper_weights.write_openai(whisper_dir, tmp_path_factory.mktemp("openai") / "base.pt")


@pytest.fixture(scope="module")
def folder(whisper_dir, tmp_path_factory) -> Path:
    return whisper_weights.write_transformers(whisper_dir, tmp_path_factory.mktemp("transformers"))


@pytest.fixture(scope="module")
def openai(checkpoint) -> OpenAIWhisperRecognizer:
    return OpenAIWhisperRecognizer(checkpoint, options=NARROW, device="cpu")


@pytest.fixture(scope="module")
def transformers(folder) -> TransformersWhisperRecognizer:
    return TransformersWhisperRecognizer(folder, options=NARROW, device="cpu")


@pytest.mark.parametrize("engine", ["openai", "transformers"])
def test_the_engine_keeps_the_contract(engine, request):
    check_recognizer(request.getfixturevalue(engine), Audio.read(DATA / "order_iced_coffee.flac"))


@pytest.mark.parametrize("clip", CLIPS)
def test_beam_search_hears_the_same_in_every_engine(clip, whisper_dir, openai, transformers):
    audio = Audio.read(DATA / clip)
    small = WhisperRecognizer(whisper_dir, options=NARROW, device="cpu").transcribe(audio)
    exact = WhisperRecognizer(
        whisper_dir, options=WhisperOptions(beams_per_hypothesis=1, compute_type="float32"), device="cpu"
    ).transcribe(audio)
    reference = {same(h.text): h for h in exact.hypotheses}
    for transcript in (small, openai.transcribe(audio), transformers.transcribe(audio)):
        assert same(transcript.text) == same(exact.text)
        assert transcript.language == "en" and transcript.duration == exact.duration
        assert transcript.no_speech_prob == pytest.approx(exact.no_speech_prob, abs=0.01)
        shared = [h for h in transcript.hypotheses if same(h.text) in reference]
        assert len(shared) >= 2, "the lists are of the same sentences"
        for hypothesis in shared:
            twin = reference[same(hypothesis.text)]
            # What differs is how many spellings of a sentence a search held, which are summed; int8 adds its own.
            assert hypothesis.log_prob == pytest.approx(twin.log_prob, abs=0.8)
            assert abs(hypothesis.n_tokens - twin.n_tokens) <= 1


def test_greedy_search_takes_the_same_tokens_in_every_engine(whisper_dir, openai, transformers):
    import ctranslate2
    import torch
    import whisper

    tokens = WhisperTokens(whisper_dir / "tokenizer.json", multilingual=True, advice="")
    prompt = tokens.start("en")
    mel = log_mel(Audio.read(DATA / CLIPS[1]).samples, 80)
    model = ctranslate2.models.Whisper(str(whisper_dir), compute_type="float32")
    taken = model.generate(ctranslate2.StorageView.from_array(mel), [prompt], beam_size=1)[0].sequences_ids[0]
    with torch.inference_mode():
        options = whisper.DecodingOptions(language="en", without_timestamps=True, fp16=False)
        theirs = whisper.decode(openai._model, torch.from_numpy(mel[0]), options).tokens
        other = transformers._model
        given = torch.tensor([[*prompt, *taken]])
        logits = other(input_features=torch.from_numpy(mel), decoder_input_ids=given).logits[0, len(prompt) - 1 :]
    assert len(taken) > 4 and theirs == taken
    assert logits.argmax(-1).tolist() == [*taken, tokens.end], "each token is the likeliest behind those before"


@pytest.mark.parametrize("engine", ["openai", "transformers"])
def test_likely_words_raise_their_hypotheses(engine, request):
    recognizer = request.getfixturevalue(engine)
    audio = Audio.read(DATA / "steward.flac")

    def share(**context) -> float:
        transcript = recognizer.transcribe(audio, **context)
        heard = zip(transcript.hypotheses, transcript.posteriors(), strict=True)
        return sum(p for h, p in heard if "steward" in h.text.lower())

    assert share(hotwords=["steward", "prisoners"]) > share() + 0.3


def test_engines_are_opened_by_name(checkpoint, folder, tmp_path):
    assert isinstance(open_recognizer("openai", checkpoint, device="cpu"), OpenAIWhisperRecognizer)
    assert isinstance(open_recognizer("transformers", folder, device="cpu"), TransformersWhisperRecognizer)
    assert isinstance(open_recognizer(device="cpu"), WhisperRecognizer)


def test_a_broken_or_unknown_checkpoint_says_what_to_name(tmp_path):
    with pytest.raises(ModelError, match=r"no Whisper checkpoint .*large-v3"):
        OpenAIWhisperRecognizer(tmp_path / "nowhere.pt", device="cpu")
    (tmp_path / "base.pt").write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot load the Whisper checkpoint"):
        OpenAIWhisperRecognizer(tmp_path / "base.pt", device="cpu")


def test_a_language_that_the_model_does_not_know_is_refused(checkpoint, folder):
    options = WhisperOptions(language="xx")
    with pytest.raises(ValueError, match="no language 'xx'"):
        OpenAIWhisperRecognizer(checkpoint, options=options, device="cpu")
    with pytest.raises(ValueError, match="no language 'xx'"):
        TransformersWhisperRecognizer(folder, options=options, device="cpu")
