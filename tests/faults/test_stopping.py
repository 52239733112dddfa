"""A run that is asked to stop saves the step it is at, says so truthfully, and goes on at exactly that step."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from marey.clips import loader
from marey.engine import checkpoint
from marey.engine.events import Ended, Saving, Stop, Stopped
from marey.engine.loop import fit
from marey.engine.stopping import StopNote, leave_note, take_note
from marey.engine.strategy import TorchStrategy
from marey.experiment import assemble
from marey.tracking.journal import read_lines, read_points
from submitting import ROOT, SMALL, checkpoints, history, mlflow_runs, run_script, until, weights, without_marey
from tiny_training import Diary, run, tiny

JOB = "jobs/pretrain_videomae.py"


def stopped_at(step: int, table, directory: Path, hooks=()) -> Diary:
    """A tiny training that is asked to stop at ``step``."""
    diary = Diary()

    def asked() -> Stop:
        return Stop.SIGTERM if len(diary.losses()) + 1 + first >= step else Stop.GO_ON

    first = int(saved[-1].name) if (saved := checkpoint.steps(directory)) else 0
    training = tiny()
    order = assemble.feed_order(training, table, world=1)
    job = replace(assemble.fit_of(training, table, order, directory.parent, loader.feed, world=1), asked=asked)
    torch.manual_seed(training.seed)
    strategy = TorchStrategy(
        training.recipe.build(training.backbone), training.optim, training.engine, torch.device("cpu")
    )
    fit(job, strategy, [diary, *hooks])
    return diary


@pytest.mark.parametrize("step", [1, 3, 4])
def test_it_saves_the_step_it_is_at_and_goes_on_as_if_nothing_had_been(step: int, table, tmp_path: Path, one_thread):
    unbroken, whole = run(tiny(), table, tmp_path / "unbroken")
    directory = tmp_path / "broken"
    stopped = stopped_at(step, table, directory / "checkpoints")
    assert (stopped.events[-1].clock.step, stopped.events[-1].reason) == (step, Stop.SIGTERM)
    assert isinstance(stopped.events[-1], Stopped)
    assert sum(isinstance(event, Saving) for event in stopped.events) == 1
    assert checkpoint.newest(directory / "checkpoints").step == step
    after, mended = run(tiny(), table, directory)
    assert isinstance(after.events[-1], Ended)
    assert {**stopped.losses(), **after.losses()} == unbroken.losses()
    assert sorted([*stopped.losses(), *after.losses()]) == sorted(unbroken.losses())
    for name, value in whole.state().weights.items():
        assert torch.equal(value, mended.state().weights[name])


def test_asked_at_its_last_step_it_has_ended(table, tmp_path: Path, one_thread):
    last = len(run(tiny(), table, tmp_path / "unbroken")[0].losses())
    diary = stopped_at(last, table, tmp_path / "checkpoints")
    assert isinstance(diary.events[-1], Ended)


def test_a_stop_that_was_saved_leaves_no_note(table, tmp_path: Path, one_thread):
    note = StopNote(tmp_path, 0, lambda: Stop.SIGTERM)
    leave_note(tmp_path, Stop.SIGTERM)
    stopped_at(3, table, tmp_path / "checkpoints", [note])
    assert note.stopped.clock.step == 3
    assert take_note(tmp_path) is None


class Killed(BaseException):
    pass


class KilledWhileSaving:
    """A hook that ends everything when a checkpoint of ``step`` would be written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on(self, event) -> None:
        if isinstance(event, Saving) and event.clock.step == self.step:
            raise Killed


def test_a_stop_that_was_not_saved_in_time_is_told_once_with_the_steps_that_are_repeated(table, tmp_path, one_thread):
    note = StopNote(tmp_path, 0, lambda: Stop.SIGTERM)
    with pytest.raises(Killed):
        stopped_at(7, table, tmp_path / "checkpoints", [note, KilledWhileSaving(7)])
    told = take_note(tmp_path)
    assert told.startswith("the stop of 20")
    assert told.endswith("(SIGTERM) was not saved in time: 3 steps are repeated")
    assert take_note(tmp_path) is None


def test_a_stop_of_which_the_step_is_not_known_names_the_checkpoint(tmp_path: Path):
    leave_note(tmp_path, Stop.CTRL_C)
    assert take_note(tmp_path).endswith("(Ctrl-C) was not saved in time: it goes on from its beginning")
    (tmp_path / "checkpoints" / f"{40:012d}").mkdir(parents=True)
    leave_note(tmp_path, Stop.CTRL_C)
    assert take_note(tmp_path).endswith("it goes on from the checkpoint of step 40")


def started(*words: str) -> subprocess.Popen[str]:
    """``python jobs/...`` of one process, and its output as one."""
    environment = {**without_marey(dict(os.environ)), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, JOB, *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_sigterm_and_ctrl_c_without_ray(table, tmp_path: Path):
    words = [*SMALL, f"table={table.path}", f"results={tmp_path}", "fleet.workers=0", "epochs=120"]
    words += ["checkpoint.every=1000", "log.every=1"]
    unbroken = run_script(JOB, *words, "name=unbroken")
    assert unbroken.returncode == 0, unbroken.stderr
    last = checkpoints(tmp_path, "unbroken")[-1]
    for number, name, code in ((signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)):
        before = (checkpoints(tmp_path, "broken") or [0])[-1]
        process = started(*words, "name=broken")
        until(lambda before=before: len(list(read_points(tmp_path / "runs/broken"))) > before + 5)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == code, output
        step = checkpoints(tmp_path, "broken")[-1]
        assert before < step < last
        assert f"stopped by {name} at step {step} of {last}, which is saved; to go on:" in output
        assert output.splitlines()[-1].startswith(f"python {JOB}")
        assert {run.info.run_name: run.info.status for run in mlflow_runs(tmp_path)}["broken"] == "KILLED"
        [*_, end] = [line for line, _ in read_lines(tmp_path / "runs/broken/events.jsonl") if line["event"] == "end"]
        assert end["message"].startswith(f"stopped by {name} at step {step}")
    ended = run_script(JOB, *words, "name=broken")
    assert ended.returncode == 0, ended.stderr
    assert f"resumed from the checkpoint of step {step}\n" in ended.stdout
    ours, theirs = weights(tmp_path, "broken"), weights(tmp_path, "unbroken")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    broken, whole = (
        {p.step: p.values["train/loss"] for p in read_points(tmp_path / "runs" / name) if "train/loss" in p.values}
        for name in ("broken", "unbroken")
    )
    assert broken == whole
    [run_id] = [run.info.run_id for run in mlflow_runs(tmp_path) if run.info.run_name == "broken"]
    assert history(tmp_path, run_id, "train/loss") == list(range(1, last + 1))


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(table, tmp_path: Path):
    words = [*SMALL, f"table={table.path}", f"results={tmp_path}", "fleet.workers=0", "epochs=4000", "name=twice"]
    process = started(*words, "log.every=1", "batch=64")
    until(lambda: (tmp_path / "runs/twice/metrics.jsonl").exists() and list(read_points(tmp_path / "runs/twice")))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    assert mlflow_runs(tmp_path)[0].info.status == "KILLED"
