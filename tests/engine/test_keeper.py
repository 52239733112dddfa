"""Checkpoints are written while training goes on, one at a time, and by one process alone."""

import threading

import pytest
import torch

from marey.config import to_tree
from marey.engine import checkpoint
from marey.engine.events import CheckpointFailed, CheckpointWritten, Ended, Stepped
from marey.engine.train_state import TrainState
from marey.errors import CheckpointError, TrainingError
from tiny_training import run, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def training():
    return tiny()


@pytest.fixture
def gate(monkeypatch):
    """Writers wait until it is set."""
    opened, write = threading.Event(), checkpoint.save

    def save(*arguments):
        assert opened.wait(60)
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "save", save)
    return opened


def opens_at(gate: threading.Event, step: int, seconds: float = 0.0):
    """A hook that opens the gate so long after a step."""

    class Opener:
        def on(self, event) -> None:
            if isinstance(event, Stepped) and event.clock.step == step:
                threading.Timer(seconds, gate.set).start() if seconds else gate.set()

    return Opener()


def test_training_goes_on_while_the_state_of_a_step_is_written(training, table, tmp_path, gate):
    diary, _ = run(training, table, tmp_path / "beside", steps=7, more=[opens_at(gate, 6)])
    kinds = [(type(event), event.clock.step) for event in diary.events]
    assert kinds.index((CheckpointWritten, 4)) > kinds.index((Stepped, 6))
    assert kinds[-2:] == [(CheckpointWritten, 7), (Ended, 7)]
    gate.set()
    run(training.replace(checkpoint={"every": 4, "wait": True}), table, tmp_path / "waiting", steps=7)
    places = (checkpoint.steps(tmp_path / name / "checkpoints") for name in ("beside", "waiting"))
    for pair in zip(*places, strict=True):
        found, expected = (checkpoint.read(checkpoint.verify(path)) for path in pair)
        assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())
        assert all(
            torch.equal(found.moments[name][key], tensor)
            for name, moments in expected.moments.items()
            for key, tensor in moments.items()
        )


def test_a_checkpoint_waits_for_the_one_before(training, table, tmp_path, gate):
    often = training.replace(checkpoint={"every": 1, "keep_last": 9})
    diary, _ = run(often, table, tmp_path, steps=3, more=[opens_at(gate, 2, seconds=0.5)])
    written = [event for event in diary.events if isinstance(event, CheckpointWritten)]
    assert [event.clock.step for event in written] == [1, 2, 3]
    assert written[0].seconds >= written[0].stall > 0.1
    assert len(checkpoint.steps(tmp_path / "checkpoints")) == 3


def refuse(monkeypatch, refused) -> list[int]:
    """The storage is full at the attempts whose number, or step, ``refused`` says yes to; the steps attempted."""
    attempts, write = [], checkpoint.save

    def save(directory, state, facts, holder=None):
        attempts.append(facts["step"])
        if refused(len(attempts), facts["step"]):
            raise OSError(28, "No space left on device")
        return write(directory, state, facts, holder)

    monkeypatch.setattr(checkpoint, "save", save)
    return attempts


def ends(diary) -> list[tuple[str, int]]:
    kinds = (CheckpointWritten, CheckpointFailed)
    return [(type(event).__name__[10:], event.clock.step) for event in diary.events if isinstance(event, kinds)]


def test_a_save_that_the_storage_refuses_for_a_while_is_tried_again(training, table, tmp_path, monkeypatch, capsys):
    attempts = refuse(monkeypatch, lambda number, step: number <= 2)
    diary, _ = run(training, table, tmp_path, steps=4)
    assert attempts == [4, 4, 4]
    assert ends(diary) == [("Written", 4)]
    told = capsys.readouterr().out
    assert "the checkpoint of step 4 could not be written: [Errno 28] No space left on device (it needs 2.4 MiB" in told
    assert "MiB are free); trying again in 0.5 s" in told


def test_training_goes_on_without_the_checkpoints_that_failed(training, table, tmp_path, monkeypatch):
    run(training, table, tmp_path / "unbroken", steps=9)
    often = training.replace(checkpoint={"every": 2, "keep_last": 9, "wait": True, "retry_seconds": 0, "max_failed": 2})
    attempts = refuse(monkeypatch, lambda number, step: step in (2, 6))
    diary, _ = run(often, table, tmp_path / "refused", steps=9)
    assert attempts == [2, 4, 6, 8, 9]
    assert ends(diary) == [("Failed", 2), ("Written", 4), ("Failed", 6), ("Written", 8), ("Written", 9)]
    found, expected = (checkpoint.newest(tmp_path / name / "checkpoints") for name in ("refused", "unbroken"))
    found, expected = checkpoint.read(found), checkpoint.read(expected)
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())


def test_the_best_is_one_that_was_written(training, table, tmp_path, monkeypatch):
    still = {**to_tree(training)["optim"], "base_lr": 1e-9}  # so that losses rise and fall with the batches alone
    every_step = training.replace(optim=still, checkpoint={"every": 1, "keep_last": 9, "retry_seconds": 0})
    diary, _ = run(every_step, table, tmp_path / "unbroken", steps=8)
    losses = diary.losses()
    least = [step for step in range(1, 8) if losses[step] == min(losses[before] for before in range(1, step + 1))]
    refused = next(step for step in least if losses[step] < losses[step + 1])
    refuse(monkeypatch, lambda number, step: step == refused)
    run(every_step, table, tmp_path / "refused", steps=8)
    saved = {int(path.name): path for path in checkpoint.steps(tmp_path / "refused" / "checkpoints")}
    after = checkpoint.verify(saved[refused + 1])
    best = min((step for step in range(1, refused + 2) if step != refused), key=losses.__getitem__)
    assert (after.state["best_step"], after.state["best"]["loss"]) == (best, losses[best])


def test_the_best_is_kept_beside_the_last(training, table, tmp_path):
    few = training.replace(checkpoint={"every": 1, "keep_last": 1, "wait": True})
    diary, _ = run(few, table, tmp_path, steps=4)
    best = min(diary.losses(), key=diary.losses().__getitem__)
    assert {int(path.name) for path in checkpoint.steps(tmp_path / "checkpoints")} == {best, 4}


def test_too_many_failed_saves_in_a_row_end_training_and_it_goes_on_from_the_last_whole_one(
    training, table, tmp_path, monkeypatch
):
    _, unbroken = run(training, table, tmp_path / "unbroken", steps=9)
    often = training.replace(checkpoint={"every": 1, "retry_seconds": 0, "max_failed": 3})
    attempts = refuse(monkeypatch, lambda number, step: step > 2)
    with pytest.raises(TrainingError, match=r"(?s)step 5 could not .* 3 saves in a row have failed; .* from step 2$"):
        run(often, table, tmp_path / "full", steps=9)
    assert attempts == [1, 2, 3, 4, 5]
    monkeypatch.undo()
    _, resumed = run(often, table, tmp_path / "full", steps=9)
    for name, tensor in unbroken.recipe.state_dict().items():
        assert torch.equal(tensor, resumed.recipe.state_dict()[name]), name


def test_so_many_failed_saves_end_nothing_while_the_storage_may_come_back(training, table, tmp_path, monkeypatch):
    often = training.replace(checkpoint={"every": 1, "retry_seconds": 600, "max_failed": 1, "keep_last": 9})
    refuse(monkeypatch, lambda number, step: step < 6)
    diary, _ = run(often, table, tmp_path, steps=7)
    assert ends(diary) == [*(("Failed", step) for step in range(1, 6)), ("Written", 6), ("Written", 7)]


def test_the_last_step_must_be_saved(training, table, tmp_path, monkeypatch):
    short = training.replace(checkpoint={"every": 2, "retry_seconds": 0})
    refuse(monkeypatch, lambda number, step: step == 3)
    with pytest.raises(TrainingError, match=r"this was the last step; .* goes on from step 2$"):
        run(short, table, tmp_path, steps=3)


def test_a_run_that_another_process_took_over_ends(training, table, tmp_path):
    class Other:
        def on(self, event) -> None:
            if isinstance(event, Stepped) and event.clock.step == 2:
                checkpoint.take_over(tmp_path / "checkpoints")

    with pytest.raises(CheckpointError, match="has taken this run over meanwhile"):
        run(training, table, tmp_path, steps=50, more=[Other()])


def test_the_copy_of_the_state_is_made_in_the_same_memory(training, table, tmp_path):
    _, strategy = run(training, table, tmp_path, steps=1)
    first = strategy.state()
    places = {name: tensor.data_ptr() for name, tensor in first.weights.items()}
    moments = {name: each["exp_avg"].data_ptr() for name, each in first.moments.items()}
    second = strategy.state()
    assert places == {name: tensor.data_ptr() for name, tensor in second.weights.items()}
    assert moments == {name: each["exp_avg"].data_ptr() for name, each in second.moments.items()}
    live = strategy.recipe.state_dict()
    assert not {tensor.data_ptr() for tensor in live.values()} & set(places.values())
    assert all(torch.equal(tensor, second.weights[name]) for name, tensor in live.items())


def test_a_writer_that_was_cut_off_writes_nothing(tmp_path):
    state = TrainState({"model.a": torch.ones(3)})
    first = checkpoint.take_over(tmp_path)
    checkpoint.save(tmp_path, state, {"step": 1}, first)
    second = checkpoint.take_over(tmp_path)
    with pytest.raises(CheckpointError, match="has taken this run over meanwhile; this process writes no more"):
        checkpoint.save(tmp_path, state, {"step": 2}, first)
    checkpoint.save(tmp_path, state, {"step": 3}, second)
    assert [int(path.name) for path in checkpoint.steps(tmp_path)] == [1, 3]
    assert not list(tmp_path.glob(".writing-*"))


def test_checkpoints_are_also_due_by_the_minute(training, table, tmp_path):
    short = training.replace(checkpoint={"every": 1000, "minutes": 1e-6, "keep_last": 9})
    run(short, table, tmp_path, steps=3)
    assert [int(path.name) for path in checkpoint.steps(tmp_path / "checkpoints")] == [1, 2, 3]
