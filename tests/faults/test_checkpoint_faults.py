"""Storage that fails, fills, slows or lies at every call of a save, and processes that are killed: nothing is lost."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from faults.saver import REFUSED, ROOT, Faults, filled, save
from marey.engine import checkpoint
from marey.engine.checkpoint import newest, read
from marey.engine.events import CheckpointFailed, Stepped
from programs import program
from tiny_training import run, tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

STEPS = 8
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


def test_a_disk_that_lies_about_what_it_wrote_costs_the_last_checkpoint_and_no_more(faults, before, calls, tmp_path):
    writes = [number for number, (name, _) in enumerate(calls) if name == "write"]
    for place in writes:
        folder = tmp_path / str(place)
        shutil.copytree(before, folder)
        lie = f"inject=write:retval=1:when={calls[place][1]}"
        assert faults.order("save", "trace=write", lie, directory=str(folder), step=3, holder=holder(before)) == 0
        told: list[str] = []
        assert newest(folder, told.append).step == 2
        assert len(told) == 1


@pytest.fixture(scope="module")
def unbroken(faults, table, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights at the end of `STEPS` steps on storage that works."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert train(faults, table, folder) == 0
    return read(newest(folder / "checkpoints")).weights


def train(faults, table, folder: Path, *inject: str) -> int:
    """How a training ends on such storage."""
    settings = {"every": 2, "keep_last": 2, "retry_seconds": 5}
    details = {"directory": str(folder), "table": str(table.path), "steps": STEPS, "settings": settings}
    return faults.order("train", "trace=fsync,mkdir,rename,unlinkat", *inject, follow=True, **details)


def assert_ended_alike(folder: Path, unbroken: dict[str, torch.Tensor]) -> None:
    found = newest(folder / "checkpoints")
    assert found.step == STEPS
    weights = read(found).weights
    assert all(torch.equal(weights[name], tensor) for name, tensor in unbroken.items())


TROUBLE = {
    # Of each thread's calls; the first ones of the training's own are the mark's of who writes.
    "failing": (
        "inject=fsync:error=EIO:when=3+20",
        "inject=mkdir:error=ENOSPC:when=4+4",
        "inject=rename:error=EIO:when=2+2",
    ),
    "slow": ("inject=fsync:delay_exit=60000",),
}


@pytest.mark.parametrize("kind", TROUBLE)
def test_storage_that_fails_or_slows_in_a_training_changes_nothing_of_it(faults, table, unbroken, tmp_path, kind):
    assert train(faults, table, tmp_path, *TROUBLE[kind]) == 0, (faults.log / "stderr").read_text()[-5000:]
    told = (faults.log / "calls").read_text()
    assert told.count("INJECTED") >= 3 if kind == "failing" else told.count("DELAYED") > 20
    assert_ended_alike(tmp_path, unbroken)


def test_a_training_killed_while_it_saves_goes_on_as_if_it_had_not_been(faults, table, unbroken, tmp_path):
    for call in ("fsync:signal=KILL:when=12", "rename:signal=KILL:when=2"):
        assert train(faults, table, tmp_path, f"inject={call}") == -9
    assert train(faults, table, tmp_path) == 0
    assert_ended_alike(tmp_path, unbroken)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "marey", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system can be mounted by root alone: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)  # what was read is still mapped


def test_a_disk_that_is_full_for_a_while_changes_nothing_of_a_training(table, unbroken, small_disk):
    class Filler:
        """Something else fills the disk after step 3 and makes room after step 6."""

        def __init__(self) -> None:
            self.failed = []

        def on(self, event) -> None:
            if isinstance(event, Stepped) and event.clock.step == 3:
                room = shutil.disk_usage(small_disk).free
                (small_disk / "other").write_bytes(bytes(room - (1 << 20)))
            elif isinstance(event, Stepped) and event.clock.step == 6:
                (small_disk / "other").unlink()
            elif isinstance(event, CheckpointFailed):
                places = {path.name for path in (small_disk / "checkpoints").iterdir()}
                self.failed.append((event.clock.step, event.problem, places, shutil.disk_usage(small_disk).free))

    filler = Filler()
    saving = {"every": 1, "keep_last": 2, "keep_best": "none", "wait": True, "retry_seconds": 0, "max_failed": 4}
    run(tiny().replace(checkpoint=saving), table, small_disk, steps=STEPS, more=[filler])
    assert [step for step, *_ in filler.failed] == [3, 4, 5]
    for step, problem, places, free in filler.failed:
        assert f"the checkpoint of step {step} could not be written: [Errno 28] No space left on device" in problem
        assert "(it needs 2.4 MiB, 1.0 MiB are free)" in problem
        assert places == {checkpoint.FENCE, "000000000001", "000000000002"}
        assert free >= 1 << 20
    assert_ended_alike(small_disk, unbroken)


def test_two_workers_agree_on_what_a_full_disk_means(table, tmp_path):
    told = in_two_processes(tmp_path, table.path)
    assert told[0] == told[1]
    found = told[0]
    ends = [f"{kind} {step}" for kind, step in found["passes"]["ends"]]
    assert ends == ["Written 2", "Failed 4", "Written 6", "Written 8", "Written 9"]
    assert not found["passes"]["problem"]
    assert (found["stays"]["steps"], Path(found["stays"]["newest"]).name) == (6, f"{2:012d}")
    expected = r"^TrainingError: .* step 6 could not be written: .*File too large.* 2 saves in a row .* from step 2$"
    assert re.search(expected, found["stays"]["problem"])
    assert found["resumed"]["steps"] == 9
    ends = [read(checkpoint.verify(Path(found[name]["newest"]))).weights for name in ("unbroken", "passes", "resumed")]
    assert all(torch.equal(weights[name], tensor) for weights in ends[1:] for name, tensor in ends[0].items())


def in_two_processes(folder: Path, table: Path) -> list[dict]:
    """Run `ranks.py`; what each of the two told."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join([str(ROOT / "platform"), str(ROOT / "tests")])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests/faults/ranks.py"), str(folder), str(table)],
            env={**os.environ, **group, "PYTHONPATH": path, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=250)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(output[-3000:] for output in outputs)
    return [json.loads((folder / f"told{rank}.json").read_text()) for rank in range(2)]
