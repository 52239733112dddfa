"""Runs side by side: the settings in which they differ, and their metrics, last and best."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from marey.config import flatten
from marey.errors import RunError
from marey.experiment.run import SETTINGS
from marey.tracking.journal import read_points

# Settings that differ between any two runs and say nothing of what was done.
_OWN = ("name", "results")
_PREFIXES = ("train/loss", "validation/", "evaluation/", "best/")


@dataclass(frozen=True)
class Comparison:
    """One column a run; a setting or metric that a run lacks is None."""

    runs: list[str]
    settings: dict[str, list[Any]]
    """Path to one value a run, where they differ."""
    metrics: dict[str, list[tuple[float, float] | None]]
    """Name to (last, best) of each run."""


def compare(runs: Sequence[str], results: Path) -> Comparison:
    """Read runs by name (under ``results``) or folder. Raises `RunError` naming the one that is none."""
    folders = [find_run(run, results) for run in runs]
    settings = [_settings(folder) for folder in folders]
    metrics = [_metrics(folder) for folder in folders]
    paths = dict.fromkeys(path for one in settings for path in one if path not in _OWN)
    names = dict.fromkeys(name for one in metrics for name in one)
    values = {path: [one.get(path) for one in settings] for path in paths}
    return Comparison(
        runs=[folder.name for folder in folders],
        settings={path: row for path, row in values.items() if any(value != row[0] for value in row)},
        metrics={name: [one.get(name) for one in metrics] for name in names},
    )


def find_run(run: str, results: Path) -> Path:
    """The folder of a run, by its name or path."""
    known = results / "runs"
    for folder in (known / run, Path(run).expanduser()):
        if (folder / SETTINGS).is_file():
            return folder
    names = [path.parent.name for path in known.glob(f"*/{SETTINGS}")]
    near = difflib.get_close_matches(run, names, n=3, cutoff=0.5)
    raise RunError(f"{run}: no such run in {known}" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def _settings(folder: Path) -> dict[str, Any]:
    record = yaml.safe_load((folder / SETTINGS).read_text())
    return {**flatten(record["settings"]), "table_fingerprint": record.get("table_fingerprint")}


def _metrics(folder: Path) -> dict[str, tuple[float, float]]:
    """(last, best) by name: the lowest loss, the highest of everything else."""
    found: dict[str, tuple[float, float]] = {}
    for point in read_points(folder):
        for name, value in _numbers(point.values):
            before = found[name][1] if name in found else value
            best = min(before, value) if name.endswith("loss") else max(before, value)
            found[name] = (value, best)
    return found


def _numbers(values: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, value) for name, value in values.items() if name.startswith(_PREFIXES) and math.isfinite(value)]
