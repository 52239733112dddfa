"""The main job on a real cluster, submitted from an environment that has Marey's dependencies, and not Marey."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from marey.engine.stopping import NOTE
from marey.tracking.journal import read_points
from submitting import ROOT, SMALL, checkpoints, history, mlflow_runs, run_script, submit, until, weights, without_marey
from videos import write_unusable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
JOB = "jobs/pretrain_videomae.py"

# As `make demo` submits a job: Ctrl-C there stops the job too.
CLIENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored where the tests run in the background
from types import SimpleNamespace
from marey.launch.submit import submit
submit(SimpleNamespace(environment=None), sys.argv[1:])
"""


def driver_of(run: str) -> int | None:
    """The process that runs the job of ``run``."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if f"name={run}" in words and JOB in words and "submit" not in words:
            return process.pid
    return None


@contextmanager
def held() -> Iterator[None]:
    """Training stands still: however slow this machine, it does not come to its end before it is stopped or killed."""
    workers = processes("RayTrainWorker")
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)


def stopped_by_ctrl_c(cluster: Any, words: list[str], run: Path, folder: Path) -> str:
    """Submit a job and, once it trains (in ``run``), stop it from there; the submission's name."""
    environment = {**cluster.environment, "PYTHONPATH": str(ROOT / "platform")}
    told = folder / "client.log"
    with told.open("w") as log:
        command = [sys.executable, "-c", CLIENT, *words]
        client = subprocess.Popen(command, env=environment, cwd=folder, start_new_session=True, stdout=log)
        until(lambda: list(read_points(run)) or client.poll() is not None)
        assert client.poll() is None, "the client ended by itself"
        with held():
            os.kill(client.pid, signal.SIGINT)
            until((run / NOTE).exists)
        client.wait(60)
    return re.search(r"--submission-id (\S+)", told.read_text())[1]


def processes(name: str) -> list[int]:
    """Of the cluster, which the processes of this test have started, those of that name."""
    mine = {child.pid for child in psutil.Process().children(recursive=True)}
    found = [process for process in psutil.process_iter(["cmdline"]) if process.pid in mine]
    return [process.pid for process in found if f"ray::{name}" in " ".join(process.info["cmdline"] or [])]


def ray(*words: str, cluster: Any) -> str:
    """What Ray's own command says."""
    done = subprocess.run(["ray", *words], env=cluster.environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference between two sets of weights."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_from_a_folder_with_a_broken_video_to_a_tracked_run(cluster, videos: Path, tmp_path: Path):
    environment = without_marey(cluster.environment)
    probe = subprocess.run([sys.executable, "-c", "import marey"], cwd=tmp_path, env=environment, capture_output=True)
    assert probe.returncode != 0, "Marey is installed here: this would hide that a job does not bring its sources"
    folder = tmp_path / "videos"
    folder.mkdir()
    for path in videos.iterdir():
        (folder / path.name).symlink_to(path)
    write_unusable(folder / "broken")

    table = tmp_path / "table"
    places = [f"videos={folder}", f"table={table}"]
    refused = submit(cluster, "python", "jobs/prepare_clips.py", *places)
    assert refused.returncode == 1
    assert "max_quarantine" in refused.stdout
    assert not (table / "manifest.json").exists()
    prepared = submit(cluster, "jobs/prepare_clips.py", *places, "max_quarantine=0.8")
    assert prepared.returncode == 0, prepared.stdout
    assert "truncated" in (table / "quarantine-report.csv").read_text()

    words = [*SMALL, f"table={table}", f"results={tmp_path}", "fleet.workers=2", "epochs=8", "name=first"]
    trained = submit(cluster, "python", JOB, *words, "engine.strategy=deepspeed", "engine.zero=2")
    assert trained.returncode == 0, trained.stdout
    [run] = mlflow_runs(tmp_path)
    assert run.info.status == "FINISHED"
    assert run.data.params["recipe.decoder_mask_ratio"] == "0.5"
    assert run.data.params["fleet.workers"] == "2"
    assert {"table_fingerprint", "sources_sha256", "cluster", "backbone", "git_commit"} - {
        "git_commit"
    } <= run.data.tags.keys()
    last = checkpoints(tmp_path, "first")[-1]
    assert history(tmp_path, run.info.run_id, "train/loss") == list(range(1, last + 1))
    for key in ("train/lr", "train/grad_norm", "speed/clips_per_second", "speed/data_wait_share", "system/memory_gib"):
        assert history(tmp_path, run.info.run_id, key)
    assert len(list((tmp_path / "runs/first/pictures/reconstruction").glob("*.png"))) == 2
    for text in (run.info.run_id, "mlflow ui", f"#/experiments/{run.info.experiment_id}/runs"):
        assert text in trained.stdout


def test_stopped_killed_and_resumed_under_other_strategies_it_ends_as_the_unbroken_run(cluster, table, tmp_path: Path):
    words = [*SMALL, f"table={table.path}", f"results={tmp_path}", "epochs=100", "checkpoint.every=5"]
    unbroken = run_script(JOB, *words, "fleet.workers=0", "name=unbroken")
    assert unbroken.returncode == 0, unbroken.stderr

    rarely = [word for word in words if not word.startswith("checkpoint.every")] + ["checkpoint.every=1000"]
    first = [JOB, *rarely, "name=broken", "fleet.workers=2"]
    submission = stopped_by_ctrl_c(cluster, first, tmp_path / "runs/broken", tmp_path)
    assert driver_of("broken") is None
    status = {run.info.run_name: run.info.status for run in mlflow_runs(tmp_path)}
    assert status == {"unbroken": "FINISHED", "broken": "KILLED"}
    [before] = checkpoints(tmp_path, "broken")  # of the step at which it was, and of no other
    last = checkpoints(tmp_path, "unbroken")[-1]
    assert before == max(point.step for point in read_points(tmp_path / "runs/broken")) < last
    told = ray("job", "logs", submission, cluster=cluster)
    assert f"stopped by SIGTERM at step {before} of {last}, which is saved; to go on:\nray job submit" in told

    zero3 = ["engine.strategy=deepspeed", "engine.zero=3", "fleet.workers=2"]
    submit(cluster, "python", JOB, *words, "name=broken", *zero3, name="killed", wait=False)
    until(lambda: checkpoints(tmp_path, "broken")[-1] > before)
    with held():
        os.kill(until(lambda: driver_of("broken")), signal.SIGKILL)
    until(lambda: not processes("RayTrainWorker"))

    before = checkpoints(tmp_path, "broken")[-1]
    submit(cluster, "python", JOB, *words, "name=broken", "fleet.decode_actors=1", "fleet.max_failures=1", wait=False)
    until(lambda: checkpoints(tmp_path, "broken")[-1] > before)
    with held():
        [controller] = processes("TrainController")
        os.kill(controller, signal.SIGKILL)
    until(lambda: checkpoints(tmp_path, "broken")[-1] == last)
    until(lambda: {run.info.run_name: run.info.status for run in mlflow_runs(tmp_path)}["broken"] == "FINISHED")
    assert close(weights(tmp_path, "broken"), weights(tmp_path, "unbroken")) < 1e-4
    runs = {run.info.run_name: run for run in mlflow_runs(tmp_path)}
    assert len(mlflow_runs(tmp_path)) == 2
    steps = history(tmp_path, runs["broken"].info.run_id, "train/loss")
    assert steps == list(range(1, checkpoints(tmp_path, "unbroken")[-1] + 1))


def test_a_worker_that_fails_tells_why_once_and_last(cluster, videos: Path, tmp_path: Path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for path in videos.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    table = tmp_path / "table"
    made = run_script(
        "jobs/prepare_clips.py", f"videos={folder}", f"table={table}", "clips.storage=source", "workers=0"
    )
    assert made.returncode == 0, made.stderr
    (folder / "two.mp4").unlink()
    words = [*SMALL, f"table={table}", f"results={tmp_path}", "fleet.max_failures=0", "name=gone"]
    ended = submit(cluster, "python", JOB, *words)
    assert ended.returncode == 1
    output = ended.stdout.split("Status message")[0]
    assert output.count("has changed since the table was prepared") == 1
    told = [line for line in output.splitlines() if line and "cli.py" not in line]
    assert "two.mp4" in told[-2]
    assert told[-1].startswith("log of worker 0")
    assert Path(told[-1].rsplit(": ", 1)[1]).exists()
    [run] = mlflow_runs(tmp_path)
    assert run.info.status == "FAILED"


def test_more_workers_than_fit_are_refused_with_the_numbers(cluster, table, tmp_path: Path):
    words = [*SMALL[:-1], f"table={table.path}", f"results={tmp_path}"]
    ended = submit(cluster, "python", JOB, *words, "fleet.workers=8", "fleet.cpus_per_worker=1")
    assert ended.returncode == 1
    assert "fleet.workers=8 need 8 CPUs" in ended.stdout
    assert "2 CPUs" in ended.stdout


def test_a_cluster_of_its_own_has_nothing_idle_and_nothing_to_complain_of(cluster, table, tmp_path: Path):
    """Beside the session's cluster, which Ray could take for it."""
    words = [*SMALL, f"table={table.path}", f"results={tmp_path}", "fleet.workers=1", "epochs=40", "name=own"]
    seen: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="m-") as short, (tmp_path / "log").open("w+") as log:
        environment = {**without_marey(dict(os.environ)), "RAY_ADDRESS": "local", "RAY_TMPDIR": short}
        job = subprocess.Popen([sys.executable, JOB, *words], cwd=ROOT, env=environment, stdout=log, stderr=log)
        while job.poll() is None:
            for process in psutil.Process(job.pid).children(recursive=True):
                with suppress(psutil.Error):
                    seen.add(" ".join(process.cmdline()))
            time.sleep(0.2)
    told = (tmp_path / "log").read_text()
    assert job.returncode == 0, told
    assert any("ray::RayTrainWorker" in one for one in seen)
    for idle in ("ray-dashboard", "PlacementGroupCleaner", "DatasetManager", "PreemptionWatcher"):
        assert not [one for one in seen if idle in one]
    for complaint in ("State API", "Found multiple active Ray instances", "WARNING", "Traceback"):
        assert complaint not in told


def test_a_run_whose_folder_is_gone_goes_on_from_its_copies(store, table, tmp_path: Path):
    words = [*SMALL, f"table={table.path}", f"results={tmp_path}", "fleet.workers=0", "epochs=8", "name=copied"]
    words += ["checkpoint.every=1", "checkpoint.keep_last=99", f"checkpoint.copy_to={store.uri('runs')}"]
    whole = run_script(JOB, *words)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    expected, steps = weights(tmp_path, "copied"), checkpoints(tmp_path, "copied")
    half = steps[len(steps) // 2]
    best = json.loads((tmp_path / f"runs/copied/checkpoints/{half:012d}/state.json").read_text())["best_step"]
    for path in store.objects("runs/copied"):  # of a machine that was lost after half of the steps
        if path[:12].isdigit() and int(path[:12]) > half:
            store.delete(f"runs/copied/{path}")
    shutil.rmtree(tmp_path / "runs/copied")
    refused = run_script(JOB, *words, "seed=7")
    assert refused.returncode == 2
    assert "seed: 0 then, 7 now" in refused.stdout + refused.stderr
    shutil.rmtree(tmp_path / "runs/copied")
    again = run_script(JOB, *words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"step {half} brought back from s3://clips/runs/copied" in again.stdout
    assert not re.search(rf"step {half}/", again.stdout)
    assert checkpoints(tmp_path, "copied") == [one for one in steps if one >= half or one == best]
    assert close(expected, weights(tmp_path, "copied")) == 0
