"""The packaged weights in three Whisper engines: they hear the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import whisper_weights

from vivavoce.agent import ConfigError
from vivavoce.agent.opening import open_recognizer
from vivavoce.speech import Audio, ModelError, WhisperOptions, WhisperRecognizer, normalizer
from vivavoce.speech.engines.openai_whisper import OpenAIWhisperRecognizer
from vivavoce.speech.engines.transformers_whisper import TransformersWhisperRecognizer
from vivavoce.speech.engines.whisper_tokens import WhisperTokens
from vivavoce.speech.engines.windows import log_mel
from vivavoce.speech.testing import check_recognizer

DATA = Path(__file__).parents[1] / "data" / "speech"
CLIPS = [json.loads(line)["audio_filepath"] for line in (DATA / "manifest.jsonl").read_text().splitlines()]
NARROW = WhisperOptions(beams_per_hypothesis=1)  # five beams: what is compared is the same, and costs a third
# As the other engines do it: one search, in the 30 seconds that they always encode.
WHOLE = replace(NARROW, tails=(None,), widen=False, samples=0)
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
def test_the_best_hypothesis_is_the_same_in_every_engine(clip, whisper_dir, openai, transformers):
    audio = Audio.read(DATA / clip)
    exact = WhisperRecognizer(whisper_dir, options=replace(WHOLE, compute_type="float32"), device="cpu")
    reference = exact.transcribe(audio)
    small = WhisperRecognizer(whisper_dir, options=WHOLE, device="cpu")
    for recognizer in (small, openai, transformers):
        transcript = recognizer.transcribe(audio)
        assert same(transcript.text) == same(reference.text)
        assert transcript.language == "en" and transcript.duration == reference.duration
        assert transcript.no_speech_prob == pytest.approx(reference.no_speech_prob, abs=0.01)
        # Five beams hold a different number of spellings in each engine, and spellings are summed; 8 bits are rounded
        # more coarsely by some CPUs than by others.
        best, twin = transcript.hypotheses[0], reference.hypotheses[0]
        near = pytest.approx(twin.log_prob, abs=0.6 if recognizer is small else 0.3)
        assert best.log_prob == near and best.n_tokens == twin.n_tokens


def test_every_beam_of_transformers_has_the_score_that_it_has_in_ctranslate2(whisper_dir, transformers):
    import ctranslate2
    import torch

    samples = Audio.read(DATA / "steward.flac").samples
    prompt = transformers._tokens.start("en")
    model = ctranslate2.models.Whisper(str(whisper_dir), compute_type="float32")
    mel = ctranslate2.StorageView.from_array(log_mel(samples, 80))
    found = model.generate(mel, [prompt], beam_size=5, num_hypotheses=5, length_penalty=1.0, return_scores=True)[0]
    scores = {
        transformers._tokens.text(ids): score * len(ids)
        for ids, score in zip(found.sequences_ids, found.scores, strict=True)
    }
    with torch.inference_mode():
        heard = transformers._search(transformers._encode(samples), prompt, limit=100, n_best=5)
    assert len({h.text for h in heard}) == 5, "no copies"
    shared = [h for h in heard if h.text in scores]
    assert len(shared) >= 3
    for hypothesis in shared:
        assert hypothesis.log_prob == pytest.approx(scores[hypothesis.text], abs=0.01)


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


def test_engines_are_told_the_language(checkpoint, folder, whisper_dir):
    for engine, model in (("openai", checkpoint), ("transformers", folder), ("ctranslate2", whisper_dir)):
        assert open_recognizer(engine, model, device="cpu", language="de").options.language == "de"
        with pytest.raises(ConfigError, match="xx"):
            open_recognizer(engine, model, device="cpu", language="xx")


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


def test_text_falls_into_the_tokens_that_whisper_was_trained_on(whisper_dir):
    import whisper.tokenizer

    tokens = WhisperTokens(whisper_dir / "tokenizer.json", multilingual=True, advice="")
    said = "the time that Tuesday's train took, and what it's told to the other table"
    _, *ids = tokens.context(said)
    assert ids == whisper.tokenizer.get_tokenizer(True).encode(f" {said}")
