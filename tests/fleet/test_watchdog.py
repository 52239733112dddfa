"""Workers that stand still are told from those that are slow, and their stacks are had in whatever state they are."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from marey.engine.events import Clock, Started
from marey.fleet.desk import Beat, Heard, Place, judge
from marey.fleet.watchdog import Pulse, _on_host, _shortened, _started, _state, dump
from submitting import until

PLACE = Place("node", 1, 2, Path("stacks"))
BEAT = Beat(group=1.0, rank=0, place=PLACE, step=7, doing="training", still=3.0, limit=60.0)


def heard(*stills: float, ago: float = 1.0, limit: float = 60.0) -> list[Heard]:
    return [Heard(replace(BEAT, rank=rank, still=still, limit=limit), 100.0 - ago) for rank, still in enumerate(stills)]


def test_slow_workers_are_left_alone():
    assert judge(heard(3.0, 59.0), 60.0, 100.0) is None
    assert judge(heard(900.0, 900.0, limit=1800.0), 60.0, 100.0) is None  # while saving, say
    assert judge([], 60.0, 100.0) is None


def test_one_that_is_not_heard_of_is_to_blame_alone():
    silent = Heard(replace(BEAT, rank=1), 30.0)
    hang = judge([*heard(65.0), silent], 60.0, 100.0)
    assert [one.rank for one in hang.guilty] == [1]
    assert [one.rank for one in hang.everyone] == [0, 1]
    assert "worker 1 has not been heard of for 70 s" in hang.words


def test_where_all_are_heard_of_all_are_ended():
    hang = judge(heard(61.0, 5.0), 60.0, 100.0)
    assert [one.rank for one in hang.guilty] == [0, 1]
    assert hang.words == "worker 0 has stood still for 61 s (training)"


CHILD = """
import ctypes, sys
from pathlib import Path
from marey.fleet.watchdog import Pulse
pulse = Pulse(None, 1.0, 0, Path(sys.argv[1]))
print(pulse.stacks.name, flush=True)
def held():
    while True:
        ctypes.PyDLL(None).sleep(600)  # without letting go of the interpreter's lock; a signal ends it
held()
"""


@contextmanager
def started(folder: Path) -> Iterator[Place]:
    """A process that holds its lock."""
    sources = str(Path(__file__).parents[2] / "platform")
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": sources},
    )
    stacks = Path(process.stdout.readline().strip())
    yield Place("node", process.pid, _started(process.pid), stacks)
    process.kill()
    process.wait()


@pytest.fixture
def child(tmp_path):
    with started(tmp_path) as place:
        yield place


def test_stacks_of_a_held_lock_and_of_a_stopped_process(child):
    until(lambda: "in held" in dump(child), 30)
    os.kill(child.pid, signal.SIGSTOP)
    until(lambda: _state(child.pid) == "stopped", 30)
    text = dump(child)
    assert f"process {child.pid}, stopped" in text
    assert text.count("in held") == 1  # of this time alone
    beat = replace(BEAT, place=child)
    other = replace(beat, rank=1, place=replace(child, started=child.started + 1))  # its number came again
    assert set(_on_host([beat, other], "kill")) == {0}
    assert os.waitpid(child.pid, 0)[1] == signal.SIGKILL


def test_one_that_is_stopped_is_looked_at_last(child, tmp_path):
    with started(tmp_path) as other:
        os.kill(child.pid, signal.SIGSTOP)
        until(lambda: _state(child.pid) == "stopped", 30)
        beats = [replace(BEAT, place=child), replace(BEAT, rank=1, place=other)]
        assert list(_on_host(beats, "dump")) == [1, 0]


class Desk:
    """Remembers the beats that it is told of; as an actor is, it is its own methods' ``remote``."""

    def __init__(self) -> None:
        self.beats: list[Beat] = []
        self.beat = SimpleNamespace(remote=self.beats.append)
        self.leave = SimpleNamespace(remote=lambda group, rank: None)


def test_a_worker_is_heard_of_before_its_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr("marey.fleet.watchdog.BEAT_SECONDS", 600.0)
    context = SimpleNamespace(get_node_id=lambda: "node")
    monkeypatch.setattr("marey.fleet.watchdog.ray.get_runtime_context", lambda: context)
    desk = Desk()
    with Pulse(desk, 1.0, 0, tmp_path) as pulse:
        pulse.on(Started(Clock(0, 9, 8, 8), None, SimpleNamespace(shared=dict)))
        until(lambda: desk.beats, 30)
    [beat] = desk.beats
    assert (beat.rank, beat.step, beat.doing, beat.place.pid) == (0, 0, "first step", os.getpid())


def test_threads_of_others_are_left_out_of_the_log():
    ours, rays = "Thread 1:\n  File /x/marey/engine/loop.py", "Thread 2:\n  File /x/ray/worker.py"
    assert _shortened(f"process 1, running\n\n{ours}\n\n{rays}") == f"process 1, running\n\n{ours}"
