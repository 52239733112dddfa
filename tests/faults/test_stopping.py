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
from marey.tracking.journal import read_lines
from submitting import ROOT, SMALL, checkpoints, history, mlflow_runs, until, without_marey
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


def started(words: list[str]) -> subprocess.Popen[str]:
    """``python jobs/...`` of one process, once it trains; its output is one."""
    environment = {**without_marey(dict(os.environ)), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, JOB, *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    [results] = [Path(word.removeprefix("results=")) for word in words if word.startswith("results=")]
    metrics = results / "runs" / "stopped" / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else 0
    until(lambda: metrics.exists() and metrics.stat().st_size > before, 280)
    return process


@pytest.mark.slow
def test_signals_without_ray(table, tmp_path: Path):
    words = [*SMALL, f"table={table.path}", f"results={tmp_path}", "fleet.workers=0", "epochs=4000", "name=stopped"]
    words += ["checkpoint.every=1000", "checkpoint.wait=true"]
    step = 0
    for number, name, code in ((signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)):
        process = started(words)
        process.send_signal(number)
        output, _ = process.communicate(timeout=280)
        assert process.returncode == code, output
        if step:
            assert f"resumed from the checkpoint of step {step}\n" in output
        before, step = step, checkpoints(tmp_path, "stopped")[-1]
        assert step > before
        assert f"stopped by {name} at step {step} of " in output
        assert output.splitlines()[-1].startswith(f"python {JOB} {SMALL[0]} ")
        assert output.splitlines()[-1].endswith(" name=stopped")
        assert mlflow_runs(tmp_path)[0].info.status == "KILLED"
        *_, end = (line for line, _ in read_lines(tmp_path / "runs/stopped/events.jsonl") if line["event"] == "end")
        assert end["message"].startswith(f"stopped by {name} at step {step} of ")
    process = started(words)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)  # a second one: at once
    assert process.wait(280) == 143
    [run] = mlflow_runs(tmp_path)
    assert run.info.status == "KILLED"
    steps = history(tmp_path, run.info.run_id, "train/loss")
    assert steps == list(range(1, steps[-1] + 1))
