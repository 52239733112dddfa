"""An MLflow store that is migrated once, and one real server for the tests that need it."""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from marey.tracking.links import ui_command
from marey.tracking.store import connect


@dataclass(frozen=True)
class Server:
    """A running MLflow server."""

    port: int
    results: Path
    seconds: float

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def _no_server_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite store; making one takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def results(tmp_path: Path, migrated: Path) -> Path:
    """A results folder with an empty store in it."""
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def server(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server started by exactly the command that users are given."""
    results = tmp_path_factory.mktemp("served")
    shutil.copy(migrated, results / "mlflow.db")
    port = free_port()
    command = ui_command(f"sqlite:///{results}/mlflow.db", port)
    assert command is not None
    began = time.monotonic()
    with (results / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, shell=True, cwd=results, stdout=log, stderr=log, start_new_session=True, env=os.environ
        )
        try:
            _wait_until_served(port, process)
            yield Server(port, results, time.monotonic() - began)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_served(port: int, process: subprocess.Popen[bytes], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the server did not answer within {seconds:.0f} s")
