"""Preparing each video in a process of its own, so that a crash, a bomb or a hang costs that one video.

`Sandbox` starts one server (``python -m marey.clips.sandbox``) that imports everything once and then forks a child for
each video: cheap, and with limits on memory, processor time and wall clock. Requests are lines of JSON on the server's
standard input; rows come back in an Arrow file, so that a long video never lies in memory whole. The server ends when
its input does, that is, when whoever started it is gone; a child ends with its server.
"""

import contextlib
import ctypes
import errno
import json
import math
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

import marey
from marey.clips.datasets import Source
from marey.clips.flow_methods import opencv
from marey.clips.row import SCHEMA, Quarantined, to_arrow
from marey.clips.segments import iterate_rows
from marey.clips.storage import ClipStorage
from marey.clips.video import Refused
from marey.config import to_tree, validate
from marey.errors import ClipError

_MAX_RESULT_BYTES = 64 << 30
_MAX_OPEN_FILES = 64
_PR_SET_PDEATHSIG = 1
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
# The server forks: it must not have threads, which these libraries start as they are loaded.
_NO_THREADS = {
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


class Sandbox:
    """A server process that prepares videos one at a time; a context manager."""

    def __init__(self, storage: ClipStorage) -> None:
        self._storage = storage
        self._folder = tempfile.TemporaryDirectory(prefix="marey-sandbox-")

    @cached_property
    def _server(self) -> "subprocess.Popen[bytes]":
        """Started by the first video: where all is prepared already, there is none."""
        # Where the package is importable only because of this process's own sys.path, the server must be told.
        root = str(Path(marey.__file__).parent.parent)
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        return subprocess.Popen(
            [sys.executable, "-m", "marey.clips.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_NO_THREADS, "PYTHONPATH": os.pathsep.join(paths)},
            cwd=self._folder.name,
            start_new_session=True,  # Ctrl-C is for us; the server ends with its standard input
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "_server" in vars(self):
            self._end()
        self._folder.cleanup()

    def _end(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def tables(self, source: Source) -> Iterator[pa.Table]:
        """The rows of one video as Arrow tables of a few rows. Raises `Refused` where it has none."""
        rows = Path(self._folder.name) / "rows.arrow"
        answer = self._ask({"source": asdict(source), "storage": to_tree(self._storage), "rows": str(rows)})
        if answer["status"] == "failed":
            raise ClipError(f"{self._folder.name}: no room for the rows of {source.source_id}: {answer['reason']}")
        if answer["status"] != "ok":
            raise Refused(answer["stage"], answer["reason"])
        with pa.memory_map(str(rows)) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(number)])
        rows.unlink()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        try:
            self._server.stdin.write(json.dumps(request).encode() + b"\n")
            self._server.stdin.flush()
            line = self._server.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise ClipError(f"the process that decodes videos has ended (exit status {self._server.wait()})")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve() -> None:
    """Answer requests until standard input ends."""
    # Results go where stdout led; what libraries print must not get between them.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    to_arrow([])  # Arrow imports pandas at its first conversion: a third of a second, otherwise in each child anew
    while line := _read_line():
        answers.write(json.dumps(_run(json.loads(line))) + "\n")
        answers.flush()


def _read_line() -> bytes:
    """One line of standard input, unbuffered, so that `select` sees when it ends."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            return b""
        line += piece
    return line


def _run(request: dict[str, Any]) -> dict[str, Any]:
    storage: ClipStorage = validate(ClipStorage, request["storage"])
    if storage.flow != "none":
        opencv()  # once, not in each child anew
    reader, writer = os.pipe()
    server = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _end_with(server)
        _child(request, storage, writer)
    os.close(writer)
    said, extra, timed_out = _listen(reader, child, storage.limits.seconds)
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    if said:
        answer: dict[str, Any] = json.loads(said)
        return answer
    return {"status": "refused", "stage": "decode", "reason": _death(status, timed_out, storage, extra)}


def _listen(reader: int, child: int, seconds: float) -> tuple[bytes, float, bool]:
    """The child's answer, the seconds that it asked for beside its own, and whether it was killed as they were over.

    Lines "+<seconds>" before the answer ask for time (`_asking`).
    """
    deadline = time.monotonic() + seconds
    said, extra = b"", 0.0
    while (left := deadline + extra - time.monotonic()) > 0:
        ready, _, _ = select.select([reader, 0], [], [], left)
        if reader in ready:
            if not (piece := os.read(reader, 1 << 16)):
                return said, extra, False
            said += piece
            while said.startswith(b"+") and b"\n" in said:
                line, said = said.split(b"\n", 1)
                extra += float(line)
        elif ready and not os.read(0, 1):  # whoever started us is gone
            os.kill(child, signal.SIGKILL)
            os._exit(1)
    os.kill(child, signal.SIGKILL)
    return b"", extra, True


def _death(status: int, timed_out: bool, storage: ClipStorage, extra: float) -> str:
    limits = storage.limits
    beside = f", and {extra:.0f} s for its flow" if extra else ""
    if timed_out:
        return f"took longer than {limits.seconds:g} s (clips.limits.seconds{beside})"
    if not os.WIFSIGNALED(status):
        return f"the decoder gave up (exit status {os.waitstatus_to_exitcode(status)})"
    number = os.WTERMSIG(status)
    if number in (signal.SIGXCPU, signal.SIGKILL):
        return f"used more than {limits.seconds:g} s of processor time (clips.limits.seconds{beside}), or was killed"
    if number == signal.SIGXFSZ:
        return f"its rows exceed {_MAX_RESULT_BYTES >> 30} GiB"
    return f"the decoder crashed ({signal.Signals(number).name})"


def _child(request: dict[str, Any], storage: ClipStorage, writer: int) -> None:
    """Prepare one video and say how it went; never returns."""
    at_rest = _memory("VmSize")
    try:
        _restrict(storage, at_rest)
        answer = _prepare(request, storage, writer)
    except MemoryError:
        answer = _refusal("decode", f"needs more than {storage.limits.memory_mib} MiB (clips.limits.memory_mib)")
    except Refused as refused:
        # Decoders mostly pass over a failed allocation and then call the video damaged.
        starved = (_memory("VmPeak") - at_rest) >> 20 > storage.limits.memory_mib // 2
        hint = f"; or it needs more than {storage.limits.memory_mib} MiB (clips.limits.memory_mib)" if starved else ""
        answer = _refusal(refused.stage, refused.reason + hint)
    except OSError as error:
        # A full disk says nothing about the video.
        disk = error.errno in _DISK_ERRORS
        reason = f"{type(error).__name__}: {error}"
        answer = {"status": "failed", "reason": reason} if disk else _refusal("decode", reason)
    except Exception as error:  # the process ends here; what it met is the answer
        answer = _refusal("decode", f"{type(error).__name__}: {error}")
    os.write(writer, json.dumps(answer).encode())
    os._exit(0)


def _refusal(stage: str, reason: str) -> dict[str, Any]:
    return {"status": "refused", "stage": stage, "reason": reason}


def _prepare(request: dict[str, Any], storage: ClipStorage, writer: int) -> dict[str, Any]:
    rows = iterate_rows(Source(**request["source"]), storage, _asking(writer))
    with pa.OSFile(request["rows"], "wb") as file, pa.ipc.new_file(file, SCHEMA) as stream:
        for row in rows:
            stream.write_table(to_arrow([row]))
    return {"status": "ok"}


def _asking(writer: int) -> Callable[[float], None]:
    """How this process asks for more time than ``limits.seconds``, for work whose length is known beforehand."""

    def allow(seconds: float) -> None:
        granted = math.ceil(seconds)
        soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
        soft += granted
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
        os.write(writer, b"+%d\n" % granted)

    return allow


def _end_with(server: int) -> None:
    """Let the kernel end this process, on Linux, when its server ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it ended before we could say so
        os._exit(1)


def _restrict(storage: ClipStorage, at_rest: int) -> None:
    """Limits for this process."""
    limits = storage.limits
    memory = at_rest + (limits.memory_mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    seconds = int(limits.seconds) + 1
    # The soft limit ends a process that does nothing about it; a lower hard one could not be raised again for flow.
    hard = seconds + 1 if storage.flow == "none" else resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_RESULT_BYTES, _MAX_RESULT_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_OPEN_FILES, _MAX_OPEN_FILES))


def _memory(entry: str) -> int:
    """Bytes of this process's address space: "VmSize" now, "VmPeak" at most. A guess where there is no /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(entry)), 1 << 30)


def quarantined(source: Source, refused: Refused) -> Quarantined:
    """The line of the quarantine list for a refused source."""
    return Quarantined(source.source_id, source.uri, refused.stage, refused.reason)


if __name__ == "__main__":
    serve()
