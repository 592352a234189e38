"""``vivavoce index``: makes an index of documents, keeps it up to date, looks after it."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vivavoce.retrieval import (
    Changes,
    EmbedderMismatch,
    IndexCorrupt,
    IndexNotFound,
    LocalKnowledge,
    Store,
    is_index,
    load_folder,
)

from .. import weights
from ..concurrency import in_thread
from ..errors import ConfigError
from ..model.chat import Device
from ..model.embedder import default_embedder
from ..weights.registry import EMBEDDING
from .console import err, out, progress, tell
from .options import DeviceOption, Json, read_filter


class _UpdateUnlessNamed(TyperGroup):
    """`index DIR` is `index update DIR`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the verb in front where none is named."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["update", *args]
        return super().parse_args(ctx, args)


index_app = typer.Typer(
    cls=_UpdateUnlessNamed,
    help="An index of documents: `vivavoce index DIR --out INDEX` makes it, and brings it up to date.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Documents.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the index.")]
Index = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index.")]


@index_app.command()
def update(folder: Folder, out_dir: Out, device: DeviceOption = "auto", as_json: Json = False) -> None:
    """Make the index hold what the folder holds; only what changed is embedded. The verb when none is named."""
    _changed(folder, out_dir, device, as_json, whole=True)


@index_app.command()
def add(folder: Folder, out_dir: Out, device: DeviceOption = "auto", as_json: Json = False) -> None:
    """Put what the folder holds into the index, and leave there what is there."""
    _changed(folder, out_dir, device, as_json, whole=False)


@index_app.command()
def delete(
    index: Index,
    source: Annotated[list[str] | None, typer.Option("--source", help="A document; may be given again.")] = None,
    where: Annotated[str, typer.Option(help='Documents that a filter holds for, as JSON: {"year": 2020}.')] = "",
    as_json: Json = False,
) -> None:
    """Take documents out of the index."""
    only = read_filter(where)
    if not source and only is None:
        raise typer.BadParameter("say which documents: --source NAME, --where JSON, or both.")
    with _opened(index) as store:
        unknown = ", ".join(sorted(set(source or ()) - set(store.sources)))
        if unknown:
            told = f"`vivavoce index stats {index}` lists what it holds"
            raise ConfigError(f"the index holds no {unknown}; {told}", stage="config")
        gone = store.remove(source, only)
        left = store.stats()
    counts = {"removed": gone, "passages": left.passages, "sources": left.documents}
    tell({"index": str(index), **counts}, as_json, f"{gone} documents were taken out of {index}")


@index_app.command()
def stats(index: Index, as_json: Json = False) -> None:
    """Say how much the index holds, and of which documents."""
    with _opened(index) as store:
        made_by = store.manifest
        assert made_by is not None
        found = {"index": str(index), "embedder": made_by.embedder, "dim": made_by.dim, **asdict(store.stats())}
        sources = list(store.sources)
    if as_json:
        tell({**found, "sources": sources}, as_json)
        return
    out.print("\n".join([f"{name}: {value}" for name, value in found.items()] + sources), soft_wrap=True)


@index_app.command()
def compact(index: Index, as_json: Json = False) -> None:
    """Write the index anew, without what was removed; whoever has it open goes on with the new one."""
    with _opened(index) as store:
        before = store.stats().bytes
        store.compact()
        after = store.stats().bytes
    sizes = {"bytes_before": before, "bytes": after}
    tell({"index": str(index), **sizes}, as_json, f"{index}: {before:,} to {after:,} bytes")


@index_app.command()
def verify(index: Index, as_json: Json = False) -> None:
    """Look through all of the index, and name what is wrong with it; the exit code is 1 if anything is."""
    try:
        with _opened(index) as store:
            problems = store.problems()
    except IndexCorrupt as error:
        problems = [str(error)]
    tell({"index": str(index), "problems": problems}, as_json, "\n".join(problems) or f"{index} is as it was written")
    if problems:
        raise typer.Exit(1)


def _changed(folder: Path, index: Path, device: Device, as_json: bool, *, whole: bool) -> None:
    if is_index(folder):
        raise ConfigError(f"{folder} is an index already: name the folder of the documents", stage="config")
    with progress() as advance:
        weights.resolve(EMBEDDING, progress=advance)

        def work() -> tuple[Changes, int, int]:
            loaded = load_folder(folder)  # first: nothing is made of a folder that cannot be read
            embedder = default_embedder(device)
            try:
                knowledge = LocalKnowledge.open(index, embedder, device=device)
            except IndexNotFound:
                knowledge = LocalKnowledge.create(index, embedder, device=device)
            except (IndexCorrupt, EmbedderMismatch) as error:
                if not whole:
                    raise
                err.print(f"{error} It is built again now.", style="yellow", soft_wrap=True, markup=False)
                # All of it in memory first: what is there stays until it can be replaced.
                documents = loaded.documents
                told = _embedding(advance)
                knowledge = LocalKnowledge.from_documents(documents, embedder, device=device, progress=told)
                knowledge.save(index)
                return Changes(len(documents), embedded=len(knowledge)), len(knowledge), len(knowledge.sources)
            with knowledge:
                if whole:
                    done = knowledge.update(loaded, progress=_embedding(advance))
                else:
                    done = knowledge.upsert(loaded.documents, progress=_embedding(advance))
                return done, len(knowledge), len(knowledge.sources)

        done, passages, sources = in_thread(work)
    counts = {name: count for name, count in asdict(done).items() if name != "embedded"}
    tell(
        {"index": str(index), "passages": passages, "sources": sources, **counts},
        as_json,
        f"{passages} passages of {sources} documents are indexed in {index} "
        f"({', '.join(f'{count} {name}' for name, count in counts.items() if count) or 'nothing to do'})",
    )


def _embedding(advance: weights.Progress) -> Any:
    return lambda done, total: advance(done, total, "embedding")


def _opened(index: Path) -> AbstractContextManager[Store]:
    """The index as it lies there: nothing is searched, so no model is loaded."""
    return closing(Store.open(index, "cpu"))
