"""A one-node Ray cluster of one's own: private temporary folder, private ports, a token, and an end that is an end.

Several users of one host would otherwise find each other's clusters, and a plain ``ray stop`` ends them all.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from marey.errors import ResourceError

START_SECONDS = 120
STOP_SECONDS = 3
# Below the range that the kernel hands out, above the one in which Ray puts its workers (10002 to 19999).
PORTS = range(20100, 32000)


class LocalCluster:
    """``with LocalCluster(cpus=2) as cluster``: a cluster while the block runs; `environment` is for its clients."""

    def __init__(self, cpus: int | None = None, object_store_mib: int = 512, token: Path | None = None) -> None:
        self.cpus = cpus or len(os.sched_getaffinity(0))
        self.object_store_bytes = object_store_mib * 2**20
        # In /tmp and short: paths of unix sockets may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="marey-", dir="/tmp"))
        self.port, self.dashboard_port, self.client_port = _free_ports(3)
        self.token = token or self.folder / "token"
        self.process: subprocess.Popen[bytes] | None = None
        self.guard: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where jobs are submitted, and the dashboard."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which `ray job submit` finds the cluster and is let in."""
        own = Path(sys.executable).parent
        return {
            **os.environ,
            "PATH": f"{own}{os.pathsep}{os.environ.get('PATH', '')}",
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        }

    def __enter__(self) -> "LocalCluster":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the head and wait until it takes jobs; `ResourceError` with the log's end if it does not."""
        if not self.token.exists():
            self.token.touch(mode=0o600)
            self.token.write_text(secrets.token_hex(32))
        environment = {**self.environment, "RAY_JOB_STOP_WAIT_TIME_S": "30"}
        del environment["RAY_ADDRESS"]  # that is for its clients
        with (self.folder / "start.log").open("wb") as log:
            self.process = subprocess.Popen(
                self._command(),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # In an environment without the cluster's folder, by which it finds what to end.
        guard = [sys.executable, "-m", "marey.launch.local_cluster", str(self.folder)]
        sources = str(Path(__file__).parents[2])
        self.guard = subprocess.Popen(
            guard, env={**os.environ, "PYTHONPATH": sources}, stdin=subprocess.PIPE, start_new_session=True
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = (self.folder / "start.log").read_text(errors="replace")[-2000:]
                self.stop()
                raise ResourceError(f"the local Ray cluster did not start:\n{tail}")
            time.sleep(0.3)

    def _command(self) -> list[str]:
        ray = Path(sys.executable).parent / "ray"
        return [
            *(str(ray), "start", "--head", "--block", "--include-dashboard=true", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", f"--port={self.port}", "--dashboard-host=127.0.0.1"),
            *(f"--dashboard-port={self.dashboard_port}", "--dashboard-agent-listen-port=0"),
            *(f"--ray-client-server-port={self.client_port}", f"--num-cpus={self.cpus}", f"--temp-dir={self.folder}"),
            f"--object-store-memory={self.object_store_bytes}",
        ]

    def _answers(self) -> bool:
        request = urllib.request.Request(
            f"{self.address}/api/version", headers={"Authorization": f"Bearer {self.token.read_text()}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        """End every process of this cluster, and remove its folder."""
        if self.guard is not None and self.guard.stdin is not None:
            self.guard.stdin.close()
            self.guard.wait()
        if self.process is not None:
            self.process.wait()


def _guard(folder: Path) -> None:
    """Wait until the cluster's owner closes the pipe or dies, then end the cluster: `ray start` may not by itself."""
    sys.stdin.read()
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _processes(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + STOP_SECONDS
        while _processes(folder) and time.monotonic() < deadline:
            time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def _processes(folder: Path) -> list[int]:
    """Processes that have the cluster's folder on their command line or in their environment; not this one."""
    mine = str(folder).encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mine in (entry / "cmdline").read_bytes() or mine in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def _free_ports(count: int) -> list[int]:
    """Ports on which nothing listens now."""
    found: list[int] = []
    start = secrets.randbelow(len(PORTS))
    for offset in range(len(PORTS)):
        port = PORTS[(start + offset) % len(PORTS)]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise ResourceError(f"no {count} free ports between {PORTS[0]} and {PORTS[-1]}")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; the owner decides
    _guard(Path(sys.argv[1]))
