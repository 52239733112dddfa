"""The loop: exact resume, numbers that are not finite, events."""

import math

import pytest
import torch

from marey.clips import loader
from marey.engine import checkpoint
from marey.engine.events import CheckpointWritten, Ended, Saving, Started, Stepped
from marey.errors import TrainingError
from marey.experiment import Training, assemble
from marey.recipes.base import Recipe, Step
from tiny_training import run, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def training() -> Training:
    return tiny()


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.recipe.parameters(), other.recipe.parameters(), strict=True))


def test_a_run_resumed_in_the_middle_of_an_epoch_is_the_unbroken_run_bit_for_bit(training, table, tmp_path):
    diary, unbroken = run(training, table, tmp_path / "unbroken")
    first, _ = run(training, table, tmp_path / "broken", steps=4)
    assert first.events[-1].clock.epoch % 1 != 0
    second, resumed = run(training, table, tmp_path / "broken")
    assert second.events[0].resumed_from == 4
    assert first.losses() | second.losses() == diary.losses()
    assert same(resumed, unbroken)


def test_the_loss_falls(training, table, tmp_path):
    losses = list(run(training.replace(epochs=40), table, tmp_path)[0].losses().values())
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


def test_more_epochs_go_on_from_the_last_step(training, table, tmp_path):
    first, _ = run(training, table, tmp_path)
    longer, _ = run(training.replace(epochs=8), table, tmp_path)
    assert min(longer.losses()) == max(first.losses()) + 1


class Poisoned(Recipe):
    """A recipe whose loss becomes NaN at one step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.model = torch.nn.Identity()
        self.weight, self.at, self.count = torch.nn.Parameter(torch.ones(1)), at, 0

    def forward(self, batch, mode="train") -> Step:
        self.count += 1
        return Step(self.weight.sum() * (math.nan if self.count == self.at else 1.0), {})


def test_a_loss_that_is_not_finite_stops_before_it_is_saved_and_names_the_clips(training, table, tmp_path):
    order = assemble.feed_order(training, table, world=1)
    with pytest.raises(TrainingError) as error:
        run(training, table, tmp_path, recipe=Poisoned(at=16))  # two passes a step: the eighth step
    text = str(error.value)
    rows = {one.row for one in order.plan.slice(7, 8)}
    assert "step 8: loss nan, gradient norm nan" in text
    assert all(row.clip_id in text for row in table.read(sorted(rows)))
    assert [int(path.name) for path in checkpoint.steps(tmp_path / "checkpoints")] == [4]


def test_events_come_in_order(training, table, tmp_path):
    diary, _ = run(training.replace(epochs=3), table, tmp_path)
    kinds = [type(event) for event in diary.events]
    assert kinds[0] is Started
    assert kinds[-2:] == [CheckpointWritten, Ended]
    begun = [event.clock.step for event in diary.events if isinstance(event, Saving)]
    assert [event.clock.step for event in diary.events if isinstance(event, CheckpointWritten)] == begun
    assert all(kinds.index(Saving) < place for place, kind in enumerate(kinds) if kind is CheckpointWritten)
    assert [event.clock.step for event in diary.events if isinstance(event, Stepped)] == list(
        range(1, kinds.count(Stepped) + 1)
    )


def test_a_checkpoint_says_where_it_comes_from(training, table, tmp_path):
    run(training, table, tmp_path, steps=5)
    before = checkpoint.newest(tmp_path / "checkpoints")
    assert before.state["lineage"]["table_fingerprint"] == table.fingerprint
    assert before.state["lineage"]["settings"]["recipe"]["mask_ratio"] == 0.75
    assert before.state["seed"] == 0
    assert "parent" not in before.state["lineage"]
    run(training, table, tmp_path, steps=6)
    parent = checkpoint.newest(tmp_path / "checkpoints").state["lineage"]["parent"]
    assert parent == checkpoint.reference(before.path)
    assert parent["step"] == 5
    assert len(parent["sha256"]) == 64


def test_the_best_is_kept_beside_the_last(training, table, tmp_path):
    short = training.replace(checkpoint={"every": 2, "keep_last": 1})
    run(short, table, tmp_path)
    found = [checkpoint.verify(path) for path in checkpoint.steps(tmp_path / "checkpoints")]
    best = found[-1].state["best_step"]
    assert {saved.step for saved in found} == {best, found[-1].step}


def test_the_rate_of_each_step_is_the_schedules(training, table, tmp_path):
    diary, strategy = run(training, table, tmp_path)
    order = assemble.feed_order(training, table, world=1)
    plan = assemble.fit_of(training, table, order, tmp_path, loader.feed, world=1).schedule
    rates = [event.lr for event in diary.events if isinstance(event, Stepped)]
    assert rates == [plan.lr(step) for step in range(len(rates))]
    assert {group["lr"] for group in strategy.optimizer.param_groups} == {rates[-1]}


def test_the_best_is_remembered_over_a_restart(training, table, tmp_path):
    rising = training.replace(checkpoint={"every": 1, "keep_last": 1}, optim={"base_lr": 30.0, "warmup_epochs": 1})
    first, _ = run(rising, table, tmp_path, steps=5)
    second, _ = run(rising, table, tmp_path)
    losses = first.losses() | second.losses()
    best = min(losses, key=losses.get)
    assert best < 5  # at such a rate the loss only rises
    assert [int(path.name) for path in checkpoint.steps(tmp_path / "checkpoints")] == [best, max(losses)]


def test_a_checkpoint_holds_the_mean_loss_since_the_one_before(training, table, tmp_path):
    diary, _ = run(training, table, tmp_path)
    losses = diary.losses()
    for saved in map(checkpoint.verify, checkpoint.steps(tmp_path / "checkpoints")):
        since = [losses[step] for step in range((saved.step - 1) // 4 * 4 + 1, saved.step + 1)]
        assert saved.state["mean_loss"] == pytest.approx(sum(since) / len(since))
