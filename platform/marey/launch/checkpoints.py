"""``marey checkpoint``: what a run has saved, whether it is whole, and its weights as one file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from marey.engine import checkpoint
from marey.engine.checkpoint import MANIFEST, Saved
from marey.errors import CheckpointError
from marey.experiment.comparison import find_run
from marey.experiment.scoring import Choice
from marey.inference.exported import write_exported
from marey.inference.opened import open_weights


def show(where: str, results: Path) -> None:
    """Print the checkpoints of ``where`` (a run's name or folder, or one checkpoint), and what they are of."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("step", "epoch", "MiB", "loss", "best of", "state"):
        table.add_column(title, justify="left" if title in ("best of", "state") else "right")
    newest: Saved | None = None
    for path, found in _looked_at(where, results):
        size = f"{sum(file.stat().st_size for file in path.iterdir()) / 2**20:.1f}"
        if isinstance(found, CheckpointError):
            table.add_row(path.name.lstrip("0"), "-", size, "-", "", str(found))
            continue
        newest = found
        facts = found.state
        best = ", ".join(_best_of(facts)) if facts.get("best_step") == found.step else ""
        loss = f"{facts['mean_loss']:.4f}" if "mean_loss" in facts else "-"
        table.add_row(str(found.step), f"{facts.get('epoch', 0):.2f}", size, loss, best, "whole")
    console = Console()
    console.print(table)
    if newest is not None:
        _show_lineage(newest.state.get("lineage", {}), console)


def _best_of(facts: Any) -> Iterator[str]:
    """The metrics of which a checkpoint that is the best has the best value."""
    for name, value in facts.get("best", {}).items():
        if facts.get("last", {}).get(name) == value:
            yield f"{name} {value:.4f}"


def _show_lineage(lineage: Any, console: Console) -> None:
    settings = lineage.get("settings", {})
    lines = {
        "backbone": settings.get("backbone", {}).get("name"),
        "recipe": settings.get("recipe", {}).get("kind"),
        "init": _reference(lineage.get("init", {})) or settings.get("init"),
        "parent": _reference(lineage.get("parent", {})),
        "table": settings.get("table") or ", ".join(settings.get("tables", [])),
        "fingerprint": lineage.get("table_fingerprint"),
        "code": lineage.get("git_commit"),
    }
    for name, value in lines.items():
        if value:
            console.print(f"{name:<12}{value}", highlight=False, soft_wrap=True)


def _reference(told: Any) -> str:
    return f"{told['path']} (sha256 {told['sha256'][:12]})" if told else ""


def verify(where: str, results: Path) -> None:
    """Read every byte of the checkpoints of ``where``; `CheckpointError` naming those that are not whole."""
    wrong = []
    for path, found in _looked_at(where, results):
        print(f"{path}: {found if isinstance(found, CheckpointError) else 'whole'}", flush=True)
        wrong += [path] if isinstance(found, CheckpointError) else []
    if wrong:
        raise CheckpointError(f"not whole: {', '.join(map(str, wrong))}")


def export(where: str, file: Path, choice: Choice) -> None:
    """Write the weights of ``where`` (the moving average, where there is one) to ``file``, for any use."""
    if file.suffix != ".safetensors":
        raise CheckpointError(f"{file}: give a name that ends in .safetensors, which is what is written")
    opened = open_weights(where, choice.results, choice.weights)
    write_exported(file, opened.weights, opened.settings, opened.classes, opened.step)
    print(f"{file}: {len(opened.weights)} tensors of {opened.path}; use it as init={file} or model={file}")


def _looked_at(where: str, results: Path) -> Iterator[tuple[Path, Saved | CheckpointError]]:
    """Checkpoints and what verifying them gave, the oldest first. Nothing is set aside or deleted."""
    path = Path(where).expanduser()
    found = [path] if (path / MANIFEST).is_file() else checkpoint.steps(find_run(where, results) / "checkpoints")
    if not found:
        raise CheckpointError(f"{where}: this run has no checkpoint yet")
    for one in found:
        try:
            yield one, checkpoint.verify(one)
        except CheckpointError as error:
            yield one, error
