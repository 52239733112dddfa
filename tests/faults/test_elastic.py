"""Machines that are lost, come and are taken away with notice: the run goes on with those that are there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from marey.engine import checkpoint
from marey.tracking.journal import read_points
from submitting import ROOT
from tiny_training import elastic, run

ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_memory_monitor_refresh_ms": "0",
    "RAY_raylet_start_wait_time_s": "240", "OMP_NUM_THREADS": "1",
    # Nodes of one CPU keep one idle process: every task that reads would start one of its own.
    "RAY_num_workers_soft_limit": "4",
    "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT / "tests")]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_it_goes_on_with_one_worker_and_with_two_as_the_unbroken_run(table, tmp_path: Path, one_thread):
    words = [sys.executable, str(ROOT / "tests/faults/elastic_run.py"), str(table.path), str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | ENVIRONMENT
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1400)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    told = json.loads(next(line for line in reversed(ended.stdout.splitlines()) if line.startswith("{")))
    assert (told["workers"], told["stop"]) == ([2, 2, 1, 2, 1], "SIGTERM")
    # The lost machine is counted; the new one and the one taken away cost no step.
    assert ended.stdout.count("restart 1 of 1 from the checkpoint of step ") == 1
    for reason in ("room for more workers", "preemption"):
        assert ended.stdout.count(f"{reason} at step ") == 1

    directory = tmp_path / "runs" / "elastic"
    assert checkpoint.newest(directory / "checkpoints").step == told["step"]
    points = [point for point in read_points(directory) if "train/loss" in point.values]
    assert [point.step for point in points] == list(range(1, told["step"] + 1))
    diary, strategy = run(elastic(), table, tmp_path / "unbroken", told["step"])
    for point in points:
        assert point.values["train/loss"] == pytest.approx(diary.losses()[point.step], rel=1e-6)
    saved = load_file(directory / "checkpoints" / f"{told['step']:012d}" / "weights.safetensors")
    for name, value in strategy.state().weights.items():
        torch.testing.assert_close(saved[name], value, rtol=1e-4, atol=1e-5)
