"""The real models on real voices."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vivavoce.speech import (
    Audio,
    HibariSynthesizer,
    ModelError,
    Segmenter,
    SpeechEnded,
    SpeechStarted,
    VadOptions,
    WhisperOptions,
    WhisperRecognizer,
    frames,
    normalizer,
    speech_segments,
)
from vivavoce.speech.testing import check_recognizer

DATA = Path(__file__).parents[1] / "data" / "speech"
ROWS = [json.loads(line) for line in (DATA / "manifest.jsonl").read_text().splitlines()]
same = normalizer()

pytestmark = pytest.mark.weights


class Counting(WhisperRecognizer):
    """Counts how often the encoder ran."""

    encoded = 0

    def _encode(self, samples):
        self.encoded += 1
        return super()._encode(samples)


@pytest.fixture(scope="module")
def whisper(whisper_dir: Path) -> Counting:
    return Counting(whisper_dir, device="cpu")


@pytest.fixture(scope="module")
def order() -> Audio:
    return Audio.read(DATA / "order_iced_coffee.flac")


def test_the_recognizer_keeps_the_contract(whisper, order):
    check_recognizer(whisper, order)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["audio_filepath"])
def test_what_was_said_is_in_the_list(whisper, row):
    audio = Audio.read(DATA / row["audio_filepath"])
    before = whisper.encoded
    transcript = whisper.transcribe(audio)
    assert whisper.encoded == before + 1, "one window is encoded once"
    assert same(row["text"]) in [same(hypothesis.text) for hypothesis in transcript.hypotheses]
    assert transcript.language == "en" and transcript.no_speech_prob < 0.5
    assert transcript.duration == pytest.approx(row["duration"], abs=0.01)
    assert len(transcript.hypotheses) > 1 and transcript.entropy > 0
    assert len(whisper.transcribe(audio, n_best=1).hypotheses) == 1


def encoded(audio: Audio, form: str, subtype: str | None, stereo: bool = False) -> bytes:
    file = io.BytesIO()
    samples = np.stack([audio.samples, 0.8 * audio.samples], axis=1) if stereo else audio.samples
    soundfile.write(file, samples, audio.rate, format=form, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("rate", "form", "subtype", "stereo"),
    [
        (8_000, "WAV", "PCM_16", False),
        (44_100, "WAV", "PCM_16", True),
        (16_000, "WAV", "PCM_24", False),
        (48_000, "FLAC", "PCM_24", True),
        (44_100, "MP3", None, True),
        (16_000, "OGG", None, False),
    ],
    ids=lambda value: str(value),
)
def test_the_kind_of_file_does_not_matter(whisper, order, rate, form, subtype, stereo):
    audio = Audio.read(encoded(order.resampled(rate), form, subtype, stereo))
    assert "iced coffee" in same(whisper.transcribe(audio).text)


RNG = np.random.default_rng(0)
TIME = np.arange(80_000) / 16_000
NOT_SPEECH = {
    "no samples": Audio.silence(0),
    "one sample": Audio(np.zeros(1, np.float32), 16_000),
    "silence": Audio.silence(5),
    "faint hiss": Audio(RNG.normal(0, 0.001, 80_000).astype(np.float32), 16_000),
    "white noise": Audio(RNG.normal(0, 0.1, 80_000).clip(-1, 1).astype(np.float32), 16_000),
    "loud noise": Audio(RNG.normal(0, 0.4, 80_000).clip(-1, 1).astype(np.float32), 16_000),
    "tone": Audio((0.5 * np.sin(2 * np.pi * 440 * TIME)).astype(np.float32), 16_000),
    "hum": Audio((0.3 * np.sign(np.sin(2 * np.pi * 50 * TIME))).astype(np.float32), 16_000),
    "clicks": Audio((np.arange(80_000) % 8_000 < 40).astype(np.float32), 16_000),
}


@pytest.mark.parametrize("audio", NOT_SPEECH.values(), ids=NOT_SPEECH.keys())
def test_what_is_no_speech_is_refused_with_a_reason(whisper, audio):
    before = whisper.encoded
    transcript = whisper.transcribe(audio)
    assert transcript.hypotheses == () and transcript.text == ""
    assert transcript.refusal and transcript.no_speech_prob > 0.6
    assert whisper.encoded == before, "what the voice detector refuses never reaches Whisper"


def test_noise_that_the_detector_takes_for_a_voice_is_refused_by_whisper(whisper_dir, whisper):
    class Credulous:
        def probability(self, frame):
            return 0.6

        def reset(self):
            pass

    recognizer = WhisperRecognizer(whisper_dir, device="cpu", detector=Credulous())
    for name in ("white noise", "silence"):
        transcript = recognizer.transcribe(NOT_SPEECH[name])
        assert not transcript.is_speech, f"{name}: {transcript.hypotheses}"
        assert transcript.refusal


def test_log_prob_is_the_sum_over_tokens_the_end_included(whisper, order):
    encoding = whisper._encode(next(whisper._spectrograms(order.samples)))
    prompt = whisper._tokens.start("en")
    result = whisper._model.generate(
        encoding, [prompt], beam_size=1, length_penalty=0.0, return_scores=True, return_logits_vocab=True
    )[0]
    tokens = [*result.sequences_ids[0], whisper._tokens.end]
    logits = np.array([np.array(step).reshape(-1) for step in result.logits[0]], dtype=np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert len(log_probs) == len(tokens)
    assert result.scores[0] == pytest.approx(sum(log_probs[range(len(tokens)), tokens]), abs=0.01)
    best = whisper.transcribe(order).hypotheses[0]
    assert best.n_tokens == len(tokens)
    assert best.log_prob >= result.scores[0] - 0.3, "merged spellings only add probability"


def test_context_helps(whisper):
    audio = Audio.read(DATA / "steward.flac")
    rank = [
        next(i for i, h in enumerate(whisper.transcribe(audio, prompt=prompt).hypotheses) if "steward" in h.text)
        for prompt in ("", "The stewards of the ward. A steward was chosen by the prisoners.")
    ]
    assert rank[1] <= rank[0] and rank[1] == 0
    assert whisper.transcribe(audio, prompt="and so on " * 500).is_speech


def test_a_long_recording_is_heard_window_by_window(whisper, order, tmp_path):
    steward = Audio.read(DATA / "steward.flac")
    talk = Audio.join([Audio.join([order, Audio.silence(0.4), steward, Audio.silence(3.0)]) for _ in range(6)])
    path = talk.write(tmp_path / "talk.flac")
    windows = list(whisper.transcribe_long(path))
    assert len(windows) >= 2
    ends = [window.offset + window.duration for window in windows]
    assert all(a <= b.offset for a, b in zip(ends, windows[1:], strict=False)) and ends[-1] <= talk.seconds
    whole = whisper.transcribe(talk)
    assert whole.text == " ".join(window.text for window in windows)
    assert same(whole.text).count("iced coffee") == 6
    assert 1 <= len(whole.hypotheses) <= 5 and whole.duration == pytest.approx(talk.seconds)
    assert [h.log_prob for h in whole.hypotheses] == sorted((h.log_prob for h in whole.hypotheses), reverse=True)


def test_several_threads_share_one_recognizer(whisper):
    clips = [Audio.read(DATA / row["audio_filepath"]) for row in ROWS]
    alone = [whisper.transcribe(clip) for clip in clips]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(whisper.transcribe, clips * 2))
    for one, other in zip(alone * 2, together, strict=True):
        assert one.text == other.text and math.isclose(one.entropy, other.entropy, abs_tol=1e-3)


def test_the_short_encoder_window_hears_the_same(whisper_dir, order):
    short = WhisperRecognizer(whisper_dir, device="cpu", options=WhisperOptions(tails=(6.0,), language="en"))
    assert "iced coffee" in short.transcribe(order).text


def test_a_language_that_whisper_does_not_know_is_refused(whisper_dir):
    for language in ("xx", "english", "transcribe"):
        with pytest.raises(ValueError, match="no language"):
            WhisperRecognizer(whisper_dir, options=WhisperOptions(language=language))


@pytest.mark.parametrize("broken", ["model.bin", "tokenizer.json", "config.json"])
def test_a_broken_model_names_the_command(whisper_dir, tmp_path, broken):
    folder = tmp_path / "whisper"
    folder.mkdir()
    for file in whisper_dir.iterdir():
        if file.name == broken:
            (folder / file.name).write_bytes(file.read_bytes()[:1000])
        else:
            (folder / file.name).symlink_to(file.resolve())
    with pytest.raises(ModelError, match="vivavoce models fetch"):
        WhisperRecognizer(folder, device="cpu")
    shutil.rmtree(folder)


def test_the_voice_detector_finds_real_speech(order):
    padded = Audio.join([Audio.silence(2.0), order, Audio.silence(2.0)])
    segments = speech_segments(padded)
    assert segments and 1.5 < segments[0].start < 4.0 and segments[-1].end < 2.0 + order.seconds + 0.5
    noise = Audio(RNG.normal(0, 0.1, 48_000).clip(-1, 1).astype(np.float32), 16_000)
    assert speech_segments(order.mixed_with(noise, 10.0))
    assert dataclasses.asdict(segments[0]).keys() == {"start", "end", "probability"}


def test_a_file_replays_as_a_live_stream(whisper, order):
    stream = Audio.join([Audio.silence(1.0), order, Audio.silence(2.0), order, Audio.silence(0.2)])
    events = list(Segmenter(options=VadOptions(min_silence=1.0)).walk(frames(stream)))
    assert [type(event) for event in events] == [SpeechStarted, SpeechEnded] * 2
    assert all("iced coffee" in same(whisper.transcribe(e.audio).text) for e in events if isinstance(e, SpeechEnded))


def test_what_is_spoken_is_understood(whisper):
    spoken = Audio.join(HibariSynthesizer().speak("A **flat white** costs three pounds. We close at seven [hours.md]."))
    heard = same(whisper.transcribe(spoken).text)
    assert "flat white" in heard and "7" in heard and "hours" not in heard
