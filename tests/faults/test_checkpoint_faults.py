"""Storage that fails, fills, slows or lies at every call of a save, and processes that are killed: nothing is lost."""

import random
import re
import shutil
from pathlib import Path

import pytest
import torch

from conftest import program
from faults.saver import REFUSED, Faults, filled, save
from marey.engine import checkpoint
from marey.engine.checkpoint import newest, read

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

KINDS = {"killed": "signal=KILL", "ENOSPC": "error=ENOSPC", "EIO": "error=EIO"}
NOT_THE_STORAGE = {"mmap", "munmap", "brk", "ioctl", "lseek"}


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    started = Faults(program("strace", "strace"), tmp_path_factory.mktemp("faults"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """A run's checkpoints of steps 1 and 2, and its writer's mark."""
    folder = tmp_path_factory.mktemp("before") / "checkpoints"
    holder = checkpoint.take_over(folder)
    for step in (1, 2):
        save(folder, step, holder)
    return folder


@pytest.fixture(scope="module")
def calls(faults, before, tmp_path_factory) -> list[tuple[str, int]]:
    """The calls of a save that touch the checkpoints' folder: name, and how many of that name there are up to it."""
    folder = tmp_path_factory.mktemp("calls") / "checkpoints"
    shutil.copytree(before, folder)
    assert (
        faults.order(
            "save", "trace=%file,%desc", "decode-fds=path", directory=str(folder), step=3, holder=holder(before)
        )
        == 0
    )
    counted: dict[str, int] = {}
    found = []
    for line in (faults.log / "calls").read_text().splitlines():
        name = re.match(r"\w+", line)[0]
        counted[name] = counted.get(name, 0) + 1
        if str(folder) in line and name not in NOT_THE_STORAGE:
            found.append((name, counted[name]))
    return found


def holder(folder: Path) -> str:
    return (folder / checkpoint.FENCE).read_text()


def check(folder: Path, ended: int, told: list[str]) -> int:
    """The newest checkpoint's step after a save of step 3 that ended so: it is whole, and the next save works."""
    found = newest(folder, told.append)
    assert found.step in ((3,) if ended == 0 else (2, 3))
    state, expected = read(found), filled(found.step)
    for mine, theirs in (
        (state.weights, expected.weights),
        (state.ema, expected.ema),
        (state.moments["a"], expected.moments["a"]),
    ):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    save(folder, 4, holder(folder))
    assert newest(folder, told.append).step == 4
    assert {path.name for path in folder.iterdir()} == {checkpoint.FENCE, f"{found.step:012d}", f"{4:012d}"}
    return found.step


def injure(faults, before: Path, calls, folder: Path, cases) -> dict[str, set[int]]:
    """Each of the cases in a fresh copy; of each kind, the steps that were found."""
    found: dict[str, set[int]] = {}
    for place, kind in cases:
        name, when = calls[place]
        shutil.copytree(before, folder)
        told: list[str] = []
        ended = faults.order(
            "save",
            f"trace={name}",
            f"inject={name}:{KINDS[kind]}:when={when}",
            directory=str(folder),
            step=3,
            holder=holder(before),
        )
        assert "INJECTED" in (faults.log / "calls").read_text() or ended == -9, (place, name, when)
        assert ended == -9 if kind == "killed" else ended in (0, REFUSED), (name, when, kind)
        try:
            found.setdefault(kind, set()).add(check(folder, ended, told))
        except AssertionError as error:
            raise AssertionError(f"{kind} at call {place}, {name} number {when}") from error
        assert not told, (name, when, kind)
        shutil.rmtree(folder)
    return found


def test_a_save_makes_the_calls_that_it_should(calls):
    names = [name for name, _ in calls]
    assert names.count("fsync") == 8  # six files, the folder, the folder around it
    assert {"openat", "write", "fsync", "close", "mkdir", "rename", "unlinkat"} <= set(names)
    assert names.index("rename") > max(place for place, name in enumerate(names) if name == "write")


def test_a_fault_at_any_call_of_a_save_leaves_the_last_checkpoint_or_the_one_before(faults, before, calls, tmp_path):
    every = [(place, kind) for kind in KINDS for place in range(len(calls))]
    found = injure(faults, before, calls, tmp_path / "checkpoints", random.Random(0).sample(every, 24))
    assert found["killed"] == {2, 3}


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_fault_at_every_call_of_a_save(faults, before, calls, tmp_path):
    every = [(place, kind) for kind in KINDS for place in range(len(calls))]
    found = injure(faults, before, calls, tmp_path / "checkpoints", every)
    print(f"{len(every)} faults at {len(calls)} calls")
    assert all(steps == {2, 3} for steps in found.values())
