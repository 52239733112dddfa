"""The ``marey`` command: what a person asks outside a job."""

import typer
from rich.console import Console
from rich.table import Table

from marey.backbones import zoo
from marey.config import to_yaml
from marey.errors import MareyError

app = typer.Typer(help="Video action recognition on Ray.", no_args_is_help=True, add_completion=False)


@app.callback()
def _root() -> None:
    """Keeps subcommands subcommands while there are few of them."""


@app.command()
def models(pattern: str = typer.Argument("*", help="A shell pattern, e.g. 'videomae_v2_*_pretrain'.")) -> None:
    """List the backbones, with their purpose, clip and parameters."""
    names = zoo.list_models(pattern)
    if not names:
        raise MareyError(f"no model matches {pattern!r}; `marey models` lists all")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("name", "purpose", "frames × crop", "parameters"):
        table.add_column(title, justify="right" if title == "parameters" else "left")
    for name in names:
        config = zoo.find(name)
        table.add_row(name, config.purpose, f"{config.frames} × {config.crop}", f"{_parameters(name):,}")
    Console().print(table)


@app.command()
def model(name: str) -> None:
    """Show one backbone's configuration: every field that create_model and backbone.FIELD= can override."""
    print(to_yaml(zoo.find(name)), end="")


def _parameters(name: str) -> int:
    """Counted without memory for the weights."""
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in zoo.create_model(name).parameters())


def main() -> None:
    """Run the command; a user's mistake is one line, not a traceback."""
    try:
        app()
    except MareyError as error:
        raise SystemExit(f"error: {error}") from None
