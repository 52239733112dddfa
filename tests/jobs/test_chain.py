"""From labels to a decision on a real cluster: fine-tune, evaluate, predict, search, compare."""

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from marey.config import override
from marey.launch import score
from submitting import ROOT, checkpoints, history, mlflow_runs, run_script, submit, until, without_marey
from submitting import SMALL as PRETRAIN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# The smallest network over the smallest frames, without augmentation: it learns what it can in seconds.
SMALL = (
    "backbone=r3d_18", "backbone.crop=32", "backbone.frames=8", "backbone.width=8", "backbone.depths=[1,1,1,1]",
    "recipe.mix.mixup=0", "recipe.mix.cutmix=0", "recipe.randaugment.ops=0", "recipe.erase.probability=0",
    "clips.stride=2", "augment.crop=center", "augment.flip=0", "repeats=1", "batch=8", "optim.base_lr=0.03",
    "optim.warmup_epochs=0", "optim.layer_decay=0.9", "optim.ema=0.8", "log.every=10", "epochs=6", "validation.every=2",
    "fleet.cpus_per_worker=0.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(cluster, labelled, tmp_path_factory) -> Path:
    """Results with one fine-tuned run, ``first``, of two workers under ZeRO-1."""
    results = tmp_path_factory.mktemp("chain")
    words = [*SMALL, f"table={labelled.path}", f"results={results}", "fleet.workers=2", "engine.strategy=deepspeed"]
    ended = submit(cluster, "python", "jobs/finetune.py", *words, "name=first")
    assert ended.returncode == 0, ended.stdout
    return results


def test_fine_tuning_validates_keeps_the_best_and_draws_what_was_mistaken(finished):
    [run] = [one for one in mlflow_runs(finished) if one.info.run_name == "first"]
    assert run.info.status == "FINISHED"
    assert run.data.params["backbone.num_classes"] == "8"
    steps = history(finished, run.info.run_id, "validation/top1")
    assert steps == [8, 16, 24]
    assert run.data.metrics["best/top1"] >= run.data.metrics["validation/top1"]
    assert set(checkpoints(finished, "first")) <= set(steps)
    for key in ("confusion", "mistakes"):
        assert list((finished / "runs/first/pictures" / key).glob("*.png"))


@pytest.fixture
def handlers() -> Iterator[None]:
    """What is done about signals is afterwards what it was: a job takes them for itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("ray_cluster", "handlers")
def test_the_same_evaluation_at_one_two_and_three_workers_gives_the_same_scores(
    cluster, finished, labelled, monkeypatch, capfd
):
    """With one worker as a user submits it; the others without what a submission costs."""
    monkeypatch.syspath_prepend(ROOT / "jobs")
    job = runpy.run_path(str(ROOT / "jobs/evaluate.py"))["evaluation"]
    found = []
    for workers in (1, 2, 3):
        words = ["model=first", f"results={finished}", f"fleet.workers={workers}", f"name=w{workers}"]
        words += ["views.temporal=2", "views.spatial=3", "batch=5", "fleet.cpus_per_worker=0.5"]
        if workers == 1:
            ended = submit(cluster, "python", "jobs/evaluate.py", *words)
            assert ended.returncode == 0, ended.stdout
            told = ended.stdout
        else:
            score.evaluate(override(job, words))
            told = capfd.readouterr().out
        assert f"workers  {workers} × " in told
        assert "95 % between" in told
        found.append(pq.read_table(finished / f"runs/first/evaluations/w{workers}/scores.parquet"))
    keys = list(
        zip(*(found[0][name].to_pylist() for name in ("source_id", "temporal_view", "spatial_view")), strict=True)
    )
    assert len(keys) == len(set(keys)) == 8 * 2 * 3
    scores = [np.stack(table["scores"].to_numpy(zero_copy_only=False)) for table in found]
    assert all(np.array_equal(scores[0], other) for other in scores[1:])
    _agrees_with_scikit_learn(found[0], json.loads((finished / "runs/first/evaluations/w1/summary.json").read_text()))


def _agrees_with_scikit_learn(table, summary):
    frame = table.to_pandas()
    means = frame.groupby("source_id", sort=False)["scores"].apply(lambda rows: np.stack(rows.to_numpy()).mean(0))
    labels = frame.groupby("source_id", sort=False)["label"].first().to_numpy().astype(int)
    predicted = np.stack(means.to_numpy()).argmax(1)
    assert summary["metrics"]["top1"] == pytest.approx(accuracy_score(labels, predicted))
    assert summary["metrics"]["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    low, high = summary["intervals"]["top1"]
    assert low <= summary["metrics"]["top1"] <= high


def marey(*words: str) -> subprocess.CompletedProcess[str]:
    """The ``marey`` command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform"), "COLUMNS": "160"}
    command = [sys.executable, "-c", "from marey.cli import main; main()", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def test_files_are_predicted_by_command_and_a_table_by_job_alike(cluster, finished, labelled, videos, tmp_path):
    path = next(
        Path(uri)
        for uri, split in zip(labelled.column("uri"), labelled.column("split"), strict=True)
        if split == "test"
    )
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    told = marey(
        "predict", str(path), str(broken), "model=first", f"results={finished}", f"output={tmp_path}/one.parquet"
    )
    assert told.returncode == 0, told.stderr
    assert path.name in told.stdout
    assert f"left out {broken}" in told.stdout
    words = [
        "model=first",
        f"table={labelled.path}",
        f"results={finished}",
        "fleet.workers=2",
        f"output={tmp_path}/all.parquet",
    ]
    ended = submit(cluster, "python", "jobs/predict.py", *words, "fleet.cpus_per_worker=0.5")
    assert ended.returncode == 0, ended.stdout
    [one] = pq.read_table(tmp_path / "one.parquet").to_pylist()
    everything = {line["uri"]: line for line in pq.read_table(tmp_path / "all.parquet").to_pylist()}
    assert len(everything) == len(labelled)
    assert one["label_name"] == everything[one["uri"]]["label_name"]
    assert one["scores"] == pytest.approx(
        everything[one["uri"]]["scores"], abs=0.05
    )  # the table stores it encoded anew


def test_wrong_models_are_told_with_the_nearest_run(finished, videos):
    near = marey("predict", str(videos), "model=frist", f"results={finished}")
    assert near.returncode != 0
    assert "did you mean first?" in near.stderr
    assert "Traceback" not in near.stderr
    none = marey("predict", str(videos))
    assert "model: not given" in none.stderr


def test_a_run_starts_from_another_and_the_two_are_compared(finished, labelled):
    words = [
        *SMALL[:-1],
        f"table={labelled.path}",
        f"results={finished}",
        "fleet.workers=0",
        "init=first",
        "name=second",
    ]
    ended = run_script("jobs/finetune.py", *words, "optim.base_lr=0.001")
    assert ended.returncode == 0, ended.stderr
    assert "init " in ended.stdout
    told = marey("compare", "first", "second", f"results={finished}")
    assert told.returncode == 0, told.stderr
    lines = {line.split()[0]: line.split()[1:] for line in told.stdout.splitlines() if line.strip()}
    assert lines["optim.base_lr"] == ["0.03", "0.001"]
    assert "best" in " ".join(lines["validation/top1"])
    assert "batch" not in lines


def test_a_sweep_reports_failed_trials_and_its_best_runs_unchanged(cluster, labelled, tmp_path):
    space = tmp_path / "search.yaml"
    space.write_text("search:\n  optim.base_lr: [0.03, 0.01, 1.0e30]\n")
    words = [f"@{space}", *SMALL[:-1], f"table={labelled.path}", f"results={tmp_path}", "fleet.workers=1", "epochs=2"]
    words += ["optim.ema=none", "sweep.name=grid", "sweep.algorithm=grid", "sweep.concurrent=2"]
    ended = submit(cluster, "python", "jobs/tune.py", *words)
    assert ended.returncode == 0, ended.stdout
    assert "trials   3, 2 at a time" in ended.stdout
    assert ended.stdout.count("failed") >= 2  # when it does, and in the table
    assert "loss nan" in ended.stdout or "loss inf" in ended.stdout or "gradient norm" in ended.stdout
    runs = {one.info.run_name: one for one in mlflow_runs(tmp_path)}
    parent = runs.pop("grid")
    assert parent.info.status == "FINISHED"
    assert {one.data.tags["mlflow.parentRunId"] for one in runs.values()} == {parent.info.run_id}
    assert sorted(one.info.status for one in runs.values()) == ["FAILED", "FINISHED", "FINISHED"]
    best = tmp_path / "sweeps/grid/best.yaml"
    again = run_script(
        "jobs/finetune.py", f"@{best}", f"results={tmp_path}", "fleet.workers=0", "name=again", "epochs=1"
    )
    assert again.returncode == 0, again.stderr


def test_asha_stops_a_trial_of_another_job_that_falls_behind(cluster, labelled, tmp_path):
    space = tmp_path / "search.yaml"
    space.write_text("search:\n  optim.base_lr: [0.05, 1.0e-7]\n")
    words = [f"@{space}", *PRETRAIN[:-1], f"table={labelled.path}", f"results={tmp_path}", "fleet.workers=1"]
    words += ["sweep.concurrent=1", "sweep.job=pretrain_videomae", "sweep.metric=loss", "checkpoint.every=6"]
    words += ["epochs=4", "optim.warmup_epochs=0"]
    asha = ["sweep.name=asha", "sweep.algorithm=grid", "sweep.scheduler=asha", "sweep.reduction=2"]
    ended = submit(cluster, "python", "jobs/tune.py", *words, *asha)
    assert ended.returncode == 0, ended.stdout
    assert "stopped early" in ended.stdout
    runs = [one for one in mlflow_runs(tmp_path) if one.data.tags.get("mlflow.parentRunId")]
    assert [one.info.status for one in runs] == ["FINISHED", "FINISHED"]
    last = {one.data.params["optim.base_lr"]: checkpoints(tmp_path, one.info.run_name)[-1] for one in runs}
    assert last["0.05"] == 48 > last["1e-07"]


def test_a_sweep_without_a_result_fails(cluster, labelled, tmp_path):
    space = tmp_path / "search.yaml"
    space.write_text("search:\n  init: [no_such_run]\n")
    words = [f"@{space}", *SMALL[:-1], f"table={labelled.path}", f"results={tmp_path}"]
    ended = submit(cluster, "python", "jobs/tune.py", *words, "sweep.name=nothing", "sweep.algorithm=grid")
    assert ended.returncode == 1
    assert "no_such_run: not a run" in ended.stdout
    assert "no trial gave a top1" in ended.stdout
    runs = {one.info.run_name: one.info.status for one in mlflow_runs(tmp_path)}
    assert runs.pop("nothing") == "FAILED"
    assert list(runs.values()) == ["FAILED"]


def test_a_killed_sweep_goes_on_without_repeating_what_is_finished(cluster, labelled, tmp_path):
    words = [
        *SMALL[:-1],
        f"table={labelled.path}",
        f"results={tmp_path}",
        "fleet.workers=2",
        "epochs=2",
        "sweep.name=killed",
    ]
    words += [
        "search.optim.base_lr={log_uniform: [0.001, 0.1]}",
        "search.optim.layer_decay=[0.9]",
        "search.backbone.drop_path=[0.0]",
    ]
    command = [sys.executable, "jobs/tune.py", *words, "sweep.trials=3", "sweep.algorithm=tpe"]
    environment = {**without_marey(cluster.environment), "RAY_ADDRESS": f"127.0.0.1:{cluster.port}"}
    log = (tmp_path / "log").open("w+")
    first = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    until(lambda: " ends (" in (tmp_path / "log").read_text() or first.poll() is not None)
    until(lambda: (tmp_path / "log").read_text().count(" starts:") >= 2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = {
        path.parent.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/checkpoints/000000000008")
    }
    second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "taken up again" in second.stdout
    assert second.stdout.count(" finished ") == 3
    assert len([one for one in mlflow_runs(tmp_path) if one.data.tags.get("mlflow.parentRunId")]) == 3
    assert done
    for name, when in done.items():
        assert (tmp_path / f"runs/{name}/checkpoints/000000000008").stat().st_mtime_ns == when
