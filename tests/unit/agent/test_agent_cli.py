"""The command line: its groups of options, what a question is, and what is refused instead of being ignored."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import typer
from command_line import refused, vivavoce

from vivavoce.agent.cli.hear import json_lines
from vivavoce.agent.cli.listen import WithHotwords
from vivavoce.agent.cli.options import grouped
from vivavoce.agent.cli.talk import read_question
from vivavoce.speech import Audio
from vivavoce.speech.testing import FakeRecognizer, check_recognizer

DATA = Path(__file__).parents[2] / "data" / "speech"
ROWS = [json.loads(line) for line in (DATA / "manifest.jsonl").read_text().splitlines()]


class Echo:
    """Hears the likely words, or "nothing" if there are none."""

    def transcribe(self, audio: Audio, *, n_best: int = 5, prompt: str = "", hotwords: Sequence[str] = ()):
        return FakeRecognizer([" ".join(hotwords) or "nothing"]).transcribe(audio, n_best=n_best)


ECHO = f"{__name__}:Echo"


# -- groups of options ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weather:
    panel: ClassVar[str] = "Weather"

    wind: Annotated[int, typer.Option("-w", "--wind", min=0, max=12, help="Beaufort.")] = 3
    rain: Annotated[bool, typer.Option(help="Whether it rains.")] = False
    places: Annotated[list[str] | None, typer.Option("--place", help="Where; may be given again.")] = None

    def __post_init__(self) -> None:
        if self.rain and self.wind == 0:
            raise typer.BadParameter("--rain goes with wind.")


@dataclass(frozen=True)
class Storm(Weather):
    wind: Annotated[int, typer.Option("-w", "--wind", min=0, max=12, help="Beaufort.")] = 10


seen: list[tuple] = []
weather = typer.Typer()


@weather.callback()
def _weather() -> None:
    pass


@weather.command()
@grouped
def now(day: str, hour: Annotated[int, typer.Argument()] = 12, *, weather: Weather, loud: bool = False) -> None:
    """What the weather is."""
    seen.append((day, hour, weather, loud))


@weather.command()
@grouped
def storm(weather: Storm) -> None:
    seen.append((weather,))


def called(*arguments: str) -> tuple:
    seen.clear()
    weather(list(arguments), standalone_mode=False)
    [values] = seen
    return values


def test_a_verb_gets_its_groups_as_one_value_each():
    assert called("now", "monday") == ("monday", 12, Weather(), False)
    given = called("now", "monday", "7", "-w", "9", "--place", "Bath", "--loud", "--place", "Ely")
    assert given == ("monday", 7, Weather(9, places=["Bath", "Ely"]), True)
    assert called("storm", "--rain") == (Storm(10, rain=True),), "a subclass has another default"


def test_what_a_field_allows_holds_and_a_group_refuses_what_does_not_go_together():
    for wrong in (("--wind", "13"), ("--wind", "0", "--rain")):
        with pytest.raises(typer.BadParameter):
            called("now", "monday", *wrong)


def test_help_shows_each_option_under_the_heading_of_its_group(capsys):
    with pytest.raises(SystemExit):
        weather(["now", "--help"])
    shown = capsys.readouterr().out
    assert "What the weather is." in shown
    for part in ("Weather", "--wind", "Beaufort", "0<=x<=12", "default: 3", "--no-rain", "--place"):
        assert part in shown


def test_two_groups_with_one_option_are_refused():
    def twice(weather: Weather, storm: Storm) -> None: ...

    with pytest.raises(ValueError, match="wind"):
        grouped(twice)


# -- verbs ----------------------------------------------------------------------------------------------------------


def test_calibrate_says_its_name_of_today():
    for arguments in (("calibrate",), ("calibrate", "--data", "x.jsonl", "--out", "x.json")):
        refused(vivavoce(*arguments), "vivavoce train read-out", code=2)
    assert vivavoce("train", "read-out", "--help").code == vivavoce("eval", "calibrate", "--help").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ask", "hello", "--out", "answers", "--no-speech"), "--no-speech"),
        (("ask", "hello", "--language", "de"), "go with recordings"),
        (("ask", "hello", "--engine", "ctc"), "go with recordings"),
        (("ask", "hello", "--asr-model", "whisper-base"), "go with recordings"),
        (("ask", "hello", "--n-best", "3"), "go with recordings"),
        (("ask", "hello", "--engine", ECHO, "--language", "de"), "knows its language itself"),
        (("ask", "hello", "--device", "tpu"), "'auto', 'cpu', 'cuda'"),
        (("chat", "--language", "de"), "--language"),
        (("transcribe", "a.wav", "--realtime"), "--realtime goes with --stream"),
        (("transcribe", "--stream", "--realtime"), "--realtime plays recordings"),
        (("transcribe", "a.wav", "--engine", ECHO, "--language", "de"), "knows its language itself"),
        (("search", ".", "x", "--run", "r.trec"), "--run goes with --queries"),
        (("eval", "wer", "--manifest", "m.jsonl", "--snr", "5"), "--snr goes with --noise"),
        (("eval", "intents", "--train", "a", "--test", "b", "--field", "x"), "'asr', 'text', 'hypotheses'"),
        (("train", "embedder", "--data", "a", "--out", "b", "--teacher", "none", "--text-steps", "9"), "--text-steps"),
    ],
)
def test_what_would_be_ignored_is_refused(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = vivavoce(*arguments)
    assert (result.code, result.out) == (2, ""), result
    assert said in " ".join(result.err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


# -- questions ------------------------------------------------------------------------------------------------------


def test_a_file_that_exists_is_a_recording_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("hello.wav", "my recording.wav", "What is in hello.wav"):
        Audio.silence(0.5).write(Path("hello.wav"))
        Path(name).write_bytes(Path("hello.wav").read_bytes())
        assert isinstance(read_question(name), Audio)


@pytest.mark.parametrize("name", ["gone.wav", "sounds/gone.FLAC", "./gone.mp3"])
def test_one_word_that_ends_like_a_sound_file_is_a_recording_that_is_missing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    refused(vivavoce("ask", name), "No such file", Path(name).name)


@pytest.mark.parametrize("text", ["What is in hello.wav", "play gone.mp3", "my recording.wav", "Read\thello.flac"])
def test_words_that_end_in_a_file_are_a_question_and_it_is_said(tmp_path, monkeypatch, capsys, text):
    monkeypatch.chdir(tmp_path)
    assert read_question(text) == text
    assert "taken for a question" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("text", ["hello", "What is in hello.wav?", "Is README.md long", "wav", "a\0b", "x" * 5000])
def test_other_words_are_a_question(tmp_path, monkeypatch, capsys, text):
    monkeypatch.chdir(tmp_path)
    assert read_question(text) == text
    assert capsys.readouterr().err == ""


# -- typed conversations --------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_somebody_at_a_terminal_is_told_how_to_type_and_how_to_end(tiny_llm, one_cpu):
    talked = vivavoce("chat", "--model", tiny_llm, "--json", typed=Terminal("Hello!\n"))
    assert talked.code == 0, talked.err
    assert [line["event"] for line in talked.lines].count("turn_ended") == 1
    assert talked.lines[0]["hypotheses"][0]["text"] == "Hello!"
    assert "empty line or Ctrl-D" in talked.err and talked.err.count("you:") == 2


def test_an_empty_line_ends_a_conversation_and_people_are_not_shown_what_they_typed(tiny_llm, one_cpu):
    talked = vivavoce("chat", "--text", "--model", tiny_llm, typed="Hello!\n\nnever read\n")
    assert (talked.code, talked.err) == (0, "")
    assert talked.out.count("decide ms") == 1 and "posterior" not in talked.out


def test_a_recording_is_heard_by_the_engine_that_is_named(tiny_llm, one_cpu):
    recording = DATA / ROWS[0]["audio_filepath"]
    asked = vivavoce("ask", recording, "--engine", ECHO, "--model", tiny_llm, "--no-speech", "--json")
    assert asked.code == 0, asked.err
    assert asked.lines[0]["hypotheses"][0]["text"] == "nothing"


# -- transcription --------------------------------------------------------------------------------------------------


def transcribed(*arguments: object) -> list[dict]:
    done = vivavoce("transcribe", "--engine", ECHO, *arguments, "--json")
    assert done.code == 0, done.err
    return done.lines


def test_a_stream_honours_manifest_hotwords_and_out(tmp_path):
    single = DATA / ROWS[0]["audio_filepath"]
    out = tmp_path / "heard.jsonl"
    lines = transcribed(
        "--stream", single, "--manifest", DATA / "manifest.jsonl", "--hotwords", "latte, ", "--out", out
    )
    finals = [line for line in lines if line["event"] == "final"]
    assert [json.loads(line) for line in out.read_text().splitlines()] == finals
    assert list(dict.fromkeys(line["audio_filepath"] for line in finals)) == [
        str(single),
        *(row["audio_filepath"] for row in ROWS),
    ]
    assert {line["hypotheses"][0]["text"] for line in finals} == {"latte"}
    shown = vivavoce("transcribe", "--engine", ECHO, "--stream", single, "--out", out)
    assert "nothing" in shown.out, "people see what is said, with --out too"
    assert len(out.read_text().splitlines()) < len(finals)


def test_a_stream_of_a_recording_that_is_none_leaves_what_was_there(tmp_path):
    out = tmp_path / "heard.jsonl"
    out.write_text("what was there before\n")
    gone = tmp_path / "gone.wav"
    refused(vivavoce("transcribe", "--engine", ECHO, "--stream", DATA / ROWS[0]["audio_filepath"], gone, "--out", out))
    assert out.read_text() == "what was there before\n" and list(tmp_path.iterdir()) == [out]


def test_ctrl_c_leaves_what_the_microphone_heard_and_a_microphone_that_is_missing_leaves_what_was_there(tmp_path):
    out, new = tmp_path / "heard.jsonl", tmp_path / "new.jsonl"
    out.write_text("what was there before\n")
    for path in (out, new):
        with pytest.raises(ValueError, match="no microphone"), json_lines(path, growing=True):
            raise ValueError("no microphone")
    assert out.read_text() == "what was there before\n" and not new.exists()
    with pytest.raises(KeyboardInterrupt), json_lines(out, growing=True) as write:
        write({"text": "one"})
        assert json.loads(out.read_text()) == {"text": "one"}, "it is there while the rest is being said"
        write({"text": "two"})
        raise KeyboardInterrupt
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == ["one", "two"]
    refused(vivavoce("transcribe", "--engine", ECHO, "--stream", "--out", tmp_path / "no" / "x.jsonl"), "--out")


def test_a_file_and_the_screen_get_the_same_lines(tmp_path):
    out, recording = tmp_path / "heard.jsonl", DATA / ROWS[0]["audio_filepath"]
    lines = transcribed(recording, "--hotwords", "oat milk,latte", "--out", out)
    assert [json.loads(line) for line in out.read_text().splitlines()] == lines
    assert lines[0]["hypotheses"][0]["text"] == "oat milk latte"
    quiet = vivavoce("transcribe", "--engine", ECHO, recording, "--out", out)
    assert (quiet.code, quiet.out) == (0, "")


def test_hotwords_of_a_stream_stand_before_those_of_a_call():
    inner = FakeRecognizer(["yes"])
    check_recognizer(WithHotwords(inner, ["latte"]), speech=Audio.read(DATA / ROWS[0]["audio_filepath"]))
    assert all(words[0] == "latte" for words in inner.hotwords)
    assert ("latte", "coffee") in inner.hotwords
