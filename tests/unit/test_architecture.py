"""The house is what CONTRIBUTING.md says it is; read from the source, so that no model library is imported."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("agent", "memory", "retrieval", "speech")
MODULES = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
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
        AgentError AlwaysRetrieve AnswerOptions ChatModel ConfigError Decided Decision DirectedSpeech
        EndpointError Event FirstToken Gate Generation GenerationError Grammar Heard IntentClassifier
        KeywordSpotter LanguageScorer LocalModelOptions Message ModelUnavailable NeverRetrieve OpenAIChatModel
        Parts Persona ReadOut Retrieved Said Saying SlotFiller Speaking Spoke TokenGate TransformersChatModel
        Turn TurnCancelled TurnEnded VoiceAgent WakePhrase open_chooser open_knowledge open_recognizer
    """,
    "memory": "Episode Record RecordBusy RecordCorrupt RecordError SQLiteRecord",
    "retrieval": """
        CenteringEmbedder Changes Chunk ChunkOptions Collection CrossEncoderReranker DeviceUnavailable
        DialogueOptions DialogueSearch DimensionMismatch Document Embedder EmbedderMismatch EmbeddingError Entry
        Facet Heading Hits IndexCorrupt IndexNotFound InstructionNotUnderstood KnowledgeBase LLMEmbedder
        LikelihoodReranker ListwiseReranker LoadedFolder LoadingError LocalKnowledge Manifest Mention NameFinder
        Passage RerankedKnowledge Reranker RetrievalError SearchOptions SentenceTransformerEmbedder SkippedFile
        Store StoreError StoreStats VectorIndex Where chunk_document is_index load_file load_folder
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
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.stem}")


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


@each_module
def test_arrows(path):
    folder = path.parent.name
    allowed = set(FOLDERS) - {folder} if folder == "agent" else set()
    for level, name in imported(ast.walk(tree(path))):
        assert level <= 1, f"{path.name} climbs out of its folder: import another one as vivavoce.…"
        if level == 0 and name.split(".")[0] == "vivavoce":
            assert name.split(".")[1] in allowed, f"{folder} must not import {name}"


@each_folder
def test_no_circles(folder):
    names = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
    graph = {
        name: {
            there.split(".")[0]
            for level, there in imported(at_import(tree(ROOT / folder / f"{name}.py")))
            if level == 1 and there.split(".")[0] in names
        }
        for name in names
    }
    assert any(graph.values()) or folder == "memory", "relative imports are seen"
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


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
    assert sorted(setuptools["packages"]) == [f"vivavoce.{folder}" for folder in FOLDERS]
    assert not any(path.is_dir() and any(path.glob("*.py")) for folder in FOLDERS for path in (ROOT / folder).iterdir())


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
        there |= {f"{name}/"} | {f"{name}/{path.name}" for path in (ROOT / name).glob("*.py")}
        inside = (path for path in (ROOT / name).iterdir() if path.is_dir() and path.name != "__pycache__")
        there |= {f"{name}/{path.name}/" for path in inside if any(file.is_file() for file in path.rglob("*"))}
    assert told == there


def test_readme_lists_the_commands():
    commands = {
        node.name
        for node in tree(ROOT / "agent" / "__main__.py").body
        if isinstance(node, ast.FunctionDef) and "app.command()" in map(ast.unparse, node.decorator_list)
    }
    rows = re.findall(r"^\| `vivavoce (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert sorted(rows) == sorted(commands | {"eval", "index", "models", "train"})


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
