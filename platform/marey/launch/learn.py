"""The proof that it learns: prepare, pre-train, fine-tune, evaluate with small models, on a cluster of its own.

    python -m marey.launch.learn [data=DIR] [seed=N] [models=PART_OF_A_NAME] [results=DIR]

Without ``data`` the set is `marey.clips.motion_shapes`, whose classes differ only by motion. A folder with a
``labels.csv`` is taken as it is, and split by its ``subject`` column where there is one and no ``split``: the last
subject tests, the one before validates. Every step is a command that is printed before it runs.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from marey.clips.motion_shapes import write_motion_shapes
from marey.clips.table import open_table
from marey.config import flatten, read_yaml
from marey.errors import MareyError
from marey.launch.local_cluster import LocalCluster
from marey.launch.submit import ROOT, run_program, submit

PER_CLASS = 360
_TRAINED = 2016  # training videos of the motion shapes, for which the settings' epochs are meant


class Learner(NamedTuple):
    """One model of the table."""

    title: str
    run: str
    """Part of its runs' names."""
    settings: str
    """File of its settings, without suffix."""
    pretraining: tuple[str, str] | None = None
    """Job and settings of the pre-training that it starts from."""


MODELS = (
    Learner("3D ResNet", "learn_resnet3d", "learn_resnet3d"),
    Learner("3D ResNet, one frame", "learn_one_frame", "learn_one_frame"),
    Learner("Hiera", "learn_hiera_scratch", "learn_hiera"),
    Learner("Hiera, pre-trained", "learn_hiera", "learn_hiera", ("pretrain_hiera", "learn_hiera_pretrain")),
    Learner(
        "VideoMAE V2, pre-trained", "learn_videomae", "learn_videomae", ("pretrain_videomae", "learn_videomae_pretrain")
    ),
)


def main(words: list[str]) -> int:
    """Run the chain for one set and one seed; the exit code of the step that failed, or 0."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if wrong := [word for word in words if word.split("=", 1)[0] not in ("data", "seed", "results", "models")]:
        raise MareyError(f"{wrong[0]}: there are data=, seed=, results= and models=")
    results = Path(given.get("results") or ROOT / ".learn").absolute()
    seed = int(given.get("seed") or 0)
    data = Path(given["data"]).expanduser().absolute() if given.get("data") else _motion_shapes(results)
    chosen = [one for one in MODELS if given.get("models", "") in one.run]
    print(f"data     {data}\nresults  {results}\nstarting a one-node Ray cluster ...", flush=True)
    with LocalCluster() as cluster:
        return run(cluster, data, results, seed, chosen)


def run(
    cluster: LocalCluster,
    data: Path,
    results: Path,
    seed: int,
    models: Sequence[Learner],
) -> int:
    """All models in turn, then the table of what they reached."""
    table = results / "tables" / data.name
    videos = _with_splits(data, results)
    prepare = ["jobs/prepare_clips.py", f"videos={videos}", f"videos_root={data}", f"table={table}"]
    if code := submit(cluster, [*prepare, "clips.short_side=96", f"results={results}"]):
        return code
    for _, run_name, settings, pretraining in models:
        name = f"{data.name}-{run_name}-{seed}"
        common = [f"table={table}", f"results={results}", f"seed={seed}"]
        init = []
        if pretraining is not None:
            job, its_settings = pretraining
            before = f"{data.name}-{its_settings}-{seed}"
            words = [f"@jobs/{its_settings}.yaml", *common, *_enough_epochs(table, its_settings), f"name={before}"]
            if code := submit(cluster, [f"jobs/{job}.py", *words]):
                return code
            init = [f"init={before}"]
        epochs = _enough_epochs(table, settings)
        steps = [
            ["jobs/finetune.py", f"@jobs/{settings}.yaml", *common, *epochs, *init, f"name={name}"],
            ["jobs/evaluate.py", f"model={name}", f"results={results}", "views.temporal=3", "views.spatial=1"],
        ]
        for step in steps:
            if code := submit(cluster, step):
                return code
    show(results, data.name)
    return 0


def show(results: Path, data: str) -> None:
    """Test accuracy of every model and seed that has been evaluated on a set, with 95 % intervals."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("model", "seed", "test videos", "top-1", "95 % interval"):
        table.add_column(title)
    for title, run_name, _, _ in MODELS:
        for path in sorted(results.glob(f"runs/{data}-{run_name}-[0-9]*/evaluations/test-3x1/summary.json")):
            found = json.loads(path.read_text())
            low, high = found["intervals"]["top1"]
            seed = path.parts[-4].rsplit("-", 1)[1]
            figure = f"{found['metrics']['top1']:.3f}"
            table.add_row(title, seed, str(found["sources"]), figure, f"{low:.3f} to {high:.3f}")
    Console(width=100).print(table)


def _enough_epochs(table: Path, settings: str) -> list[str]:
    """More epochs on a smaller set, so that it is trained for as many steps."""
    factor = _TRAINED / len(open_table(table).split("train"))
    written = flatten(read_yaml(ROOT / "jobs" / f"{settings}.yaml"))
    names = ("epochs", "optim.warmup_epochs", "validation.every")
    return [f"{name}={written[name] * factor:.4g}" for name in names if name in written and factor > 1]


def _motion_shapes(results: Path) -> Path:
    folder = results / "motion_shapes"
    print(f"making {8 * PER_CLASS} videos in {folder}", flush=True)
    write_motion_shapes(folder, PER_CLASS, size=64)
    return folder


def _with_splits(data: Path, results: Path) -> Path:
    """The set itself, or a list of it that splits it by subject."""
    labels = data / "labels.csv"
    if not labels.is_file():
        return data
    with labels.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "split" in rows[0] or "subject" not in rows[0]:
        return data
    *_, validation, test = sorted({row["subject"] for row in rows}, key=lambda one: (len(one), one))
    path = results / f"{data.name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "class", "split"))
        for row in rows:
            split = {validation: "validation", test: "test"}.get(row["subject"], "train")
            writer.writerow((row["path"], row["class"], split))
    return path


if __name__ == "__main__":
    run_program("learn", main)
