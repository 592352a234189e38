"""The command line: what it prints, what it writes, and what it says when something is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import refused, vivavoce

from vivavoce.agent import TransformersChatModel
from vivavoce.agent.model.prompts import NOTHING_HEARD
from vivavoce.agent.weights.registry import ASR, EMBEDDING, LLM
from vivavoce.retrieval import LocalKnowledge
from vivavoce.retrieval.testing import HashEmbedder
from vivavoce.speech import Audio, normalizer

words = normalizer("en")
weights = pytest.mark.weights


def everything_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# -- the demo -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(coffeehouse, minilm_dir, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("index") / "coffeehouse"
    made = vivavoce("index", coffeehouse / "handbook", "--out", out, "--json")
    assert made.code == 0, made.err
    pages = len(list((coffeehouse / "handbook").glob("*.md")))
    [line] = made.lines
    assert line["index"] == str(out) and line["sources"] == pages and line["passages"] >= pages
    return out


@dataclass(frozen=True)
class Answered:
    """A row of the demo's manifest, and what `ask` told about it."""

    row: dict
    events: list[dict]

    def event(self, kind: str) -> dict:
        [event] = [event for event in self.events if event["event"] == kind]
        return event


@pytest.fixture(scope="module")
def demo(coffeehouse, index, whisper_dir, llm_dir, tmp_path_factory) -> list[Answered]:
    """The nine recordings of the demo, answered by one command."""
    questions = coffeehouse / "questions"
    rows = [json.loads(line) for line in (questions / "manifest.jsonl").read_text().splitlines()]
    recordings = [questions / row["audio_filepath"] for row in rows]
    out = tmp_path_factory.mktemp("demo") / "answers"
    persona = coffeehouse / "persona.json"
    asked = vivavoce("ask", *recordings, "--knowledge", index, "--persona", persona, "--out", out, "--json")
    assert asked.code == 0, asked.err
    turns: list[list[dict]] = [[]]
    for line in asked.lines:
        turns[-1].append(line)
        if line["event"] == "turn_ended":
            turns.append([])
    assert turns.pop() == []
    return [Answered(row, events) for row, events in zip(rows, turns, strict=True)]


def rows_of(kind: str) -> Callable[[list[Answered]], list[Answered]]:
    return lambda demo: [answered for answered in demo if answered.row["kind"] == kind]


@weights
def test_events_come_in_their_order(demo):
    for answered in demo:
        looked_up = ["retrieved"] if answered.event("decided")["retrieve"] else []
        expected = ["heard", "decided", *looked_up, "said", "spoke", "turn_ended"]
        assert [event["event"] for event in answered.events] == expected


@weights
def test_events_have_the_agreed_keys(demo):
    keys = {
        "heard": {"event", "hypotheses", "no_speech_prob", "language"},
        "decided": {"event", "retrieve", "probability", "gate"},
        "retrieved": {"event", "passages"},
        "said": {"event", "text"},
        "spoke": {"event", "path", "seconds"},
        "turn_ended": {"event", "timings"},
    }
    for answered in demo:
        for event in answered.events:
            assert keys[event["event"]] <= set(event)
        heard = answered.event("heard")
        assert 1 <= len(heard["hypotheses"]) <= 5 and heard["language"] == "en"
        assert all(set(one) == {"text", "log_prob", "posterior"} for one in heard["hypotheses"])
        assert sum(one["posterior"] for one in heard["hypotheses"]) == pytest.approx(1)
        timings = answered.event("turn_ended")["timings"]
        assert all(name.endswith("_ms") or name == "prefilled_tokens" for name in timings)
        assert 0 < timings["asr_ms"] < timings["first_audio_ms"] <= timings["total_ms"]


@weights
def test_what_was_said_is_heard(demo):
    for answered in demo:
        said = words(answered.row["text"]).split()
        readings = [set(words(one["text"]).split()) for one in answered.event("heard")["hypotheses"]]
        assert max(len(set(said) & reading) for reading in readings) >= 0.8 * len(set(said)), answered.row["text"]


@weights
@pytest.mark.parametrize("kind", ["order", "small talk"])
def test_orders_and_small_talk_look_nothing_up(demo, kind):
    found = rows_of(kind)(demo)
    assert len(found) == {"order": 4, "small talk": 1}[kind]
    for answered in found:
        assert answered.event("decided")["retrieve"] is False, answered.row["text"]
        assert answered.event("said")["sources"] == []
        assert answered.event("said")["text"]


@weights
def test_questions_find_their_page_first(demo):
    found = rows_of("question")(demo)
    assert len(found) == 4
    for answered in found:
        assert answered.event("decided")["retrieve"] is True, answered.row["text"]
        assert answered.event("retrieved")["passages"][0]["source"] == answered.row["page"]
        assert answered.event("said")["sources"][0] == answered.row["page"]


@weights
def test_spoken_answers_hold_the_fact(demo, tmp_path):
    spoken = {answered.event("spoke")["path"]: answered for answered in demo}
    assert [Path(path).name[:3] for path in spoken] == [f"0{n}-" for n in range(1, 10)]
    for path, answered in spoken.items():
        assert Audio.read(path).seconds == pytest.approx(answered.event("spoke")["seconds"], abs=0.01)
    questions = {path: answered for path, answered in spoken.items() if answered.row["kind"] == "question"}
    manifest, out = tmp_path / "answers.jsonl", tmp_path / "heard.jsonl"
    manifest.write_text("".join(json.dumps({"audio_filepath": path}) + "\n" for path in questions))
    again = vivavoce("transcribe", "--manifest", manifest, "--out", out, "--n-best", 1)
    assert (again.code, again.out) == (0, ""), again
    for line in map(json.loads, out.read_text().splitlines()):
        facts = questions[line["audio_filepath"]].row["fact"]
        heard = words(line["hypotheses"][0]["text"])
        assert any(words(fact) in heard for fact in facts), (facts, heard)


# -- hearing --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sounds(coffeehouse, tmp_path_factory) -> Path:
    """A folder of one order in many formats, and of sounds that nobody made."""
    folder = tmp_path_factory.mktemp("sounds")
    order = Audio.read(coffeehouse / "questions" / "1-order-medium-mocha.flac")
    high = order.resampled(44_100).samples
    soundfile.write(folder / "8khz.wav", order.resampled(8_000).samples, 8_000)
    soundfile.write(folder / "stereo-44khz.wav", np.stack([high, high], axis=1), 44_100)
    soundfile.write(folder / "24bit.wav", order.samples, order.rate, subtype="PCM_24")
    soundfile.write(folder / "order.flac", order.samples, order.rate)
    soundfile.write(folder / "order.mp3", high, 44_100)
    soundfile.write(folder / "order.ogg", order.samples, order.rate)
    soundfile.write(folder / "silence.wav", np.zeros(48_000), 16_000)
    noise = 0.1 * np.random.default_rng(0).standard_normal(48_000)
    soundfile.write(folder / "noise.wav", noise.astype(np.float32), 16_000)
    return folder


FORMATS = ["8khz.wav", "stereo-44khz.wav", "24bit.wav", "order.flac", "order.mp3", "order.ogg"]


@weights
def test_every_format_is_heard_and_nothing_in_noise(sounds, whisper_dir):
    files = [sounds / name for name in (*FORMATS, "silence.wav", "noise.wav")]
    heard = vivavoce("transcribe", *files, "--json", "--n-best", 3)
    assert heard.code == 0, heard.err
    assert [line["audio_filepath"] for line in heard.lines] == list(map(str, files))
    for line in heard.lines[: len(FORMATS)]:
        keys = {
            "audio_filepath",
            "hypotheses",
            "entropy",
            "confidence",
            "no_speech_prob",
            "is_speech",
            "language",
            "duration",
        }
        assert set(line) == keys
        assert line["is_speech"] and 1 <= len(line["hypotheses"]) <= 3
        assert all(set(one) == {"text", "log_prob", "posterior", "n_tokens"} for one in line["hypotheses"])
        assert {"medium", "milk"} <= set(words(line["hypotheses"][0]["text"]).split()), line["audio_filepath"]
        assert line["duration"] == pytest.approx(heard.lines[3]["duration"], abs=0.1)
    for line in heard.lines[len(FORMATS) :]:
        assert (line["hypotheses"], line["is_speech"], line["duration"]) == ([], False, 3.0)
        assert line["reason"]


@weights
def test_silence_and_noise_are_answered_without_the_language_model(sounds, whisper_dir, llm_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(TransformersChatModel, "warm", lambda self, messages: None)
    monkeypatch.delattr(TransformersChatModel, "begin")
    files = [sounds / "silence.wav", sounds / "noise.wav"]
    asked = vivavoce("ask", *files, "--out", tmp_path, "--json")
    assert asked.code == 0, asked.err
    assert [line["event"] for line in asked.lines] == ["heard", "said", "spoke", "turn_ended"] * 2
    for heard, said, spoke, _ in (asked.lines[:4], asked.lines[4:]):
        assert heard["hypotheses"] == [] and heard["reason"]
        assert said["text"] == NOTHING_HEARD
        assert Path(spoke["path"]).is_file()


@weights
def test_a_manifest_is_read_relative_to_itself(sounds, whisper_dir, tmp_path):
    manifest = sounds / "manifest.jsonl"
    manifest.write_text('{"audio_filepath": "order.flac", "text": "x"}\n\n{"audio_filepath": "silence.wav"}\n')
    out = tmp_path / "heard.jsonl"
    out.write_text("what was there before\n")
    done = vivavoce("transcribe", "--manifest", manifest, "--out", out, "--model", whisper_dir)
    assert (done.code, done.out) == (0, "")
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["audio_filepath"] for line in lines] == ["order.flac", "silence.wav"]
    assert len(lines[0]["hypotheses"]) > 1 and lines[0]["entropy"] > 0


@weights
def test_people_see_tables(sounds, whisper_dir):
    shown = vivavoce("transcribe", sounds / "order.flac", sounds / "silence.wav")
    assert shown.code == 0
    assert "mocha" in shown.out and "posterior" in shown.out and "nothing was heard" in shown.out


# -- speaking, searching, typing ------------------------------------------------------------------------------------


@weights
def test_what_is_spoken_can_be_heard(whisper_dir, tmp_path):
    out = tmp_path / "said.wav"
    spoken = vivavoce("speak", "We have green tea and carrot cake today.", "--out", out, "--json")
    assert spoken.code == 0, spoken.err
    [line] = spoken.lines
    assert line["path"] == str(out) and line["seconds"] == pytest.approx(Audio.read(out).seconds, abs=0.01)
    [heard] = vivavoce("transcribe", out, "--json").lines
    assert words("green tea and carrot cake today") in words(heard["hypotheses"][0]["text"])


@weights
def test_an_index_is_searched(index):
    found = vivavoce("search", index, "what is the wifi password", "-k", 3, "--json")
    assert found.code == 0, found.err
    [line] = found.lines
    assert line["query"] == "what is the wifi password" and len(line["passages"]) == 3
    assert all(
        set(passage) == {"id", "text", "source", "heading", "page", "score", "metadata"} for passage in line["passages"]
    )
    assert line["passages"][0]["source"] == "wifi.md"
    assert "wifi.md" in vivavoce("search", index, "what is the wifi password").out
    assert vivavoce("search", index, "?!", "--json").lines == [{"query": "?!", "passages": []}]
    [only] = vivavoce("search", index, "wifi password", "--where", '{"source": {"$ne": "wifi.md"}}', "--json").lines
    assert only["passages"] and "wifi.md" not in {passage["source"] for passage in only["passages"]}
    refused(vivavoce("search", index, "wifi", "--where", '{"source": {"$like": 1}}'), "no operator '$like'")
    [told] = vivavoce("search", index, "wifi password", "--instruction", "mentioning loyalty", "--json").lines
    assert told["passages"] and all("oyalty" in str(passage) for passage in told["passages"])
    refused(vivavoce("search", index, "wifi", "--instruction", "only after 1999"), "What can be asked for")
    read_again = vivavoce("search", index, "wifi password", "-k", 1, "--rerank", "likelihood", "--json")
    assert read_again.lines[0]["passages"][0]["source"] == "wifi.md"
    refused(vivavoce("search", index, "wifi", "--rerank", "nobody"), "nobody")
    many = index.parent / "many.jsonl"
    many.write_text('{"_id": "q1", "text": "what is the wifi password"}\n{"_id": "q2", "text": "?!"}\n')
    done = vivavoce("search", index, "--queries", many, "--run", index.parent / "run.trec", "-k", 2, "--json")
    assert [(line["_id"], len(line["passages"])) for line in done.lines] == [("q1", 2), ("q2", 0)]
    assert [line.split()[0] for line in (index.parent / "run.trec").read_text().splitlines()] == ["q1", "q1"]


@weights
def test_typed_turns_are_answered_one_after_the_other(index, llm_dir):
    typed = "What is the wifi password?\nThank you very much!\n\nnever read\n"
    talked = vivavoce("chat", "--knowledge", index, "--json", typed=typed)
    assert talked.code == 0, talked.err
    kinds = [line["event"] for line in talked.lines]
    assert kinds == ["heard", "decided", "retrieved", "said", "turn_ended", "heard", "decided", "said", "turn_ended"]
    assert talked.lines[3]["sources"] == ["wifi.md"]
    assert talked.lines[0]["hypotheses"] == [{"text": "What is the wifi password?", "log_prob": 0.0, "posterior": 1.0}]


# -- the weights ----------------------------------------------------------------------------------------------------


@weights
def test_models_are_listed_and_verified(whisper_dir, llm_dir, minilm_dir):
    listed = {line["name"]: line for line in vivavoce("models", "list", "--json").lines}
    assert {ASR, LLM, EMBEDDING} <= set(listed)
    assert listed[ASR]["path"] == str(whisper_dir) and listed[ASR]["kind"] == "asr" and listed[ASR]["licence"]
    verified = vivavoce("models", "verify", ASR, EMBEDDING)
    assert verified.code == 0
    assert f"{ASR}: good" in verified.err and f"{EMBEDDING}: good" in verified.err


@weights
def test_a_damaged_model_is_found(minilm_dir, tmp_path, monkeypatch):
    folder = tmp_path / "cache" / EMBEDDING
    shutil.copytree(minilm_dir, folder, copy_function=lambda source, target: Path(target).symlink_to(source))
    damaged = folder / "vocab.txt"
    data = bytearray(damaged.read_bytes())
    data[1000] ^= 1
    damaged.unlink()
    damaged.write_bytes(data)
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path / "cache"))
    verified = vivavoce("models", "verify")
    assert verified.code == 1
    assert "vocab.txt does not have the recorded sha256" in verified.err
    assert f"vivavoce models fetch {EMBEDDING}" in verified.err
    damaged.write_bytes(data[:1000])
    assert "vocab.txt has 1000 bytes instead of" in vivavoce("models", "verify").err


def test_where_nothing_is_fetched_there_is_nothing_to_verify(tmp_path, monkeypatch):
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path))
    refused(vivavoce("models", "verify"), "nothing to verify", str(tmp_path), "run `vivavoce models fetch`")


def test_the_doctor_examines(tmp_path, monkeypatch):
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path))
    examined = vivavoce("doctor", "--json")
    assert examined.code == 0, examined.err
    findings = {line["check"]: line for line in examined.lines}
    assert set(findings["python"]) == {"check", "state", "fix"}
    assert findings[LLM] == {"check": LLM, "state": "not fetched", "fix": f"vivavoce models fetch {LLM}"}
    assert "Whisper runs on" in vivavoce("doctor").out


@pytest.fixture
def no_network(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("VIVAVOCE_SOURCE", raising=False)


@pytest.mark.parametrize("verb", ["ask", "chat", "transcribe", "index", "search", "models"])
def test_without_weights_and_network_the_command_is_named(no_network, monkeypatch, coffeehouse, tmp_path, verb):
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path / "cache"))
    out, recording = tmp_path / "out", coffeehouse / "questions" / "9-small-talk.flac"
    arguments = {
        "ask": (recording,),
        "chat": (),
        "transcribe": (recording, "--out", out),
        "index": (coffeehouse / "handbook", "--out", out),
        "search": (coffeehouse / "handbook", "wifi"),
        "models": ("fetch", EMBEDDING),
    }[verb]
    name = {"ask": ASR, "transcribe": ASR, "chat": LLM}.get(verb, EMBEDDING)
    refused(vivavoce(verb, *arguments), f"{name} is not in", f"run `vivavoce models fetch {name}`")
    assert not out.exists()
    left = [path for path in everything_in(tmp_path / "cache") if not path.startswith("partial")]
    assert left == [], "no half of a model is left"


@pytest.mark.parametrize("verb", ["ask", "models"])
def test_a_cache_that_cannot_be_written(monkeypatch, no_network, tmp_path, verb):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path / "file" / "cache"))
    result = vivavoce(*(("ask", "hello") if verb == "ask" else ("models", "fetch", EMBEDDING)))
    refused(result, "Cannot write to", "set VIVAVOCE_CACHE to a folder you can write")


@pytest.mark.parametrize("home", ["file", "file/home"])
def test_a_home_that_cannot_be_written(monkeypatch, tmp_path, home):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("VIVAVOCE_HOME", str(tmp_path / home))
    refused(vivavoce("ask", "hello", "--thread", "a"), "Cannot write conversations", "set VIVAVOCE_HOME to a folder")


# -- bad input ------------------------------------------------------------------------------------------------------


def bad_recording(folder: Path, what: str) -> Path:
    path = folder / f"{what.replace(' ', '-')}.wav"
    match what:
        case "text":
            path.write_text("This is a shopping list: milk, oats, sugar.\n" * 50)
        case "empty":
            path.touch()
        case "no samples":
            soundfile.write(path, np.zeros(0), 16_000)
        case "truncated":
            soundfile.write(path, np.zeros(16_000), 16_000)
            path.write_bytes(path.read_bytes()[:20])
    return path


BAD = {
    "missing": "No such file",
    "text": "is not audio that can be read; give WAV, FLAC, OGG or MP3",
    "empty": "is an empty file; record it again",
    "no samples": "has no samples; record it again",
    "truncated": "is not audio that can be read",
}


@pytest.mark.parametrize(("what", "said"), BAD.items())
def test_a_recording_that_is_none_cannot_be_asked(tmp_path, what, said):
    path = bad_recording(tmp_path, what)
    before = everything_in(tmp_path)
    refused(vivavoce("ask", path, "--out", tmp_path / "answers"), path.name, said)
    assert everything_in(tmp_path) == before, "nothing was written, not even a folder"


@weights
@pytest.mark.parametrize(("what", "said"), BAD.items())
def test_a_recording_that_is_none_cannot_be_transcribed(sounds, whisper_dir, tmp_path, what, said):
    path = bad_recording(tmp_path, what)
    out = tmp_path / "heard.jsonl"
    out.write_text("what was there before\n")
    before = everything_in(tmp_path)
    refused(vivavoce("transcribe", sounds / "order.flac", path, "--out", out), path.name, said)
    assert everything_in(tmp_path) == before and out.read_text() == "what was there before\n"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (None, "No such file or directory"),
        ("\n", "has no rows: write one JSON object a line"),
        ("no json", "line 1"),
        ('{"audio_filepath": "a.wav"}\n{"file": "b.wav"}', 'line 2: there is no "audio_filepath"; it has file'),
        ("[1, 2]", "line 1"),
        ('{"audio_filepath": "nowhere.wav"}', "there is no recording"),
    ],
)
def test_a_manifest_that_is_none(tmp_path, rows, said):
    if rows is not None:
        (tmp_path / "manifest.jsonl").write_text(rows)
    before = everything_in(tmp_path)
    done = vivavoce("transcribe", "--manifest", tmp_path / "manifest.jsonl", "--out", tmp_path / "heard.jsonl")
    refused(done, "manifest.jsonl", said)
    assert everything_in(tmp_path) == before


@weights
def test_a_handbook_that_is_empty(minilm_dir, tmp_path):
    folder, out = tmp_path / "handbook", tmp_path / "index"
    folder.mkdir()
    refused(vivavoce("index", folder, "--out", out), "holds no readable document", "*.md", "*.txt")
    refused(vivavoce("ask", "hello", "--knowledge", folder, "--no-speech"), "holds no readable document")
    refused(vivavoce("index", tmp_path / "nowhere", "--out", out), "nowhere does not exist", "give a folder")
    assert everything_in(tmp_path) == ["handbook"]


@weights
def test_a_handbook_with_a_binary_file_in_it(minilm_dir, tmp_path, caplog):
    folder, out = tmp_path / "handbook", tmp_path / "index"
    folder.mkdir()
    (folder / "wifi.md").write_text("# Wifi\n\nThe wifi password is roasted-bean-42.")
    (folder / "menu.md").write_bytes(bytes(range(256)) * 10)
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    made = vivavoce("index", folder, "--out", out, "--json")
    assert made.code == 0, made.err
    [line] = made.lines
    assert (line["passages"], line["sources"], line["added"]) == (1, 1, 1)
    assert "skipped menu.md: binary, not text" in caplog.text and "skipped photo.jpg" in caplog.text
    assert vivavoce("search", out, "password", "--json").lines[0]["passages"][0]["source"] == "wifi.md"


@weights
def test_an_index_is_kept_up_to_date(minilm_dir, tmp_path):
    folder, out = tmp_path / "handbook", tmp_path / "index"
    folder.mkdir()
    (folder / "wifi.md").write_text("---\nyear: 2020\n---\n# Wifi\n\nThe wifi password is roasted-bean-42.")
    (folder / "tea.md").write_text("# Tea\n\nTea costs two dollars.")

    def run(*args):
        done = vivavoce("index", *args, "--json")
        assert done.code == 0, done.err
        return done.lines[0]

    assert run(folder, "--out", out)["added"] == 2
    (folder / "tea.md").write_text("# Tea\n\nTea costs three dollars.")
    (folder / "wifi.md").unlink()
    assert run("add", folder, "--out", out) == {
        "index": str(out), "passages": 2, "sources": 2, "added": 0, "updated": 1, "unchanged": 0, "removed": 0
    }  # fmt: skip
    assert "three" in vivavoce("search", out, "price of tea", "--json").lines[0]["passages"][0]["text"]
    told = run("stats", out)
    assert (told["documents"], told["removed"], told["sources"]) == (2, 1, ["tea.md", "wifi.md"])
    assert run("verify", out)["problems"] == []
    assert run("delete", out, "--where", '{"year": 2020}') == {
        "index": str(out), "removed": 1, "passages": 1, "sources": 1
    }  # fmt: skip
    (folder / "milk.md").write_text("# Milk\n\nOat milk is free.")
    (folder / "tea.md").unlink()
    line = run("update", folder, "--out", out)
    assert (line["added"], line["removed"], line["sources"]) == (1, 1, 1)
    assert run("compact", out)["bytes"] <= told["bytes"] and run("stats", out)["removed"] == 0
    refused(vivavoce("index", "delete", out, "--source", "tea.md"), "holds no tea.md", "index stats")
    refused(vivavoce("index", "stats", folder), "There is no index")
    (out / "notes.txt").write_text("mine")
    assert vivavoce("index", "verify", out).code == 1
    wrong = vivavoce("index", "delete", out)
    assert wrong.code == 2 and "--source" in wrong.err


@weights
def test_an_index_that_is_damaged_is_built_again(minilm_dir, tmp_path):
    folder, out = tmp_path / "handbook", tmp_path / "index"
    folder.mkdir()
    (folder / "tea.md").write_text("# Tea\n\nTea costs two dollars.")
    assert vivavoce("index", folder, "--out", out).code == 0
    [vectors] = out.glob("generation-*/vectors.f32")
    vectors.write_bytes(vectors.read_bytes()[:-4])
    assert "is truncated" in vivavoce("index", "verify", out, "--json").lines[0]["problems"][0]
    refused(vivavoce("index", "add", folder, "--out", out), "is truncated")
    done = vivavoce("index", folder, "--out", out, "--json")
    assert done.lines[0]["added"] == 1 and "built again" in " ".join(done.err.split())
    assert vivavoce("search", out, "tea", "--json").lines[0]["passages"][0]["source"] == "tea.md"


@weights
def test_an_index_that_another_embedder_made(minilm_dir, coffeehouse, tmp_path):
    other = tmp_path / "index"
    with LocalKnowledge.from_folder(coffeehouse / "handbook", HashEmbedder(384)) as knowledge:
        knowledge.save(other)
    before = everything_in(tmp_path)
    refused(vivavoce("search", other, "wifi"), "made by another embedder ('hash'", f"vivavoce index DIR --out {other}")
    assert everything_in(tmp_path) == before


@weights
@pytest.mark.parametrize("damage", ["vectors", "passages", "manifest", "missing"])
def test_an_index_that_is_truncated(index, tmp_path, damage):
    broken = tmp_path / "index"
    shutil.copytree(index, broken)
    [generation] = broken.glob("generation-*")
    file = {"vectors": generation / "vectors.f32", "manifest": broken / "manifest.json"}.get(damage)
    file = file or generation / "passages.sqlite"
    data = file.read_bytes()
    file.unlink() if damage == "missing" else file.write_bytes(data[: len(data) // 2])
    problem = {"manifest": "is damaged", "missing": "is missing"}.get(damage, "is truncated")
    refused(vivavoce("search", broken, "wifi"), f"{file} {problem}", f"vivavoce index DIR --out {broken}")


@weights
def test_an_index_goes_into_a_folder_of_its_own(minilm_dir, index, coffeehouse, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    refused(vivavoce("index", coffeehouse / "handbook", "--out", tmp_path), "holds other files", "new or empty folder")
    refused(vivavoce("index", coffeehouse / "handbook", "--out", tmp_path / "notes.txt"), "is a file")
    refused(vivavoce("index", index, "--out", tmp_path / "again"), "is an index already")
    assert everything_in(tmp_path) == ["notes.txt"] and (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("content", ["{}", "no json", None])
def test_a_persona_that_is_none(tmp_path, content):
    path = tmp_path / "persona.json"
    if content is not None:
        path.write_text(content)
    refused(vivavoce("ask", "hello", "--persona", path), "persona.json is no persona", '"instructions"')


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("...", "--out", "x.wav"), "nothing in '...' that can be spoken"),
        (("hello", "--out", "x.txt"), "end the name in .wav"),
        (("hello", "--out", "nowhere/x.wav"), "cannot write nowhere/x.wav"),
        (("hello", "--out", "x.wav", "--voice", "nobody"), "no voice 'nobody'; choose one of"),
    ],
)
def test_what_cannot_be_spoken(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    refused(vivavoce("speak", *arguments), said)
    assert everything_in(tmp_path) == []


def test_answers_go_into_a_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(vivavoce("ask", "hello", "--out", tmp_path / "file" / "answers"), "Cannot write answers", "--out")


@weights
def test_cuda_where_there_is_none(llm_dir, whisper_dir, coffeehouse):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    refused(vivavoce("chat", "--device", "cuda"), "no CUDA device", "auto or cpu")
    recording = coffeehouse / "questions" / "9-small-talk.flac"
    refused(vivavoce("transcribe", recording, "--device", "cuda"), "CUDA", "'auto' or 'cpu'")


def test_a_model_that_nobody_knows(coffeehouse):
    recording = coffeehouse / "questions" / "9-small-talk.flac"
    refused(vivavoce("transcribe", recording, "--model", "whisper-bas"), "Did you mean 'whisper-base'?")
    refused(vivavoce("models", "verify", "gpt-9"), "no model or folder 'gpt-9'", "Known models")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("sing",),
        ("ask",),
        ("ask", ""),
        ("ask", "hello", "--device", "tpu"),
        ("ask", "hello", "--n-best", "0"),
        ("ask", "hello", "--louder"),
        ("calibrate",),
        ("transcribe",),
        ("index", "."),
        ("search", "."),
        ("search", ".", "x", "-k", "0"),
        ("search", ".", "x", "--queries", "q.jsonl"),
        ("search", ".", "x", "--run", "r.trec"),
        ("search", ".", "x", "--where", "year > 2020"),
        ("search", ".", "x", "--where", "[1]"),
        ("speak",),
        ("models",),
        ("models", "sing"),
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments):
    result = vivavoce(*arguments)
    assert result.code == 2, result
    assert "Traceback" not in result.err + result.out


def test_help_is_there():
    helped = vivavoce("--help")
    assert helped.code == 0
    for verb in ("ask", "chat", "index", "search", "transcribe", "speak", "models", "doctor", "eval", "train"):
        assert verb in helped.out
        assert vivavoce(verb, "--help").code == 0
