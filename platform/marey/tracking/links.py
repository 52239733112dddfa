"""How to look at runs in a browser: the command that opens the UI, and the pages that show what one came for."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from marey.tracking.delivery import Place, read_place
from marey.tracking.store import SERVERS
from marey.tracking.views import EXPERIMENT_VIEW

PORT = 5000


def ui_command(uri: str, port: int = PORT) -> str | None:
    """The command that serves the UI of the store at ``uri`` on this machine only; None where a server does already.

    One worker, and none of the services for language models: with them MLflow takes several times as long to start
    and more than a gigabyte.
    """
    if uri.startswith(SERVERS):
        return None
    # By its full path: a job's PATH is not that of the shell in which the command is pasted.
    beside = Path(sys.executable).parent / "mlflow"
    program = str(beside) if beside.exists() else "mlflow"
    light = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
    return f"{light} {shlex.quote(program)} ui --backend-store-uri {shlex.quote(uri)} --workers 1 --port {port}"


def run_url(directory: Path, port: int = PORT) -> str | None:
    """The page with the pictures and curves of the run in ``directory``; None until MLflow knows the run.

    Of a database's runs it is on the server that `ui_command` starts.
    """
    place = read_place(directory)
    return _chart_url(place, place.run_id, port) if place is not None and place.run_id is not None else None


def experiment_url(directory: Path, port: int = PORT) -> str | None:
    """The page that compares all runs of the experiment of the run in ``directory``; None until it is known."""
    place = read_place(directory)
    return _chart_url(place, EXPERIMENT_VIEW, port) if place is not None else None


def compare_url(directories: Sequence[Path], port: int = PORT) -> str | None:
    """The page that lists metrics and differing settings of these runs side by side; None unless one MLflow has all."""
    places = [read_place(directory) for directory in directories]
    if any(place is None or place.run_id is None or place.experiment_id is None for place in places):
        return None
    known = [place for place in places if place is not None]
    if len({place.uri for place in known}) != 1:
        return None
    runs = json.dumps([place.run_id for place in known], separators=(",", ":"))
    experiments = json.dumps(sorted({place.experiment_id for place in known if place.experiment_id}))
    return f"{_server(known[0], port)}/#/compare-runs?runs={quote(runs)}&experiments={quote(experiments)}"


def _server(place: Place, port: int) -> str:
    return place.uri.rstrip("/") if place.uri.startswith(("http://", "https://")) else f"http://127.0.0.1:{port}"


def _chart_url(place: Place, view: str, port: int) -> str | None:
    """A plain link to an experiment opens MLflow's other face, for language models, where no runs are seen."""
    if place.experiment_id is None:
        return None
    query = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={view}"
    return f"{_server(place, port)}/#/experiments/{place.experiment_id}/runs?{query}"
