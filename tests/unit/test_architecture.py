"""The house is what CONTRIBUTING.md says it is; read from the source, so that no model library is imported."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import importlib.util
import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[2]
FOLDERS = ("agent", "memory", "retrieval", "speech")
MODULES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
PACKAGES = sorted({path.parent for path in MODULES})
HEAVY = {
    *(
        "bs4",
        "chromadb",
        "ctranslate2",
        "faiss",
        "faster_whisper",
        "gguf",
        "hibari",
        "huggingface_hub",
        "mammoth",
        "markdownify",
        "onnxruntime",
        "openai",
        "pypdf",
        "safetensors",
    ),
    *("sentence_transformers", "silero_vad", "sklearn", "soundfile", "soxr", "tokenizers", "torch", "transformers"),
    "whisper_normalizer",
}
PUBLIC = {
    "agent": """
        AgentError AlwaysRetrieve AnswerOptions ChatModel ChooserSkill CommandSkill ConfigError Decided
        Decision DirectedSkill DirectedSpeech EndpointError Event FirstToken Gate Generation GenerationError
        Grammar Heard IntentClassifier IntentSkill KeywordSpotter LanguageScorer LocalModelOptions Message
        ModelUnavailable NeverRetrieve OpenAIChatModel Outcome Parts Persona ReadOut Retrieved Said Saying
        Skill SlotFiller Speaking Spoke TokenGate TransformersChatModel Turn TurnCancelled TurnEnded
        Understood VoiceAgent WakePhrase WakeSkill open_chooser open_knowledge open_recognizer
    """,
    "memory": "Episode Record RecordBusy RecordCorrupt RecordError SQLiteRecord",
    "retrieval": """
        CenteringEmbedder Changes Chunk ChunkOptions Collection CrossEncoderReranker DeviceUnavailable
        DialogueOptions DialogueSearch DimensionMismatch Document Embedder EmbedderMismatch EmbeddingError Entry
        Facet Heading Hits IndexCorrupt IndexNotFound InstructionNotUnderstood KnowledgeBase LLMEmbedder
        LikelihoodReranker ListwiseReranker LoadedFolder LoadingError LocalKnowledge Manifest Mention NameFinder
        Passage PlainKnowledge Query QueryKnowledge RerankedKnowledge Reranker RetrievalError SearchOptions
        SentenceTransformerEmbedder SkippedFile Store StoreError StoreStats VectorIndex Where as_query_knowledge
        chunk_document is_index load_file load_folder
        read_instruction read_manifest reciprocal_rank_fusion weighted_sum
    """,
    "speech": """
        Audio AudioError BayesChooser CTCRecognizer Calibration Choice Chooser ConfusionNetwork Draft
        EndpointOptions Endpointing FRAME Final FirstChooser FullTextCorrector HibariSynthesizer Hypothesis
        LanguageChooser ModelError OpenAIWhisperRecognizer Partial Recognizer RoverChooser SPEECH_RATE Segment
        Segmenter SentenceScorer SileroDetector SpeechEnded SpeechError SpeechEvent SpeechStarted
        StreamingRecognizer SynthesisError Synthesizer Transcript TransformersWhisperRecognizer VadOptions
        VoiceDetector WavSink WhisperOptions WhisperRecognizer Word distinct frames normalizer sentences
        speakable speech_segments varied
    """,
}

each_folder = pytest.mark.parametrize("folder", FOLDERS)
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(child):
            continue
        yield child
        yield from at_import(child)


def imported(nodes: Iterator[ast.AST]) -> Iterator[tuple[int, str]]:
    """Level and dotted name of what is imported; `from x import y` counts as `x.y`, since y may be a module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, f"{node.module or ''}.{alias.name}".lstrip(".")) for alias in node.names)


def dotted(path: Path) -> tuple[str, ...]:
    """Names from the folder down to the module; a package is its own `__init__`."""
    return path.relative_to(ROOT).with_suffix("").parts


NAMES = {dotted(path) for path in MODULES}


def targets(path: Path, nodes: Iterator[ast.AST]) -> Iterator[tuple[str, ...]]:
    """The modules of its folder that a module imports."""
    package = dotted(path)[:-1]
    for level, name in imported(nodes):
        if level == 0:
            continue
        base = (*package[: len(package) - level + 1], *name.split("."))
        for there in (base, (*base, "__init__"), base[:-1], (*base[:-1], "__init__")):
            if there in NAMES:
                yield there
                break


@each_module
def test_arrows(path):
    folder = dotted(path)[0]
    allowed = set(FOLDERS) - {folder} if folder == "agent" else set()
    for level, name in imported(ast.walk(tree(path))):
        assert level < len(dotted(path)), f"{path.name} climbs out of its folder: import another one as vivavoce.…"
        if level == 0 and name.split(".")[0] == "vivavoce":
            assert name.split(".")[1] in allowed, f"{folder} must not import {name}"


@each_folder
def test_no_circles(folder):
    modules = [path for path in MODULES if dotted(path)[0] == folder]
    graph = {dotted(path): set(targets(path, at_import(tree(path)))) for path in modules}
    assert any(graph.values()), "relative imports are seen"
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def picture() -> dict[str, dict[str, list[str]]]:
    """The house of CONTRIBUTING.md: for every folder its floors, from above, and the modules of each."""
    block = re.search(r"^```text\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M | re.S)
    assert block, "CONTRIBUTING.md shows the house in a ```text block"
    house: dict[str, dict[str, list[str]]] = {}
    floors: dict[str, list[str]] = {}
    for line in block[1].splitlines():
        indent, words = len(line) - len(line.lstrip()), line.split()
        if indent == 0:
            floors = house[words[0].rstrip("/")] = {}
        elif indent == 2:
            floors[words[0].rstrip("/")] = words[1:]
        else:
            floors[[*floors][-1]] += words
    return house


@each_folder
def test_the_picture_is_the_disk(folder):
    drawn = picture()[folder]
    there = {name for name in (path.stem for path in (ROOT / folder).glob("*.py")) if not name.startswith("__")}
    inside = {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
    assert set(drawn) == there | inside
    for floor in inside:
        modules = sorted(path.stem for path in (ROOT / folder / floor).glob("*.py") if path.stem != "__init__")
        assert drawn[floor] == modules, f"CONTRIBUTING.md draws other modules in {folder}/{floor}"


@each_folder
def test_floors_stand_on_lower_ones(folder):
    height = {floor: -number for number, floor in enumerate(picture()[folder])}
    for path in (path for path in MODULES if dotted(path)[0] == folder and not path.stem.startswith("__")):
        own = dotted(path)[1]
        # Imports inside functions count too: a floor is what can be understood without those above it.
        for there in targets(path, ast.walk(tree(path))):
            assert there[1] != "__init__", f"{path}: import from the module, not from the folder's public names"
            assert there[1] == own or height[there[1]] < height[own], f"{path} imports from above: {'.'.join(there)}"


@each_package
def test_a_folder_is_taken_in_at_a_glance(package):
    modules = [path.stem for path in package.glob("*.py") if not path.stem.startswith("__")]
    assert len(modules) <= (8 if package == ROOT / "agent" else 15), "group them"


@each_module
def test_a_module_is_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600, "split it"


@each_module
def test_importing_is_cheap(path):
    tops = {name.split(".")[0] for level, name in imported(at_import(tree(path))) if level == 0}
    assert not tops & HEAVY, "import it in the function that needs it"


@each_module
def test_no_print(path):
    calls = (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
    assert [node.lineno for node in calls if node.func.id == "print"] == []


@each_module
def test_every_module_says_what_it_is_for(path):
    assert ast.get_docstring(tree(path))
    assert path.stem not in {"utils", "util", "common", "core", "helpers", "misc"}, "a type lives with its owner"


@each_folder
def test_public_names(folder):
    package = importlib.import_module(f"vivavoce.{folder}")
    # Constants, classes, functions: the order of ruff's RUF022.
    pinned = sorted(PUBLIC[folder].split(), key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert package.__all__ == pinned, "a change of the public names is a change of this list"
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    assert (ROOT / folder / "py.typed").is_file()


def test_vivavoce_is_a_namespace():
    spec = importlib.util.find_spec("vivavoce")
    assert spec is not None and spec.origin is None, "no __init__.py belongs there: it would shadow the other folders"
    assert not (ROOT / "__init__.py").exists() and not (ROOT / "vivavoce").exists()
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["package-dir"] == {f"vivavoce.{folder}": folder for folder in FOLDERS}
    there = {"vivavoce." + ".".join(package.relative_to(ROOT).parts) for package in PACKAGES}
    assert set(setuptools["packages"]) == there and len(setuptools["packages"]) == len(there)
    assert all((package / "__init__.py").is_file() for package in PACKAGES)


def test_readme_tree_is_the_disk():
    block = re.search(r"^```text\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert block, "the README shows the tree in a ```text block"
    told, folder = set(), ""
    for line in block[1].splitlines():
        indent, name, words = re.fullmatch(r"( *)(\S+) +(.+)", line).groups()
        assert 2 <= len(words.split()) <= 5, f"{name} is described by five words at most, not: {words}"
        folder = folder if indent else name
        told.add(folder + name if indent else name)
    there = {"notebooks/"}
    for name in (*FOLDERS, "examples", "tests"):
        there.add(f"{name}/")
        inside = (path for path in (ROOT / name).iterdir() if path.is_dir() and path.name != "__pycache__")
        there |= {f"{name}/{path.name}/" for path in inside if any(file.is_file() for file in path.rglob("*"))}
    assert told == there


def verbs(typer_app) -> set[str]:
    """The names that a typer app answers to, first words only."""
    commands = {info.name or info.callback.__name__.replace("_", "-") for info in typer_app.registered_commands}
    return commands | {info.name for info in typer_app.registered_groups}


def test_readme_lists_the_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    app = importlib.import_module("vivavoce.agent.cli.app").app
    assert sorted(re.findall(r"^\| `vivavoce (\w+)", readme, re.M)) == sorted(verbs(app))
    groups = {info.name: info.typer_instance for info in app.registered_groups}
    for name in ("eval", "train"):
        [row] = re.findall(rf"^\| `vivavoce {name} VERB` \| [^:|]+: (.+) \|$", readme, re.M)
        assert sorted(re.findall(r"`([\w-]+)`", row)) == sorted(verbs(groups[name]))


@pytest.mark.parametrize("path", sorted((ROOT / "agent" / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_no_function_of_the_command_line_has_over_eight_parameters(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert len(taken) <= 8, f"{node.name}: group options in a dataclass, see agent/cli/options.py"


def test_everybody_runs_the_same_six_names():
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert phony and phony[1].split() == ["install", "format", "check", "test", "bench", "demo"]
    told = re.findall(r"^make (\w+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    assert told == phony[1].split()


def test_notebooks_are_stripped():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs") and not cell.get("execution_count"), f"{path.name}: clear all outputs"


@pytest.mark.skipif("HYPOTHESIS_PROFILE" in os.environ, reason="another profile was asked for")
def test_hypothesis_draws_the_same_examples_in_every_run():
    assert settings.default is not None and settings.default.derandomize and settings.default.deadline is None
