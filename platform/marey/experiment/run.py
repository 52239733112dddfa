"""A run's (or a sweep's) folder: its name, its settings, whether it may be taken up again, and who holds it."""

import errno
import fcntl
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from marey.clips.location import write_atomically
from marey.config import flatten, to_tree, with_defaults
from marey.engine.object_store import copies_of
from marey.errors import RunError
from marey.experiment.training import Training

# Settings with which a run may go on though they differ: they change how it is computed, not what.
RESUMABLE = (
    "name", "results", "table", "tables", "videos", "epochs", "engine.strategy", "engine.zero", "engine.micro_batch",
    "engine.activation_checkpointing", "engine.device", "engine.check_replicas", "bad_steps", "checkpoint", "log",
    "tracking", "fleet", "validation",
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
    record = {"settings": to_tree(training), "table_fingerprint": fingerprint}
    return take_up(training.results / "runs" / training.name, record, training, recall=_recall)


def _recall(directory: Path, training: Training) -> None:
    """Bring back what the run's copies (`checkpoint.copy_to`) have and its folder has not.

    Raises `RunError` if the store cannot be asked: going on without could lose work.
    """
    copies = copies_of(directory / "checkpoints", training.checkpoint)
    if copies is None:
        return
    try:
        saved = copies.fetch(directory / "checkpoints")
    except OSError as error:
        raise RunError(f"{error}; see that checkpoint.copy_to is right and can be reached, then run again") from None
    if saved is None:
        return
    print(f"copy     step {saved.step} brought back from {copies.place}", flush=True)
    lineage = saved.state["lineage"]
    if not (directory / SETTINGS).exists():
        _write_settings(directory, {key: lineage[key] for key in ("settings", "table_fingerprint")})


def _write_settings(directory: Path, record: dict[str, Any]) -> None:
    write_atomically(directory / SETTINGS, yaml.safe_dump(record, sort_keys=False).encode())


def take_up(
    directory: Path,
    record: dict[str, Any],
    training: Training,
    resumable: tuple[str, ...] = RESUMABLE,
    recall: Callable[[Path, Training], None] | None = None,
) -> Run:
    """Make or take up the run or sweep in ``directory``, and hold it; ``record`` is what it is started with.

    A setting of ``training`` that is newer than the run had its default then. ``recall``: what brings back a run that
    is kept elsewhere, once it is held.

    Raises `RunError` if another process holds it, or if something differs that is not among ``resumable``.
    """
    name = directory.name
    directory.mkdir(parents=True, exist_ok=True)
    lock = _hold(directory, name)
    if recall is not None:
        recall(directory, training)
    path = directory / SETTINGS
    resumed = path.exists()
    if resumed:
        before = yaml.safe_load(path.read_text())
        before["settings"] = with_defaults(before["settings"], training)
        _check_resumable(name, before, record, resumable)
    _write_settings(directory, record)
    return Run(name, directory, resumed, lock)


def _hold(directory: Path, name: str) -> IO[str]:
    """An advisory lock that ends with this process, however it ends.

    NFS and Lustre (mounted with ``flock``) keep it for all hosts. Where it holds for one host alone, or not at all, the
    fence of the checkpoints (`marey.engine.checkpoint.take_over`) still has one writer: the last that came.
    """
    lock = (directory / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise RunError(f"name={name}: this run is going on, held by {_holder(lock)}") from None
        print(
            f"{directory}: this file system keeps no locks ({error.strerror}): see that name={name} runs only once at "
            "a time (Lustre: mount with -o flock)",
            flush=True,
        )
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    lock.flush()
    return lock


def _holder(lock: IO[str]) -> str:
    """What the holder has written; it may just have got the lock."""
    for _ in range(20):
        lock.seek(0)
        if told := lock.read().strip():
            return told
        time.sleep(0.05)
    return "another process"


def _check_resumable(name: str, before: dict[str, Any], now: dict[str, Any], resumable: tuple[str, ...]) -> None:
    old, new = _paths(before), _paths(now)
    lines = [
        f"  {path}: {_brief(old.get(path))} then, {_brief(new.get(path))} now"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path) and not _among(path, resumable)
    ]
    if lines:
        raise RunError(
            f"name={name}: this run exists and was started with other settings:\n"
            + "\n".join(lines)
            + "\ngive the same settings to take it up again, or another name= for a new run"
        )


def _among(path: str, resumable: tuple[str, ...]) -> bool:
    """Whether ``path`` is one of ``resumable`` or below one."""
    return any(path == one or path.startswith(f"{one}.") for one in resumable)


def _paths(record: dict[str, Any]) -> dict[str, Any]:
    """Settings under their own paths, whatever else was recorded under its key."""
    rest = {key: value for key, value in record.items() if key != "settings"}
    return flatten(record["settings"]) | flatten(rest)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
