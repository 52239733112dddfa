"""The ``marey`` command: what a person asks outside a job."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from marey.backbones import zoo
from marey.config import override, to_yaml
from marey.errors import ConfigError, MareyError
from marey.experiment import FleetConfig, Prediction
from marey.experiment.comparison import compare as read_comparison
from marey.experiment.comparison import find_run
from marey.experiment.scoring import Choice
from marey.tracking.delivery import read_place
from marey.tracking.links import compare_url, ui_command

Where = Annotated[str, typer.Argument(help="A run's name or folder, or a checkpoint's folder.")]
Words = Annotated[list[str] | None, typer.Argument(help="results=DIR: where runs are looked for.")]

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
        table.add_column(title, justify="right" if title == "parameters" else "left", no_wrap=title == "name")
    for name in names:
        config = zoo.find(name)
        table.add_row(name, config.purpose, f"{config.frames} × {config.crop}", f"{_parameters(name):,}")
    Console().print(table)


@app.command()
def model(name: str) -> None:
    """Show one backbone's configuration: every field that create_model and backbone.FIELD= can override."""
    print(to_yaml(zoo.find(name)), end="")


@app.command()
def predict(
    words: Annotated[list[str], typer.Argument(help="Videos, folders or lists; model=RUN and settings.")],
) -> None:
    """Say which class videos are of, with a fine-tuned model: marey predict a.mp4 b.mp4 model=RUN views.temporal=5."""
    from marey.launch.score import predict as run

    settings, videos = _sorted(words)
    if not videos:
        raise ConfigError("no videos are given: marey predict VIDEO... model=RUN")
    prediction = override(Prediction(fleet=FleetConfig(workers=0)), settings)
    run(prediction, [Path(video).absolute() for video in videos])


@app.command()
def compare(words: Annotated[list[str], typer.Argument(help="Names or folders of runs; results=DIR.")]) -> None:
    """Show runs side by side: the settings in which they differ, and their metrics, last and best."""
    settings, runs = _sorted(words)
    results = override(Prediction(), settings).results
    found = read_comparison(runs, results)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for title in found.runs:
        table.add_column(title, overflow="fold")
    for path, values in found.settings.items():
        table.add_row(path, *("-" if value is None else str(value) for value in values))
    table.add_section()
    for name, pairs in found.metrics.items():
        table.add_row(name, *("-" if one is None else f"{one[0]:.4f} (best {one[1]:.4f})" for one in pairs))
    Console().print(table)
    folders = [find_run(run, results) for run in runs]
    place, link = read_place(folders[0]), compare_url(folders)
    if place is not None and link is not None:
        print(f"\nto look     {ui_command(place.uri) or place.uri}\nthen open   {link}")


@app.command()
def goodput(where: Annotated[str, typer.Argument(help="A run's name or folder.")], words: Words = None) -> None:
    """Say where a run's time went: steps that count, starts, interruptions, saves, validations."""
    from marey.tracking.goodput import read_goodput

    found = read_goodput(find_run(where, override(Choice(), words or []).results))
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    count = len(found.interruptions)
    rows = {
        "steps that count": found.steps,
        "start": found.start,
        "waiting for checkpoints": found.stalls,
        "validations": found.validations,
        f"{count} interruption{'s' * (count != 1)}, with what was done again": sum(found.interruptions),
        "between steps": found.rest,
    }
    for name, seconds in rows.items():
        table.add_row(name, f"{seconds:.1f} s", f"{seconds / found.total:.1%}")
    Console().print(table)


checkpoints = typer.Typer(help="Look at, check and export what runs have saved.", no_args_is_help=True)
app.add_typer(checkpoints, name="checkpoint")


@checkpoints.command("show")
def show_checkpoints(where: Where, words: Words = None) -> None:
    """List checkpoints: step, epoch, size, loss, whether they are whole, and what they are of."""
    from marey.launch.checkpoints import show

    show(where, override(Choice(), words or []).results)


@checkpoints.command("verify")
def verify_checkpoints(where: Where, words: Words = None) -> None:
    """Read every byte of the checkpoints and compare it with their hashes."""
    from marey.launch.checkpoints import verify

    verify(where, override(Choice(), words or []).results)


@checkpoints.command("export")
def export_checkpoint(
    where: Where,
    file: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    words: Annotated[list[str] | None, typer.Argument(help="weights=last instead of the best; results=DIR.")] = None,
) -> None:
    """Write the weights as one safetensors file, which says of itself which model it is of."""
    from marey.launch.checkpoints import export

    export(where, file.absolute(), override(Choice(), words or []))


def _sorted(words: list[str]) -> tuple[list[str], list[str]]:
    """Settings, and the rest: a path may hold a "=" behind a slash."""
    settings = [word for word in words if "=" in word.split("/")[0] or word.startswith("@")]
    return settings, [word for word in words if word not in settings]


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
