"""Saves and trainings in processes whose calls to the file system fail as told: `strace` answers in the kernel's place.

Run as a program by `Faults`: it imports everything once and then forks a child for each order, which stops itself until
`strace` is attached, so that the child's calls are the same ones in the same order every time.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REFUSED = 3
"""Exit code of a child whose save or training raised what storage does to it."""
ANY_TRACER = (0x59616D61, -1)  # prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY)
PATIENCE = 120


class Faults:
    """A process that takes orders; see `obey`."""

    def __init__(self, strace: str, log: Path) -> None:
        path = os.pathsep.join([str(ROOT / "platform"), str(ROOT / "tests")])
        self.strace, self.log = strace, log
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(log / "stderr").open("w"),
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )

    def order(self, work: str, *inject: str, follow: bool = False, **details: Any) -> int:
        """Exit code of a child that does ``work``, or minus the signal that ended it; ``follow``: its threads too."""
        strace = [
            self.strace,
            "-qq",
            "-e",
            "signal=none",
            "-o",
            str(self.log / "calls"),
            *(part for one in inject for part in ("-e", one)),
        ]
        strace += ["-f"] if follow else []
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps({"work": work, "strace": strace, **details}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, (self.log / "stderr").read_text()
        return int(answer)

    def close(self) -> None:
        """End the process."""
        self.process.communicate(timeout=PATIENCE)


def filled(step: int):
    """The state that is saved at ``step``: two files of weights (`SHARD_BYTES`), moments, a moving average."""
    import torch

    from marey.engine.train_state import TrainState

    def tensor(value: float):
        return torch.full((5000,), value)

    weights = {"a": tensor(step), "b": tensor(step + 0.25)}
    moments = {"a": {"exp_avg": tensor(step + 0.5)}}
    return TrainState(weights, moments, step, {"a": tensor(step + 0.75)}, step)


SHARD_BYTES = 25_000


def save(directory: Path, step: int, holder: str | None, keep: int = 2) -> None:
    """What the writer of a run does, once."""
    from marey.engine import checkpoint

    usual, checkpoint.SHARD_BYTES = checkpoint.SHARD_BYTES, SHARD_BYTES
    try:
        checkpoint.save(directory, filled(step), {"step": step}, holder)
    finally:
        checkpoint.SHARD_BYTES = usual
    with suppress(OSError):
        checkpoint.prune(directory, checkpoint.CheckpointConfig(keep_last=keep), None)


def train(directory: Path, table: str, steps: int, settings: dict[str, Any]) -> None:
    """A whole tiny training."""
    from marey.clips.table import open_table
    from tiny_training import run, tiny

    run(tiny().replace(checkpoint=settings), open_table(Path(table)), directory, steps=steps)


WORK = {"save": save, "train": train}


def obey(order: dict[str, Any]) -> int:
    """Fork, attach `strace`, let it run."""
    child = os.fork()
    if child == 0:
        os._exit(_child(order))
    os.waitpid(child, os.WUNTRACED)
    tracer = subprocess.Popen([*order["strace"], "-p", str(child)])
    try:
        while "TracerPid:\t0" in Path(f"/proc/{child}/status").read_text():
            assert tracer.poll() is None, "strace could not attach"
            time.sleep(0.002)
    finally:
        os.kill(child, signal.SIGCONT)
    _, status = os.waitpid(child, 0)
    tracer.wait(PATIENCE)
    return os.waitstatus_to_exitcode(status)


def _child(order: dict[str, Any]) -> int:
    from marey.errors import TrainingError

    os.dup2(2, 1)
    details = {key: value for key, value in order.items() if key not in ("work", "strace")}
    ctypes.CDLL(None).prctl(*ANY_TRACER, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        WORK[order["work"]](Path(details.pop("directory")), **details)
    except (OSError, TrainingError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return REFUSED
    return 0


if __name__ == "__main__":
    import torch

    import tiny_training  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        print(obey(json.loads(line)), flush=True)
