"""A run's folder: its name, its settings, whether it may be taken up again, and who holds it."""

import fcntl
import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from marey.config import flatten, to_tree
from marey.errors import RunError
from marey.experiment.training import Training

# Settings with which a run may go on though they differ: they change how it is computed, not what.
RESUMABLE = (
    "name", "results", "table", "videos", "epochs", "engine.strategy", "engine.zero", "engine.micro_batch",
    "engine.activation_checkpointing", "engine.device", "checkpoint", "log", "tracking", "fleet",
)  # fmt: skip
SETTINGS = "settings.yaml"


@dataclass
class Run:
    """One run's place on disk, held by this process until it ends."""

    name: str
    directory: Path
    resumed: bool
    _lock: IO[str]

    def close(self) -> None:
        """Let others have it."""
        self._lock.close()


def fresh_name(job: str) -> str:
    """``job-20260131-174502-a1b2``: sorts by time and does not repeat."""
    return f"{job}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def open_run(training: Training, fingerprint: str) -> Run:
    """Make or take up the run ``training.name``, and hold it.

    Raises `RunError` if another process holds it, or if a setting differs that may not.
    """
    assert training.name is not None
    directory = training.results / "runs" / training.name
    directory.mkdir(parents=True, exist_ok=True)
    lock = _hold(directory, training.name)
    path = directory / SETTINGS
    record = {"settings": to_tree(training), "table_fingerprint": fingerprint}
    resumed = path.exists()
    if resumed:
        _check_resumable(training.name, yaml.safe_load(path.read_text()), record)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(yaml.safe_dump(record, sort_keys=False))
    temporary.rename(path)
    return Run(training.name, directory, resumed, lock)


def _hold(directory: Path, name: str) -> IO[str]:
    """An advisory lock that ends with this process, however it ends."""
    lock = (directory / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        raise RunError(
            f"name={name}: this run is going on, held by {lock.read().strip() or 'another process'}"
        ) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    lock.flush()
    return lock


def _check_resumable(name: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    old, new = flatten(before["settings"]), flatten(now["settings"])
    lines = [
        f"  {path}: {old.get(path)!r} then, {new.get(path)!r} now"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path) and not path.startswith(RESUMABLE)
    ]
    if before["table_fingerprint"] != now["table_fingerprint"]:
        lines.append(
            f"  table: fingerprint {before['table_fingerprint'][:12]} then, {now['table_fingerprint'][:12]} now"
        )
    if lines:
        raise RunError(
            f"name={name}: this run exists and was started with other settings:\n"
            + "\n".join(lines)
            + "\ngive the same settings to take it up again, or another name= for a new run"
        )
