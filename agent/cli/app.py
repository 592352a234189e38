"""The command line: ``vivavoce VERB …``; ``--json`` prints one object per line on stdout, the rest goes to stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, NoReturn

import typer
from rich.logging import RichHandler

from vivavoce.memory import RecordError
from vivavoce.retrieval import LocalKnowledge, Passage, Query, RerankedKnowledge, RetrievalError
from vivavoce.speech import Audio, SpeechError, Transcript

from .. import weights
from ..concurrency import in_thread
from ..errors import AgentError, ConfigError
from ..evaluation.rows import read_clips, watched
from ..weights.registry import ASR, EMBEDDING, LLM
from .console import DeviceOption, Json, NBest, Rerank, device_name, err, out, progress, read_filter, spoken, tell
from .evaluate import eval_app
from .index import index_app
from .screen import Screen, hypotheses_table, passages_table
from .train import train_app

# Typer brings its own click, or takes one that is installed, by its version; this is the base of its errors in both.
_WrongUsage: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="vivavoce",
    help="Voice assistants that know when they misheard and when to look it up.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="The weights: what there is, fetch it, check it.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(eval_app, name="eval")
app.add_typer(train_app, name="train")
app.add_typer(index_app, name="index")

Knowledge = Annotated[Path | None, typer.Option("--knowledge", help="A folder of documents, or an index.")]
Thread = Annotated[str | None, typer.Option("--thread", help="Go on with this conversation; it is kept on disk.")]


def _version(asked: bool) -> None:
    if asked:
        out.print(f"vivavoce {metadata.version('vivavoce')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Voice assistants that know when they misheard and when to look it up."""


@app.command()
def ask(
    questions: Annotated[list[str], typer.Argument(metavar="AUDIO|TEXT…", help="Recordings, or questions in quotes.")],
    knowledge: Knowledge = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder for the spoken answers (WAV).")] = None,
    thread: Thread = None,
    no_speech: Annotated[bool, typer.Option("--no-speech", help="Answer in text only.")] = False,
    persona: Annotated[Path | None, typer.Option(help="JSON file: who the assistant is.")] = None,
    n_best: NBest = 5,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """Answer questions one after the other, each a recording or a text."""
    asked = [_question(question) for question in questions]
    if out_dir is not None:
        _folder(out_dir, "answers", "name with --out")
    listens = any(isinstance(question, Audio) for question in asked)
    with _agent(knowledge, thread, persona, n_best, device, listens=listens, speaks=not no_speech) as agent:
        screen = Screen(out, as_json=as_json)
        for number, (question, name) in enumerate(zip(asked, questions, strict=True), start=1):
            screen.asked(name)
            path = out_dir / f"{number:02d}-{_stem(question, name)}.wav" if out_dir is not None else None
            for event in agent.events(question, thread_id=thread or "default", speak=not no_speech):
                screen.show(event, spoken_to=path)


@app.command()
def chat(
    text: Annotated[bool, typer.Option("--text", help="Type instead of speaking.")] = False,
    knowledge: Knowledge = None,
    thread: Thread = None,
    persona: Annotated[Path | None, typer.Option(help="JSON file: who the assistant is.")] = None,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """Talk with the assistant; an empty line or Ctrl-D ends it."""
    if not text:
        raise typer.BadParameter("Only `chat --text` is there so far; `ask AUDIO` answers recordings.")
    with _agent(knowledge, thread, persona, 5, device, listens=False, speaks=False) as agent:
        screen = Screen(out, as_json=as_json)
        while line := _typed(sys.stdin.isatty()):
            for event in agent.events(line, thread_id=thread or "default", speak=False):
                screen.show(event)


@app.command()
def search(
    index_dir: Annotated[Path, typer.Argument(metavar="INDEX", help="An index, or a folder of documents.")],
    query: Annotated[str | None, typer.Argument(help="What to look for, in plain words.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 5,
    where: Annotated[str, typer.Option(help='Filter, as JSON: {"year": {"$gt": 2020}}; source and title too.')] = "",
    instruction: Annotated[str, typer.Option(help="The same in words: only after 2020, nothing from Bath.")] = "",
    rerank: Rerank = "",
    queries: Annotated[Path | None, typer.Option(help="Many questions instead: {_id, text}, one a line.")] = None,
    run_file: Annotated[Path | None, typer.Option("--run", help="With --queries: rankings in TREC's form.")] = None,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """Search an index."""
    from ..evaluation.beir import Question, read_questions, write_run
    from ..opening import open_knowledge, open_reranker

    if (query is None) == (queries is None):
        raise typer.BadParameter("say what to look for, or name a file with --queries; one of both.")
    if run_file is not None and queries is None:
        raise typer.BadParameter("--run goes with --queries.")
    only, where_to = read_filter(where), device_name(device)
    asked = [Question("", (query,), {})] if query is not None else read_questions(queries or Path())
    with progress() as advance:
        weights.resolve(EMBEDDING, progress=advance)

        def look() -> list[tuple[Question, tuple[Passage, ...]]]:
            with open_knowledge(index_dir, device=where_to) as knowledge:
                base: LocalKnowledge | RerankedKnowledge = knowledge
                if rerank:
                    base = RerankedKnowledge(knowledge, open_reranker(rerank, device=where_to, progress=advance))
                return [
                    (one, base.search_query(Query.of(one.texts, where=only, instruction=instruction), k))
                    for one in watched(asked, advance, "searching")
                ]

        found = in_thread(look)
    if run_file is not None:
        write_run(run_file, {one.id: [(p.id, p.score) for p in passages] for one, passages in found}, "vivavoce")
    for one, passages in found:
        if as_json:
            listed = [
                {
                    "id": p.id,
                    "text": p.text,
                    "source": p.source,
                    "heading": p.heading,
                    "page": p.page,
                    "score": p.score,
                    "metadata": dict(p.metadata),
                }
                for p in passages
            ]
            tell({**({"_id": one.id} if queries else {}), "query": one.texts[0], "passages": listed}, as_json)
        else:
            if queries is not None:
                out.print(one.texts[0], style="bold")
            out.print(passages_table(passages) if passages else "Nothing was found.")


@app.command()
def transcribe(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE…", help="Recordings.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="NeMo manifest (JSON lines with audio_filepath).")] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="JSON lines instead of the screen.")] = None,
    n_best: NBest = 5,
    model: Annotated[str | None, typer.Option(help="What the engine runs: a name, or a folder.")] = None,
    engine: Annotated[
        str, typer.Option(help="ctranslate2, openai, transformers, ctc, or package.module:Class.")
    ] = "ctranslate2",
    language: Annotated[str, typer.Option(help="What is spoken, as a code such as en; auto detects it.")] = "auto",
    hotwords: Annotated[str, typer.Option(help="Words that are likely to be said, with commas between them.")] = "",
    stream: Annotated[bool, typer.Option("--stream", help="While it is said; the microphone if no file.")] = False,
    realtime: Annotated[bool, typer.Option("--realtime", help="With --stream: play a file as it was said.")] = False,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """Write down what was said, as an N-best list."""
    from vivavoce.speech.sound.audio import atomic_file

    from ..opening import open_recognizer
    from .listen import transcribe_live

    where, likely = device_name(device), [word.strip() for word in hotwords.split(",") if word.strip()]
    if stream:
        with progress() as advance:
            recognizer = in_thread(
                lambda: open_recognizer(engine, model, device=where, language=spoken(language), progress=advance)
            )
        sources: list[Path | None] = [*(files or [])] or [None]
        for source in sources:
            transcribe_live(source, recognizer, out, n_best=n_best, realtime=realtime, as_json=as_json)
        return
    clips = [] if manifest is None else read_clips(manifest)
    named = [(str(file), file) for file in files or []] + [(clip.name, clip.path) for clip in clips]
    if not named:
        raise typer.BadParameter("Name a recording, or a --manifest.")
    with progress() as advance:
        recognizer = in_thread(
            lambda: open_recognizer(engine, model, device=where, language=spoken(language), progress=advance)
        )
        lines = (
            {"audio_filepath": name, **_transcript_json(_transcribed(recognizer, path, n_best, likely, advance))}
            for name, path in named
        )
        if out_file is not None:
            with atomic_file(out_file) as file:
                for line in lines:
                    file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
            return
        for line in lines:
            tell(line, as_json, hypotheses_table(line, title=line["audio_filepath"]))


@app.command()
def speak(
    text: Annotated[str, typer.Argument(help="What to say.")],
    out_file: Annotated[Path, typer.Option("--out", help="WAV file to write.")],
    voice: Annotated[str, typer.Option(help="Name of a built-in voice.")] = "heart",
    as_json: Json = False,
) -> None:
    """Say something into a WAV file."""
    from vivavoce.speech import HibariSynthesizer

    pieces = list(HibariSynthesizer(voice).speak(text))
    if not pieces:
        raise ConfigError(f"There is nothing in {text!r} that can be spoken: give a sentence", stage="config")
    audio = Audio.join(pieces)
    audio.write(out_file)
    tell({"path": str(out_file), "seconds": round(audio.seconds, 3)}, as_json, f"{out_file} ({audio.seconds:.1f} s)")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, which weights are here, and what would run where."""
    from .doctor import examine

    for finding in examine():
        tell(finding.as_json(), as_json, finding.as_text())


@app.command()
def calibrate(
    data: Annotated[
        list[Path], typer.Option(help="Turns {history, turn, needs_retrieval}; JSON lines, gzipped or not.")
    ],
    out_file: Annotated[Path, typer.Option("--out", help="Where the read-out goes (JSON).")],
    questions: Annotated[list[Path] | None, typer.Option(help="Questions {text} that all need documents.")] = None,
    requests: Annotated[list[Path] | None, typer.Option(help="Requests {text, intent?} that need none.")] = None,
    model: Annotated[str, typer.Option(help="A name of `models list`, or a folder.")] = LLM,
    layer: Annotated[int | None, typer.Option(help="Which hidden state; two thirds of the depth by default.")] = None,
    limit: Annotated[int | None, typer.Option(min=50, help="At most N turns of each file.")] = None,
    seed: Annotated[int, typer.Option(help="Of shuffles, personas and styles.")] = 0,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """Train and calibrate how P(<RET>) is read from a model, on turns that say whether they needed a look-up."""
    from ..training.readout import train_read_out

    with progress() as advance:
        card = train_read_out(
            data,
            out_file,
            questions=questions or [],
            requests=requests or [],
            model=model,
            layer=layer,
            limit=limit,
            seed=seed,
            device=device_name(device),
            progress=advance,
        )
    tell(card, as_json, json.dumps(card, indent=1))


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """List the models of the registry and whether they are here."""
    here = {model.spec.name: model for model in weights.installed()}
    for spec in weights.REGISTRY.values():
        model = here.get(spec.name)
        path, source = (str(model.path), model.source) if model else (None, None)
        line = {"name": spec.name, "kind": spec.kind, "licence": spec.licence, "path": path, "source": source}
        tell(line, as_json, f"{spec.name:24} {spec.kind:10} {spec.licence:12} {path or 'not fetched'}")


@models_app.command("fetch")
def models_fetch(
    names: Annotated[list[str] | None, typer.Argument(help="All default models if none is named.")] = None,
) -> None:
    """Fetch models into the cache."""
    with progress() as advance:
        for name in names or (ASR, LLM, EMBEDDING):
            err.print(f"{name}: {weights.fetch(name, progress=advance)}")


@models_app.command("verify")
def models_verify(
    names: Annotated[list[str] | None, typer.Argument(help="All fetched models if none is named.")] = None,
) -> None:
    """Check the weights that are here against their checksums; exit code 1 if there are none, or one is broken."""
    here = names or [name for name in weights.REGISTRY if (weights.cache_dir() / name).exists()]
    if not here:
        raise ConfigError(
            f"There is nothing to verify in {weights.cache_dir()}: run `vivavoce models fetch`", stage="models"
        )
    broken = {name: problems for name in here if (problems := weights.verify(name))}
    for name in here:
        err.print(f"{name}: {'; '.join(broken.get(name, ['good']))}")
    if broken:
        raise ConfigError(f"Fetch again: vivavoce models fetch {' '.join(broken)}", stage="models")


def main() -> None:
    """Run a command; errors become one sentence on stderr and an exit code."""
    level = os.environ.get("VIVAVOCE_LOG", "WARNING").upper()
    logging.basicConfig(level=level, format="%(message)s", handlers=[RichHandler(console=err, show_path=False)])
    try:
        code = app(standalone_mode=False)
        if code == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except _WrongUsage as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        err.print("Stopped.")
        _leave(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (AgentError, SpeechError, RetrievalError, RecordError, ImportError, OSError, ValueError) as error:
        logging.getLogger(__name__).debug("traceback", exc_info=True)
        err.print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _leave(code: int) -> NoReturn:
    """Exit at once: threads may be inside native code, which does not survive Python's own way of ending."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def _agent(
    knowledge: Path | None,
    thread: str | None,
    persona: Path | None,
    n_best: int,
    device: str,
    *,
    listens: bool,
    speaks: bool,
) -> Iterator[Any]:
    from ..assistant import VoiceAgent
    from ..model.prompts import Persona
    from ..turn.state import AnswerOptions

    with progress() as advance:
        agent = in_thread(
            lambda: VoiceAgent.load(
                knowledge,
                recognizer=ASR if listens else None,
                synthesizer=speaks,
                home=_home() if thread is not None else None,
                persona=Persona.load(persona) if persona else None,
                options=AnswerOptions(n_best=n_best),
                device=device_name(device),
                progress=advance,
            )
        )
    with agent:
        yield agent


def _home() -> Path:
    from platformdirs import user_data_path

    home = Path(os.environ.get("VIVAVOCE_HOME") or user_data_path("vivavoce")).expanduser()
    _folder(home, "conversations", "set VIVAVOCE_HOME to")
    return home


def _question(text: str) -> Audio | str:
    """A recording if there is such a file, or if it is named like one; else a question in words."""
    if not text.strip():
        raise typer.BadParameter("The question is empty: give a recording or a text.")
    path = Path(text)
    sounds = path.suffix.lower() in {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".m4a"}
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError:  # a question longer than a file name may be
        is_file = is_folder = False
    if is_folder:
        raise typer.BadParameter(f"{text} is a folder: name the recordings in it.")
    if is_file or (sounds and " " not in path.suffix):
        return Audio.read(path, rate=16_000)
    return text


def _stem(question: Audio | str, name: str) -> str:
    if isinstance(question, Audio):
        return Path(name).stem
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split()[:6]) or "answer"


def _folder(path: Path, what: str, fix: str) -> None:
    """Make a folder that can be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(
            f"Cannot write {what} into {path} ({error.strerror}): {fix} a folder that you can write to", stage="config"
        ) from error


def _typed(prompting: bool) -> str:
    if prompting:
        err.print("[bold]you:[/bold] ", end="")
    return sys.stdin.readline().strip()


def _transcribed(
    recognizer: Any, path: Path, n_best: int, hotwords: list[str], advance: weights.Progress
) -> Transcript:
    from vivavoce.speech.lists.nbest import joined

    seconds = Audio.length(path)
    windows = []
    if not hasattr(recognizer, "transcribe_long"):  # one's own: the protocol has one method
        heard: Transcript = recognizer.transcribe(Audio.read(path), n_best=n_best, hotwords=hotwords)
        return heard
    for window in recognizer.transcribe_long(path, n_best=n_best, hotwords=hotwords):
        windows.append(window)
        if seconds > 60:
            advance(int(window.offset + window.duration), int(seconds), path.name)
    return joined(windows, duration=seconds, n_best=n_best)


def _transcript_json(heard: Transcript) -> dict[str, Any]:
    line: dict[str, Any] = {
        "hypotheses": [
            {"text": h.text, "log_prob": h.log_prob, "posterior": posterior, "n_tokens": h.n_tokens}
            for h, posterior in zip(heard.hypotheses, heard.posteriors(), strict=True)
        ],
        "entropy": heard.entropy,
        "confidence": heard.confidence,
        "no_speech_prob": heard.no_speech_prob,
        "is_speech": heard.is_speech,
        "language": heard.language,
        "duration": heard.duration,
    }
    return line if heard.is_speech else {**line, "reason": heard.reason}


if __name__ == "__main__":
    main()
