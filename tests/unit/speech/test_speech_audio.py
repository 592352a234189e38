"""Audio in and out: every kind of file people have, and every kind of file that is none."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.speech import Audio, AudioError, WavSink, frames
from vivavoce.speech.sound.audio import atomic_file

RATE = 16_000


def tone(seconds: float = 0.5, rate: int = RATE, level: float = 0.5) -> Audio:
    time = np.arange(round(seconds * rate)) / rate
    return Audio((level * np.sin(2 * np.pi * 440 * time)).astype(np.float32), rate)


def encoded(samples: np.ndarray, rate: int, form: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("form", "subtype", "rate", "error"),
    [
        ("WAV", "PCM_U8", 8_000, 0.01),
        ("WAV", "PCM_16", 16_000, 1e-4),
        ("WAV", "PCM_24", 44_100, 1e-6),
        ("WAV", "PCM_32", 48_000, 1e-6),
        ("WAV", "FLOAT", 22_050, 0.0),
        ("FLAC", "PCM_16", 16_000, 1e-4),
        ("FLAC", "PCM_24", 48_000, 1e-6),
        ("OGG", None, 16_000, 0.1),
        ("MP3", None, 44_100, 0.1),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_reads_every_format(tmp_path, form, subtype, rate, error, channels):
    original = tone(1.0, rate)
    samples = original.samples if channels == 1 else np.stack([original.samples, 0.5 * original.samples], axis=1)
    expected = original.samples if channels == 1 else 0.75 * original.samples
    path = tmp_path / f"sound.{form.lower()}"
    path.write_bytes(encoded(samples, rate, form, subtype))

    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        audio = Audio.read(source)
        assert audio.rate == rate
        assert audio.samples.dtype == np.float32 and audio.samples.ndim == 1
        assert abs(audio.seconds - 1.0) < 0.06
        if len(audio.samples) == len(expected):
            assert np.abs(audio.samples - expected).max() <= error + 1e-7
    assert abs(Audio.length(path) - 1.0) < 0.06


def test_bad_files_say_what_is_wrong(tmp_path):
    (tmp_path / "text.wav").write_text("This is not sound.\n" * 100)
    (tmp_path / "text.raw").write_text("This is not sound.\n" * 100)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "none.wav").write_bytes(encoded(np.zeros(0, np.float32), RATE, "WAV"))
    (tmp_path / "header.wav").write_bytes(encoded(tone().samples, RATE, "WAV")[:30])
    nan = tone().samples.copy()
    nan[7] = np.nan
    (tmp_path / "nan.wav").write_bytes(encoded(nan, RATE, "WAV", "FLOAT"))
    for name, words in {
        "missing.wav": "No such file",
        "": "is a folder",
        "text.wav": "not audio",
        "text.raw": "not audio",
        "empty.wav": "empty file",
        "none.wav": "no samples",
        "header.wav": "not audio",
        "nan.wav": "not numbers",
    }.items():
        with pytest.raises(AudioError, match=words) as caught:
            Audio.read(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert caught.value.stage == "read" and not caught.value.retryable
        with pytest.raises(AudioError):
            list(frames(tmp_path / name))
    with pytest.raises(AudioError, match="empty"):
        Audio.read(b"")
    with pytest.raises(AudioError, match="No such file"):
        Audio.length(tmp_path / "missing.wav")


def test_a_file_cut_short_gives_what_is_there(tmp_path):
    assert 0 < Audio.read(encoded(tone(1.0).samples, RATE, "WAV")[:10_000]).seconds < 0.5


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        (np.zeros((2, 10), np.float32), RATE, "mono"),
        (np.zeros(10, np.int16), RATE, "from_pcm16"),
        (np.full(10, 3000.0, np.float32), RATE, "32768"),
        (np.array([0.0, np.inf], np.float32), RATE, "NaN"),
        (np.zeros(10, np.float32), 0, "rate"),
        (np.zeros(10, np.float32), 16_000.0, "rate"),
    ],
)
def test_samples_that_are_no_audio_are_refused(samples, rate, words):
    with pytest.raises(AudioError, match=words):
        Audio(samples, rate)


def test_audio_cannot_be_changed_and_overshoot_is_clipped():
    audio = Audio(np.array([0.5, 1.5, -2.0]), RATE)
    assert audio.samples.tolist() == [0.5, 1.0, -1.0]
    with pytest.raises(ValueError, match="read-only"):
        audio.samples[0] = 0.0
    with pytest.raises(AttributeError):
        audio.rate = 8_000
    assert repr(tone(0.5)) == "Audio(0.50 s, 16000 Hz)"


@given(st.binary(max_size=400).filter(lambda data: len(data) % 2 == 0))
def test_pcm16_round_trip_is_exact(data):
    assert Audio.from_pcm16(data, RATE).pcm16() == data


def test_pcm16_clips_and_refuses_half_samples():
    assert Audio(np.array([1.0, -1.0], np.float32), RATE).pcm16() == b"\xff\x7f\x00\x80"
    with pytest.raises(AudioError, match="even"):
        Audio.from_pcm16(b"abc", RATE)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_the_sound(rate):
    audio = tone(1.0).resampled(rate)
    assert audio.rate == rate and abs(audio.seconds - 1.0) < 1e-3
    back = audio.resampled(RATE)
    assert np.abs(back.samples[800:15_000] - tone(1.0).samples[800:15_000]).max() < 0.01
    assert tone().resampled(RATE).rate == RATE
    assert len(Audio.silence(0).resampled(rate).samples) == 0


@pytest.mark.parametrize("rate", [None, 8_000, 16_000])
def test_blocks_are_the_file_piece_by_piece(tmp_path, rate):
    original = tone(3.7, 44_100)
    path = original.write(tmp_path / "long.wav")
    blocks = list(Audio.blocks(path, 0.5, rate=rate))
    assert len(blocks) >= 7
    assert all(block.rate == (rate or 44_100) and block.seconds < 0.7 for block in blocks)
    whole = Audio.read(path).resampled(rate or 44_100)
    assert np.allclose(Audio.join(blocks).samples, whole.samples, atol=1e-3)
    assert np.allclose(Audio.read(path, rate=rate).samples, whole.samples, atol=1e-3)
    with pytest.raises(ValueError, match="seconds"):
        next(Audio.blocks(path, 0))


def test_frames_are_512_samples_and_the_last_is_filled_up(tmp_path):
    audio = tone(0.1)
    heard = list(frames(audio))
    assert [frame.shape for frame in heard] == [(512,)] * 4
    assert np.array_equal(np.concatenate(heard)[: len(audio.samples)], audio.samples)
    assert not np.concatenate(heard)[len(audio.samples) :].any()
    path = tone(61.0, 8_000).write(tmp_path / "minute.flac")
    assert sum(len(frame) for frame in frames(path)) == -(-61 * RATE // 512) * 512
    assert not list(frames(Audio.silence(0)))
    with pytest.raises(ValueError, match="no sample"):
        next(frames(audio, 0.0))


def test_slices_are_cut_to_what_there_is():
    audio = tone(1.0)
    assert audio.slice(0.25, 0.5).seconds == 0.25
    assert audio.slice(0.9, 7.0).seconds == pytest.approx(0.1)
    assert audio.slice(3.0).seconds == 0.0
    for start, end in ((-1.0, None), (0.5, 0.2)):
        with pytest.raises(ValueError, match="start"):
            audio.slice(start, end)


@pytest.mark.parametrize("snr", [20.0, 6.0, 0.0, -5.0])
def test_noise_is_mixed_in_at_the_ratio_asked_for(snr):
    speech = Audio.join([tone(1.0, level=0.1), Audio.silence(3.0), tone(1.0, level=0.1)])
    noise = Audio(np.random.default_rng(0).normal(0, 0.3, 8_000).clip(-1, 1).astype(np.float32), 8_000)
    mixed = speech.mixed_with(noise, snr)
    assert len(mixed.samples) == len(speech.samples)
    assert np.array_equal(mixed.samples, speech.mixed_with(noise, snr).samples)
    added = mixed.slice(1.5, 3.5).rms  # only noise there; the pause does not count for the level of the speech
    assert 20 * np.log10(speech.active_rms / added) == pytest.approx(snr, abs=0.5)


def test_a_loud_mix_is_turned_down_not_clipped():
    mixed = tone(1.0, level=0.9).mixed_with(tone(0.3, level=0.2), 0.0)
    assert np.abs(mixed.samples).max() == pytest.approx(1.0)
    assert (np.abs(mixed.samples) == 1.0).mean() < 0.01


@pytest.mark.parametrize(
    ("speech", "noise"), [(tone(), Audio.silence(1)), (Audio.silence(1), tone()), (tone(), Audio.silence(0))]
)
def test_silence_cannot_be_mixed_at_a_ratio(speech, noise):
    with pytest.raises(AudioError, match=r"silent|no samples"):
        speech.mixed_with(noise, 10.0)


def test_nothing_cannot_be_joined():
    with pytest.raises(AudioError, match="nothing to join"):
        Audio.join([])


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_writes_what_it_reads(tmp_path, name):
    path = tone(0.5).write(tmp_path / name)
    assert abs(Audio.read(path).rms - tone(0.5).rms) < 0.05
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_writing_fails_with_a_reason(tmp_path):
    with pytest.raises(AudioError, match="end the name in"):
        tone().write(tmp_path / "a.txt")
    with pytest.raises(AudioError, match="No such file") as caught:
        tone().write(tmp_path / "nowhere" / "a.wav")
    assert caught.value.stage == "write"
    (tmp_path / "taken.wav").mkdir()
    with pytest.raises(AudioError, match="cannot write"):
        tone().write(tmp_path / "taken.wav")
    assert [file.name for file in tmp_path.iterdir()] == ["taken.wav"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_part_of_a_file_is_left(tmp_path, error):
    path = tone(0.1).write(tmp_path / "kept.wav")
    before = path.read_bytes()
    with pytest.raises(error), atomic_file(path) as file:
        file.write(b"half")
        raise error
    with pytest.raises(error), WavSink(path) as sink:
        sink.write(tone(0.3))
        raise error
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["kept.wav"]


def test_ctrl_c_leaves_no_part(tmp_path):
    program = f"""
        import sys, numpy as np
        from vivavoce.speech import Audio, WavSink
        with WavSink({str(tmp_path / "answer.wav")!r}) as sink:
            while True:
                sink.write(Audio.silence(0.1))
                print("written", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.wait(timeout=20) != 0
    assert list(tmp_path.iterdir()) == []


def test_sink_streams_pieces_into_one_file(tmp_path):
    with WavSink(tmp_path / "answer.wav") as sink:
        for piece in (tone(0.5), tone(0.5, 8_000), Audio.silence(0.25)):
            sink.write(piece)
    assert sink.seconds == pytest.approx(1.25)
    audio = Audio.read(sink.path)
    assert audio.rate == RATE and audio.seconds == pytest.approx(1.25, abs=0.01)
    with WavSink(tmp_path / "unspoken.wav"):
        pass
    assert [Path(file).name for file in tmp_path.iterdir()] == ["answer.wav"]


def test_notebooks_show_a_player():
    assert tone()._repr_html_().startswith('<audio controls src="data:audio/wav;base64,')
