"""``vivavoce train …``: train an adapter or a head on data of one's own."""

from __future__ import annotations

import typer

train_app = typer.Typer(help="Train an adapter or a head on data of your own.", no_args_is_help=True)
