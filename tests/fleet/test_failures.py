"""Restarts are counted since the last progress, and a machine that was taken away is not counted."""

from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

from marey.fleet.failures import Patience, WorkerFailure, _shortened


def crash(text: str = "worker 0 failed: disk on fire") -> WorkerGroupError:
    return WorkerGroupError("workers failed", {0: WorkerFailure(text), 1: RuntimeError("gloo: Connection reset")})


def saved(directory: Path, step: int) -> None:
    (directory / "checkpoints" / f"{step:012d}").mkdir(parents=True)


def test_without_progress_it_ends_after_so_many_restarts_and_tells_step_and_error(tmp_path: Path, capsys):
    saved(tmp_path, 40)
    patience = Patience(2, tmp_path)
    patience.failed(crash())
    patience.failed(crash())
    assert "disk on fire\nrestart 2 of 2 from the checkpoint of step 40\n" in capsys.readouterr().out
    told = (
        r"3 attempts from the checkpoint of step 40 have failed \(fleet.max_failures=2\); the last:\nworker 0 .* fire"
    )
    with pytest.raises(WorkerFailure, match=told):
        patience.failed(crash())


def test_every_new_checkpoint_gives_all_restarts_back(tmp_path: Path):
    patience = Patience(2, tmp_path)
    for step in range(5, 50, 5):
        saved(tmp_path, step)
        patience.failed(crash())
        patience.failed(crash())
    with pytest.raises(WorkerFailure, match="checkpoint of step 45"):
        patience.failed(crash())


def test_without_restarts_the_error_comes_as_it_is(tmp_path: Path):
    with pytest.raises(WorkerFailure, match=r"^worker 0 failed: disk on fire$"):
        Patience(0, tmp_path).failed(crash())


def test_while_it_is_stopped_nothing_is_started_again(tmp_path: Path):
    with pytest.raises(WorkerFailure, match=r"^worker 0 failed"):
        Patience(3, tmp_path).failed(crash(), again=False)


def test_a_machine_that_was_taken_away_is_not_counted(tmp_path: Path, capsys):
    patience = Patience(0, tmp_path)
    announced = PreemptionError(PreemptionInfo(None, {"node": [0]}), drain_timed_out=True)

    class Lost(ActorDiedError):
        preempted = True

    for _ in range(3):
        patience.failed(announced)
        patience.failed(WorkerGroupError("workers failed", {0: Lost(), 1: RuntimeError("Connection reset")}))
    assert capsys.readouterr().out.count("(not counted)") == 6


@pytest.mark.parametrize("error", [ActorDiedError(), ControllerError(RuntimeError("no places"))])
def test_the_loss_of_rays_controller_is_counted_like_any_other(error, tmp_path: Path):
    patience = Patience(1, tmp_path)
    patience.failed(error)
    with pytest.raises(WorkerFailure, match="2 attempts from the checkpoint of step 0"):
        patience.failed(error)


def test_a_mistake_of_ours_is_never_tried_again(tmp_path: Path):
    with pytest.raises(TypeError):
        Patience(3, tmp_path).failed(TypeError("mistake"))


def test_of_a_lost_worker_its_process_and_its_end_are_told():
    told = """A worker health check failed.
Worker info: Worker(
  metadata=ActorMetadata(
    hostname='node-3',
    pid=4508,
  ),
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) ..."""
    short = _shortened(RuntimeError(told))
    assert short.startswith("pid=4508, hostname='node-3', exit type: SYSTEM_ERROR, exit detail: Worker")
    assert "common causes" not in short
    assert _shortened(RuntimeError("something else")) == "something else"
