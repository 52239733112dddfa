import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from marey.errors import ConfigError
from marey.tracking import delivery, mlflow
from marey.tracking.base import Trackers
from marey.tracking.delivery import left
from marey.tracking.mlflow import TrackingConfig, deliver
from marey.tracking.store import connect, hide_secrets
from tracking.gate import Gate
from tracking.runs import client_of, pictures_of, run_of, start, steps_of
from tracking.served import Server, free_port

# A child finds what this process finds.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def wait_until(done: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_and_its_restart_are_one_run(results: Path) -> None:
    first = start(results)
    for step in range(1, 31):
        first.metrics(step, {"train/loss": 1 / step, "val/top 1 (%)": float("nan")})
    first.picture(10, "reconstruction", np.zeros((8, 12, 3), np.uint8))
    first.end("failed", "loss is nan\nat step 30")
    client = client_of(results)
    run = run_of(client, results)
    assert (run.info.status, run.data.tags["marey.error"]) == ("FAILED", "loss is nan")

    second = start(results, **{"engine.zero": 2, "fleet.workers": 4, "long": "x" * 9000})
    assert run_of(client, results).info.status == "RUNNING"
    for step in range(21, 51):
        second.metrics(step, {"train/loss": 1 / step})
    second.picture(10, "reconstruction", np.zeros((8, 12, 3), np.uint8))
    second.end("finished")
    run = run_of(client, results)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert steps_of(client, run) == list(range(1, 51))
    assert steps_of(client, run, "val/top 1 ___") == list(range(1, 31))
    assert pictures_of(client, run) == ["reconstruction+step+10"] * 2  # the picture and its preview
    assert run.data.params["engine.zero"] == "0"
    assert run.data.tags["resumed.engine.zero"] == "2"
    assert (run.data.params["fleet.workers"], len(run.data.params["long"])) == ("4", 6000)
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_settings_are_searched_by_their_dotted_paths(results: Path) -> None:
    start(results, "a").end("finished")
    start(results, "b", **{"recipe.mask_ratio": 0.75, "tracking.uri": "postgresql://me:secret@host/db"}).end("killed")
    client = client_of(results)
    experiment = client.get_experiment_by_name("marey").experiment_id
    found = client.search_runs([experiment], "params.`recipe.mask_ratio` = '0.75' and params.table = 'null'")
    assert [(run.info.run_name, run.info.status) for run in found] == [("b", "KILLED")]
    assert found[0].data.params["tracking.uri"] == "postgresql://***@host/db"
    assert len(client.search_runs([experiment], "tags.backbone = 'videomae_v2_tiny'")) == 2


KILLED = """
import os, signal, threading, time
from pathlib import Path
from tracking.runs import start
trackers = start(Path({results!r}))
threading.Timer({seconds}, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
for step in range(1, 100_000):
    trackers.metrics(step, {{"train/loss": 1 / step}})
    time.sleep(0.002)
"""


def test_after_sigkill_there_is_no_gap_and_no_doubled_step(results: Path) -> None:
    script = KILLED.format(results=str(results), seconds=1.5)  # some points are with MLflow by then, some are not
    killed = subprocess.run([sys.executable, "-c", script], check=False, env=ENVIRONMENT)
    assert killed.returncode == -9
    reached = (results / "runs/run/metrics.jsonl").read_bytes().count(b"\n")
    assert reached > 10
    resumed = start(results)
    for step in range(reached // 2, reached + 100):
        resumed.metrics(step, {"train/loss": 1 / step})
    resumed.end("finished")
    client = client_of(results)
    run = run_of(client, results)
    assert steps_of(client, run) == list(range(1, reached + 100))
    assert run.info.status == "FINISHED"


def test_a_lost_cursor_doubles_nothing(results: Path) -> None:
    trackers = start(results)
    for step in range(1, 2500):
        trackers.metrics(step, {"train/loss": 1 / step})
    trackers.picture(7, "reconstruction", np.zeros((8, 8, 3), np.uint8))
    trackers.end("finished")
    (results / "runs/run/mlflow.sent.json").unlink()
    assert deliver(results / "runs/run") == 2500
    assert left(results / "runs/run") == 0
    client = client_of(results)
    run = run_of(client, results)
    assert steps_of(client, run) == list(range(1, 2500))
    assert len(pictures_of(client, run)) == 2
    assert run.info.status == "FINISHED"


def test_a_run_that_mlflow_lost_is_made_again(results: Path) -> None:
    trackers = start(results)
    trackers.metrics(1, {"train/loss": 1.0})
    trackers.end("finished")
    client = client_of(results)
    client.delete_run(run_of(client, results).info.run_id)
    deliver(results / "runs/run")
    assert steps_of(client, run_of(client, results)) == [1]


def test_runs_without_a_heartbeat_are_repaired(results: Path) -> None:
    client = client_of(results)
    start(results, "alive").end("finished")
    start(results, "dead").end("finished")
    start(results, "ended").end("failed")
    now = time.time()
    for name, beat in (("dead", now - 300), ("alive", now - 20)):
        run_id = run_of(client, results, name).info.run_id
        client.update_run(run_id, status="RUNNING")
        client.set_tag(run_id, "marey.heartbeat", str(int(beat)))
    stranger = client.create_run(run_of(client, results, "dead").info.experiment_id, start_time=1)
    fresh = start(results, "fresh")
    wait_until(lambda: run_of(client, results, "dead").info.status == "KILLED")
    statuses = {name: run_of(client, results, name).info.status for name in ("alive", "ended", "fresh")}
    assert statuses == {"alive": "RUNNING", "ended": "FAILED", "fresh": "RUNNING"}
    assert client.get_run(stranger.info.run_id).info.status == "RUNNING"
    assert abs(run_of(client, results, "dead").info.end_time / 1000 - (now - 300)) < 2
    assert abs(float(run_of(client, results, "fresh").data.tags["marey.heartbeat"]) - now) < 30
    fresh.end("finished")


def run_through(trackers: Trackers, first: int, last: int) -> float:
    """Record steps and return the 99th percentile of a call, in seconds."""
    took = []
    for step in range(first, last + 1):
        began = time.perf_counter()
        trackers.metrics(step, {"train/loss": 1 / step, "train/lr": 0.1})
        took.append(time.perf_counter() - began)
    assert max(took) < 0.1
    return float(np.percentile(took, 99))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["refuse", "hole", "error", "mute"])
def test_training_never_waits_and_everything_arrives_once(
    mode: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(mlflow, "LONGEST_PAUSE_SECONDS", 0.5)
    gate = Gate(free_port(), server.port)
    trackers = start(tmp_path, mode, gate.uri)
    run_through(trackers, 1, 50)
    client = MlflowClient(server.uri)
    wait_until(lambda: "train/loss" in run_of(client, tmp_path, mode).data.metrics)
    gate.fail(mode)
    assert run_through(trackers, 51, 400) < 0.05
    trackers.picture(400, "reconstruction", np.zeros((64, 64, 3), np.uint8))
    time.sleep(2.5)
    assert left(tmp_path / "runs" / mode) > 0
    gate.recover()
    run_through(trackers, 401, 450)
    trackers.end("finished")
    gate.close()
    run = run_of(client, tmp_path, mode)
    assert left(tmp_path / "runs" / mode) == 0
    assert steps_of(client, run) == steps_of(client, run, "train/lr") == list(range(1, 451))
    assert pictures_of(client, run) == ["reconstruction+step+400"] * 2
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_a_server_that_is_away_from_start_to_end(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mlflow, "END_SECONDS", 0.5)
    port = free_port()
    trackers = start(tmp_path, "away", f"http://127.0.0.1:{port}")
    run_through(trackers, 1, 100)
    trackers.end("failed", "out of memory")
    said = capfd.readouterr().err
    assert "does not take the run's record" in said
    assert f"200 points and pictures are left in {tmp_path / 'runs/away/metrics.jsonl'}" in said
    gate = Gate(port, server.port)
    assert deliver(tmp_path / "runs/away") == 200
    gate.close()
    client = MlflowClient(server.uri)
    run = run_of(client, tmp_path, "away")
    assert steps_of(client, run) == list(range(1, 101))
    assert (run.info.status, run.data.params["recipe.mask_ratio"]) == ("FAILED", "0.9")


@pytest.mark.slow
def test_an_answer_that_is_lost_makes_no_second_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = delivery.projection.create_run

    def lose(*arguments: Any) -> str:
        monkeypatch.setattr(delivery.projection, "create_run", create)
        create(*arguments)
        raise OSError("connection reset")

    monkeypatch.setattr(delivery.projection, "create_run", lose)
    trackers = start(tmp_path, "once", server.uri)
    trackers.metrics(1, {"train/loss": 1.0})
    trackers.end("finished")
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("marey").experiment_id
    assert len(client.search_runs([experiment], "attributes.run_name = 'once'")) == 1
    assert steps_of(client, run_of(client, tmp_path, "once")) == [1]


@pytest.mark.slow
def test_two_processes_make_the_store_at_once(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tracking.runs import start\n"
        "trackers = start(Path(sys.argv[1]), sys.argv[2]); trackers.metrics(1, {'train/loss': 1.0})\n"
        "trackers.end('finished')"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path)]
    processes = [
        subprocess.Popen([*arguments, name], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) for name in ("a", "b")
    ]
    errors = [process.communicate(timeout=50)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    client = client_of(tmp_path)
    runs = client.search_runs([client.get_experiment_by_name("marey").experiment_id])
    assert sorted((run.info.run_name, run.info.status) for run in runs) == [("a", "FINISHED"), ("b", "FINISHED")]


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "mlruns", "file:///x", "ftp://host"])
def test_stores_that_cannot_be_used_are_named(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri|uri"):
        TrackingConfig().replace(uri=uri)


def test_a_deleted_experiment_is_named(results: Path) -> None:
    client = connect(f"sqlite:///{results}/mlflow.db")
    client.delete_experiment(client.create_experiment("marey"))
    with pytest.raises(ConfigError, match="mlflow experiments restore"):
        start(results)


def test_passwords_in_urls_are_hidden() -> None:
    assert hide_secrets("see https://u:p@h/x and s3://b/k@2") == "see https://***@h/x and s3://b/k@2"


def test_the_environment_is_left_as_it_was(results: Path) -> None:
    before = dict(os.environ)
    start(results).end("finished")
    changed = {key for key in before.keys() | os.environ.keys() if before.get(key) != os.environ.get(key)}
    assert not {key for key in changed if key.startswith("MLFLOW")}
