"""An MLflow store that is migrated once, and one real server for the tests that need it."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from marey.tracking.links import ui_command
from marey.tracking.store import connect
from tracking.served import Server, free_port, wait_until_served


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
            wait_until_served(port, process)
            yield Server(port, results, time.monotonic() - began)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
