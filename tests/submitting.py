"""Submitting the jobs of this repository as a user does, and looking at what they left behind."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# The smallest model over the smallest frames: a step takes a few dozen milliseconds.
SMALL = (
    "backbone=videomae_v2_tiny_pretrain", "backbone.crop=32", "backbone.frames=8", "backbone.depth=2",
    "backbone.width=48", "backbone.decoder_width=48", "backbone.decoder_depth=1", "recipe.mask_ratio=0.75",
    "clips.stride=1", "batch=8", "engine.micro_batch=4", "repeats=2", "optim.warmup_epochs=1", "log.every=10",
    "fleet.cpus_per_worker=0.5",
)  # fmt: skip


def without_marey(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a machine that has Marey's dependencies, and not Marey."""
    return {key: value for key, value in environment.items() if key != "PYTHONPATH"}


def submit(cluster: Any, *words: str, name: str | None = None, wait: bool = True) -> subprocess.CompletedProcess[str]:
    """``ray job submit --working-dir . -- words``; its output is the job's."""
    options = [*(["--submission-id", name] if name else []), *([] if wait else ["--no-wait"])]
    command = ["ray", "job", "submit", *options, "--working-dir", ".", "--", *words]
    return subprocess.run(
        command, cwd=ROOT, env=without_marey(cluster.environment), capture_output=True, text=True, timeout=500
    )


def run_script(*words: str) -> subprocess.CompletedProcess[str]:
    """``python jobs/...`` in a process of its own, without a cluster."""
    # One thread: models so small are slower on several.
    environment = {**without_marey(dict(os.environ)), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait for ``condition()`` to be true; its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {condition}"
        time.sleep(0.05)
    return value


def checkpoints(results: Path, run: str) -> list[int]:
    """Steps of a run's committed checkpoints."""
    return sorted(int(path.name) for path in (results / "runs" / run / "checkpoints").glob("[0-9]*"))


def weights(results: Path, run: str) -> dict[str, Any]:
    """Weights of a run's last checkpoint."""
    from safetensors.torch import load_file

    last = checkpoints(results, run)[-1]
    return load_file(results / "runs" / run / "checkpoints" / f"{last:012d}" / "weights.safetensors")


def mlflow_runs(results: Path) -> list[Any]:
    """All runs of the store under ``results``."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    return list(client.search_runs([one.experiment_id for one in client.search_experiments()]))


def history(results: Path, run_id: str, key: str) -> list[int]:
    """Steps at which MLflow has ``key``, in order, doubled ones too."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    return sorted(point.step for point in client.get_metric_history(run_id, key))
