"""The command line: ``vivavoce VERB …``, its verbs, and how errors end it.

A verb is a function of the module of its topic; it is listed here, or belongs to a group that is. ``--json`` prints one
object per line on stdout; everything else goes to stderr.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import metadata
from typing import Annotated, Any, NoReturn

import typer
from rich.logging import RichHandler
from typer.core import TyperGroup

from vivavoce.memory import RecordError
from vivavoce.retrieval import RetrievalError
from vivavoce.speech import SpeechError

from ..errors import AgentError
from .console import err, out
from .doctor import doctor
from .evaluate import eval_app
from .find import search
from .hear import speak, transcribe
from .index import index_app
from .models import models_app
from .talk import ask, chat
from .train import train_app

# Typer brings its own click, or takes one that is installed, by its version; this is the base of its errors in both.
_WrongUsage: Any = typer.BadParameter.__mro__[2]

_RENAMED = {"calibrate": "train read-out"}
"""Verbs that had another name."""


class _Verbs(TyperGroup):
    """The verbs; one that was renamed says its name of today."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb that is meant."""
        if args and args[0] in _RENAMED:
            ctx.fail(f"`vivavoce {args[0]}` is `vivavoce {_RENAMED[args[0]]}` now.")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="vivavoce",
    cls=_Verbs,
    help="Voice assistants that know when they misheard and when to look it up.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (ask, chat, search, transcribe, speak, doctor):
    app.command()(verb)
app.add_typer(index_app, name="index")
app.add_typer(eval_app, name="eval")
app.add_typer(train_app, name="train")
app.add_typer(models_app, name="models")


def _version(asked: bool) -> None:
    if asked:
        out.print(f"vivavoce {metadata.version('vivavoce')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Voice assistants that know when they misheard and when to look it up."""


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


if __name__ == "__main__":
    main()
