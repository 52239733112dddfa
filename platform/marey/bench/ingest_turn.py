"""One turn of a row of `marey.bench.ingest`: start its program, take its answers, measure its processes."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import marey
from marey.bench.processes import Processes

_LIMIT_SECONDS = 1200
"""A turn that takes longer is ended."""
_END_SECONDS = 30


class Failed(Exception):
    """A row's program ended before it was done; why."""


@dataclass(frozen=True)
class Feeder:
    """A row's program, and a folder for what it leaves behind."""

    command: list[str]
    folder: Path


@dataclass(frozen=True)
class Turn:
    """What one turn cost: seconds, seconds of processor time, bytes; and what it brought."""

    wall: float
    cpu: float
    peak_bytes: int
    idle_bytes: int
    """Of the program before it feeds, Ray's cluster included."""
    start_wall: float
    start_cpu: float
    all_cpu: float
    """With the start and the first pass."""
    brought: list[list[int]]
    """Rows of each pass, in the order in which they came."""
    sums: list[int]
    """Of the measured pass's clips."""


def take_turn(feeder: Feeder) -> Turn:
    """Run the program once; see `marey.bench.ingest_peers.serve` for what it answers."""
    with tempfile.TemporaryFile("w+", dir=feeder.folder) as errors, tempfile.TemporaryDirectory(prefix="m-") as short:
        process = subprocess.Popen(
            feeder.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(short),
            start_new_session=True,
        )
        limit = threading.Timer(_LIMIT_SECONDS, _kill, [process.pid])
        limit.start()
        try:
            with process, Processes(process.pid) as processes:
                return _follow(process, processes)
        except (BrokenPipeError, json.JSONDecodeError):
            process.wait()
            raise Failed(_reason(errors, process.returncode)) from None
        finally:
            limit.cancel()


def _follow(process: "subprocess.Popen[str]", processes: Processes) -> Turn:
    assert process.stdin is not None
    assert process.stdout is not None
    start = time.perf_counter()
    json.loads(process.stdout.readline())
    idle = processes.look_at_memory()
    json.loads(process.stdout.readline())
    start_wall, start_cpu = time.perf_counter() - start, processes.seconds()
    warm: dict[str, Any] = json.loads(process.stdout.readline())
    begun, spent = time.perf_counter(), processes.seconds()
    process.stdin.write("\n")
    process.stdin.flush()
    measured: dict[str, Any] = json.loads(process.stdout.readline())
    wall, cpu = time.perf_counter() - begun, processes.seconds() - spent
    processes.look_at_memory()
    process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):  # time to let go of shared memory
        process.wait(_END_SECONDS)
    brought = [warm["rows"], measured["rows"]]
    return Turn(wall, cpu, processes.peak_bytes, idle, start_wall, start_cpu, spent + cpu, brought, measured["sums"])


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _environment(folder: str) -> dict[str, str]:
    """For a cluster of its own, and loaders' locks and caches of their own, whatever others run on this host."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    sources = str(Path(marey.__file__).parents[1])
    ray = {"RAY_ADDRESS": "local", "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    return {**kept, **ray, "PYTHONPATH": sources, "TMPDIR": folder}


def _reason(errors: Any, code: int) -> str:
    errors.seek(0)
    lines = [line.strip() for line in errors.read().splitlines() if line.strip()]
    return f"ended with exit code {code}" + (f": {lines[-1][:200]}" if lines else "")
