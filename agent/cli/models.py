"""``vivavoce models``: the weights, what there is, fetching them, checking them."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import weights
from ..errors import ConfigError
from ..weights.registry import ASR, EMBEDDING, LLM
from .console import err, progress, tell
from .options import Json

models_app = typer.Typer(help="The weights: what there is, fetch it, check it.", no_args_is_help=True)


@models_app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the models of the registry and whether they are here."""
    here = {model.spec.name: model for model in weights.installed()}
    for spec in weights.REGISTRY.values():
        model = here.get(spec.name)
        path, source = (str(model.path), model.source) if model else (None, None)
        line = {"name": spec.name, "kind": spec.kind, "licence": spec.licence, "path": path, "source": source}
        tell(line, as_json, f"{spec.name:24} {spec.kind:10} {spec.licence:12} {path or 'not fetched'}")


@models_app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="All default models if none is named.")] = None,
) -> None:
    """Fetch models into the cache."""
    with progress() as advance:
        for name in names or (ASR, LLM, EMBEDDING):
            err.print(f"{name}: {weights.fetch(name, progress=advance)}")


@models_app.command()
def verify(
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
