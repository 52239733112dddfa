"""Where MLflow keeps its runs: which store is meant, how it is created once, how a client for it is made."""

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from marey.errors import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
SERVERS = ("http://", "https://", "databricks")
DATABASES = (SQLITE, "postgresql", "mysql", "mssql")

# MLflow's own patience is minutes for one call. We retry ourselves, and need to hear of a failure soon.
# What the user has set stays.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

_NOTE = "One run here is one training run over all its restarts. Tick runs to compare their settings."


def store_uri(uri: str | None, results: Path) -> str:
    """The store that is meant: ``uri``, else ``$MLFLOW_TRACKING_URI``, else ``<results>/mlflow.db``."""
    return check_uri(uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{results.absolute()}/mlflow.db")


def check_uri(uri: str) -> str:
    """``uri`` itself; raises `ConfigError` for one that MLflow could not use from wherever a run's process is."""
    allowed = "an http(s) server, sqlite:////absolute/path/mlflow.db, or a postgresql, mysql or mssql URI"
    if not uri.startswith(SERVERS + DATABASES):
        raise ConfigError(f"tracking.uri={hide_secrets(uri)!r}: not a store that MLflow writes to; give {allowed}")
    if uri.startswith(SQLITE) and not uri.startswith(SQLITE + "/"):
        raise ConfigError(f'tracking.uri={uri!r}: a relative path; write tracking.uri="sqlite:///$PWD/mlflow.db"')
    return uri


def hide_secrets(text: str) -> str:
    """``text`` with the user and password in URLs replaced by ``***``: what is tracked is read by many."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)


@contextmanager
def short_patience() -> Iterator[None]:
    """MLflow's calls fail soon inside, and what the environment said before holds again after."""
    added = {key: value for key, value in _ENVIRONMENT.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


def connect(uri: str) -> "MlflowClient":
    """A client for the store at ``uri``; an SQLite one is made if need be, by one process at a time."""
    from mlflow import MlflowClient

    if not uri.startswith(SQLITE):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    database = Path(uri.removeprefix(SQLITE))
    database.parent.mkdir(parents=True, exist_ok=True)
    # Two hundred lines of migrations are no news to whoever trains.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    # MLflow's own lock is in /tmp: it does not hold between hosts that share a disk.
    with database.with_suffix(".db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.get_experiment_by_name("Default")  # opens the store, which is when it is made
        return client


def experiment_id(client: "MlflowClient", name: str, uri: str, artifacts: Path) -> str:
    """The experiment called ``name``, made if there is none; raises `ConfigError` if it was deleted.

    A server decides itself where artifacts go; beside a database they go to ``artifacts``.
    """
    from mlflow import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if uri.startswith(SERVERS) else artifacts.absolute().as_uri()
        try:
            return client.create_experiment(name, location, {"mlflow.note.content": _NOTE})
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was first
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise ConfigError(
            f"tracking.experiment={name!r}: deleted in MLflow; give another name, or bring it back with: "
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return found.experiment_id
