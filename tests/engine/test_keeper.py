"""Checkpoints are written while training goes on, one at a time, and by one process alone."""

import threading

import pytest
import torch

from marey.engine import checkpoint
from marey.engine.events import CheckpointWritten, Ended, Stepped
from marey.engine.train_state import TrainState
from marey.errors import CheckpointError
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


def test_what_a_writer_raises_ends_training_at_a_step_soon_after(training, table, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run(training, table, tmp_path, steps=50)


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
