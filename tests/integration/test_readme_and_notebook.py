"""What the README, the examples and the notebook promise is true: all of it is run."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivavoce.retrieval.testing import check_knowledge
from vivavoce.speech import Audio, Hypothesis, Transcript, WhisperRecognizer
from vivavoce.speech.testing import FakeRecognizer, check_recognizer

ROOT = Path(__file__).parents[2]

needs_weights = pytest.mark.usefixtures("whisper_dir", "minilm_dir", "llm_dir")


def run_snippets(markdown: Path) -> dict[str, Any]:
    """Run the Python blocks of a page one after the other, and hold what they print against `print(…)  # comments`."""
    page = markdown.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in re.finditer(r"^```python\n(.*?)^```", page, re.M | re.S):
        above = page[: block.start(1)].count("\n")
        code = compile("\n" * above + block[1], str(markdown), "exec")  # errors name the page's own line
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        for promise in re.findall(r"^ *print\(.*\)  # (.+)$", block[1], re.M):
            assert re.search(re.escape(promise).replace("…", ".*"), printed.getvalue()), f"{promise!r} was not printed"
    return names


@needs_weights
@pytest.mark.weights
def test_readme(tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names = run_snippets(ROOT / "README.md")
    try:
        turn, heard = names["turn"], names["heard"]
        assert turn.decision.retrieve and turn.passages[0].source == "opening-hours.md"
        answer = Audio.read("answer.wav")
        assert answer.seconds == pytest.approx(turn.audio.seconds, abs=0.01)
        assert answer.seconds > 2 and answer.active_rms > 0.01, "somebody can be heard"
        assert 2 <= len(heard.hypotheses) <= 5 and heard.entropy > 0, "the list shows doubt where there is some"
        assert names["said"].sources == ("allergens.md",) and "wheat" in names["said"].text
        assert names["audio"].seconds > 2
        assert Audio.join(names["played"]).seconds > 2, "the stream was answered"
        assert not names["big_agent"].parts.options.quote, "a remote model answers in its own words"
    finally:
        names["agent"].close()
        names["big_agent"].close()


def run_example(name: str, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@needs_weights
@pytest.mark.weights
class TestExamples:
    def test_hello(self, tmp_path, whisper_dir):
        printed = run_example("hello.py", tmp_path)
        assert "wheat" in printed and "allergens.md" in printed
        spoken = Audio.read(tmp_path / "out" / "hello.wav")
        assert spoken.seconds > 2
        assert "wheat" in WhisperRecognizer(whisper_dir).transcribe(spoken).text.lower(), "the fact can be heard"

    def test_custom_knowledge(self, tmp_path):
        looked_up, chatted = run_example("custom_knowledge.py", tmp_path).splitlines()
        assert looked_up.endswith("We have 4 cinnamon rolls left. counter")
        assert not chatted.endswith("counter"), "thanks need no look-up"

    def test_chroma(self, tmp_path):
        roll, scone, answer = run_example("chroma.py", tmp_path).splitlines()
        assert roll.endswith("brown butter.") and float(roll.split()[0]) >= float(scone.split()[0])
        assert "mocha" not in roll + scone, "the filter holds"
        assert answer == "The mocha is made with dark chocolate from Ghana. bar"
        assert run_example("chroma.py", tmp_path).endswith(answer + "\n"), "the collection is there already"

    def test_knowledge_from_pdf(self, tmp_path):
        printed = run_example("knowledge_from_pdf.py", tmp_path)
        assert "Cleaning > Every month\n  espresso-machine.pdf, page 2: " in printed
        assert "When something is wrong > No steam\n  espresso-machine.pdf, page 3: " in printed
        assert "call the workshop at extension 17" in printed, "a word that was broken at the end of a line is whole"

    def test_swap_recognizer(self, tmp_path):
        lines = run_example("swap_recognizer.py", tmp_path).splitlines()
        posteriors = [float(line.split()[0]) for line in lines]
        assert len(lines) >= 2 and sum(posteriors) == pytest.approx(1, abs=0.05)
        assert posteriors == sorted(posteriors, reverse=True)
        assert "mocha" in lines[0]


def test_the_custom_knowledge_keeps_the_contract():
    check_knowledge(runpy.run_path(str(ROOT / "examples" / "custom_knowledge.py"))["Counter"](), "A cinnamon roll?")


def test_the_swapped_recogniser_keeps_the_contract_and_thinks_twice_in_doubt():
    second_thoughts = runpy.run_path(str(ROOT / "examples" / "swap_recognizer.py"))["SecondThoughts"]
    sure = Transcript((Hypothesis("a mocha", -0.1, 3), Hypothesis("a moka", -6.0, 3)), "en", 0.0, 1.0)
    torn = Transcript((Hypothesis("a moga", -1.0, 3), Hypothesis("a mocha", -1.1, 3)), "en", 0.0, 1.0)
    noise = Audio(np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32), 16_000)
    for first, expected in ((sure, "a mocha"), (torn, "careful")):
        recognizer = second_thoughts(FakeRecognizer([first]), FakeRecognizer(["careful"]))
        assert recognizer.transcribe(noise).text == expected
        check_recognizer(recognizer, speech=noise)


def run_notebook(path: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Run a notebook top to bottom: what each cell prints, by its id, and everything that it shows."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    printed = {
        cell.id: "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")
        for cell in cells
    }
    return printed, [output.data for cell in cells for output in cell.outputs if "data" in output]


def promised_by_01(printed: dict[str, str], shown: list[dict[str, Any]]) -> None:
    players = [data for data in shown if "<audio" in data.get("text/html", "")]
    assert len(players) == 2, "question and answer can be played"
    everything = "".join(printed.values())
    assert "looks it up" in everything and "wheat" in everything and "allergens.md" in everything
    assert "first_audio_ms" in everything
    assert "5 in the afternoon" in everything, "the typed question is answered too"


def promised_by_02(printed: dict[str, str], shown: list[dict[str, Any]]) -> None:
    assert "confidence" in printed["heard"] and " latte " in printed["heard"]
    times = [float(start) for start in re.findall(r"^ *(\d+\.\d+) to", printed["times"], re.M)]
    assert len(times) > 5 and times == sorted(times), "every word has its time"

    rows = re.findall(r"^\w+(?: dB)? +(\d\.\d\d) +(\d\.\d\d)  ", printed["hiss"], re.M)
    clean, loudest = (tuple(map(float, row)) for row in (rows[0], rows[-1]))
    assert loudest[0] > clean[0] and loudest[1] < clean[1], "noise raises the entropy and lowers the confidence"

    orders = [[int(count) for count in re.findall(r"(\d) of", line)] for line in printed["orders"].splitlines()[1:]]
    assert orders[0] == [5, 5], "without noise every order is right"
    first, whole = map(sum, zip(*orders, strict=True))
    assert whole > first, "the list saves orders"
    first_line, whole_list = printed["saved"].splitlines()[-2:]
    assert first_line.removeprefix("first line:") != whole_list.removeprefix("whole list:")

    drawn = [data["image/svg+xml"] for data in shown if "image/svg+xml" in data]
    assert len(drawn) == 2 and all(svg.count("<path") > svg.count("<circle") for svg in drawn), "the paths split"
    assert re.findall(r"^(\w+) +\d+ of", printed["chosen"], re.M) == ["1best", "rover", "mbr", "lm", "list"]
    *nobody, person = printed["refused"].splitlines()
    assert len(nobody) == 3 and all("refused: " in line for line in nobody)
    assert "practically supreme" in person


def promised_by_03(printed: dict[str, str], shown: list[dict[str, Any]]) -> None:
    def changes(cell: str) -> dict[str, int]:
        return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", printed[cell])}

    pages = changes("handbook")["added"]
    assert pages == len(list((ROOT / "examples/coffeehouse/handbook").glob("*.md")))
    assert "opening-hours.md" in printed["asked"].splitlines()[0]
    assert re.search(r"^score +(\S+) = \1$", printed["passage"], re.M), "the score is the mean that it is said to be"

    first, whole = (part.splitlines()[1] for part in printed["misheard"].split("\n\n")[1:])
    assert "Sunday" not in first and whole.endswith("Opening hours > Sunday"), "the list saves the question"
    marks = re.findall(r"^(right|wrong) (right|wrong) ", printed["recorded"], re.M)
    ones, lists = (column.count("right") for column in zip(*marks, strict=True))
    assert len(marks) == 4 and lists > ones

    assert changes("specials") == {"added": 2, "updated": 0, "unchanged": pages, "removed": 0, "embedded": 2}
    found = [re.search(r"\S+\.md", part)[0] for part in printed["filtered"].split("{'season'")[1:]]
    assert found == ["specials/punch.md", "espresso-drinks.md"] and "specials/cooler.md" in printed["filtered"]
    winter, cheap, refused = re.split(r"nothing from the winter.*|only vegan ones", printed["instructed"])
    assert re.findall(r"\S+\.md", winter) == ["specials/punch.md"]
    assert re.findall(r"\S+\.md", cheap) == ["specials/cooler.md"]
    assert "No metadata here answers to 'vegan'" in refused and "price (4.2 to 5.1)" in refused
    assert changes("updated") == {"added": 0, "updated": 1, "unchanged": pages, "removed": 1, "embedded": 1}
    assert "roasted-bean-42" in printed["reader"], "the other process reads what was there"
    assert "melon-basil-7" in printed["updated"] and "melon-basil-7" in printed["deleted"], "and what is there now"
    assert "1 document deleted" in printed["deleted"] and "problems: []" in printed["deleted"]
    before, after = (list(map(int, at)) for at in re.findall(r"removed=(\d+).*bytes=(\d+)", printed["deleted"]))
    assert before[0] == 3 and after[0] == 0 and after[1] < before[1], "compacting takes away what was removed"

    rows = [line[43:].split() for line in printed["alone"].splitlines()[1:]]
    assert all(alone.count(together) < 3 for *alone, together in rows), "in each row some channel is wrong"
    right = {way: int(count) for way, count in re.findall(r"^(\w+) +(\d+) of", printed["counted"], re.M)}
    assert right.pop("all") > max(right.values()) and len(right) == 3
    assert sum("image/svg+xml" in data for data in shown) == 1


PROMISES = {
    "01_ask_a_recording": promised_by_01,
    "02_what_else_it_may_have_been": promised_by_02,
    "03_your_own_documents": promised_by_03,
}


@needs_weights
@pytest.mark.weights
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook(path):
    PROMISES[path.stem](*run_notebook(path))
