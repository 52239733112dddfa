"""A one-node Ray cluster of one's own: private temporary folder, private ports, a token, and an end that is an end.

Several users of one host would otherwise find each other's clusters, and a plain ``ray stop`` ends them all.
"""

import ctypes
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
_PR_SET_PDEATHSIG = 1
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
                preexec_fn=_end_with_parent,
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
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid in self._processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(self.folder, ignore_errors=True)

    def _processes(self) -> list[int]:
        """Processes that name the cluster's folder on their command line or as their log's place."""
        mine = str(self.folder).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if mine in (entry / "cmdline").read_bytes() or mine in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found


def _end_with_parent() -> None:
    """Have the kernel send SIGTERM when the process that started this one dies, however it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


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
