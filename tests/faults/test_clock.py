"""Clocks that disagree: what is newest is told by its step, never by a time."""

import os
import time
from pathlib import Path

import pytest

from marey.engine.events import Started
from marey.tracking.base import RunDescription
from marey.tracking.journal import read_points
from marey.tracking.jsonl import JsonlTracker
from tiny_training import run, tiny

HOUR = 3600


@pytest.fixture
def an_hour_back(monkeypatch):
    """A host whose clock is an hour behind, from the call on."""
    now = time.time
    return lambda: monkeypatch.setattr(time, "time", lambda: now() - HOUR)


def test_a_host_whose_clock_is_an_hour_back_resumes_from_the_last_step(table, tmp_path: Path, an_hour_back, one_thread):
    unbroken, _ = run(tiny(), table, tmp_path / "unbroken")
    before, _ = run(tiny(), table, tmp_path, steps=8)
    os.utime(tmp_path / "checkpoints" / f"{4:012d}", (time.time() + HOUR, time.time() + HOUR))
    an_hour_back()
    after, _ = run(tiny(), table, tmp_path)
    [started] = [event for event in after.events if isinstance(event, Started)]
    assert started.resumed_from == 8
    assert {**before.losses(), **after.losses()} == unbroken.losses()


def test_its_curves_have_neither_gaps_nor_doubled_steps(tmp_path: Path, an_hour_back):
    for steps in (range(1, 6), range(4, 9)):
        tracker = JsonlTracker()
        tracker.start(RunDescription("mine", tmp_path))
        for step in steps:
            tracker.metrics(step, {"train/loss": float(step)})
        tracker.end("killed")
        an_hour_back()
    points = list(read_points(tmp_path))
    assert [point.step for point in points] == list(range(1, 9))
    assert points[5].time < points[4].time
