"""Bad steps in one process: what counts as one, what is left out, and that the rest is as if the batch had not been."""

import json
import math
import shutil

import pytest
import torch

from marey.engine import checkpoint
from marey.engine.bad_steps import LEFT_OUT, BadSteps, BadStepsConfig
from marey.engine.events import GoingBack, LeftOut, Started
from marey.engine.hooks import LogConfig, Progress, Tracking
from marey.engine.strategy import StepResult
from marey.errors import CheckpointError, TrainingError
from marey.experiment import assemble
from poison import keys_of, poison
from tiny_training import run, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def training():
    return tiny()


def with_bad(training, **settings):
    return training.replace(bad_steps=settings)


def poisoned(training, table, *steps: int, factor: float = math.nan):
    """The recipe of a run whose loss is bad at ``steps``."""
    torch.manual_seed(training.seed)
    order = assemble.feed_order(training, table, world=1)
    recipe = training.recipe.build(training.backbone)
    return poison(recipe, keys_of(order, [(step, 0) for step in steps]), factor)


def reference(training, table, directory, listed):
    """A run that leaves out ``listed`` ranges and never computes them."""
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "checkpoints" / LEFT_OUT).write_text(json.dumps({"left_out": listed}))
    return run(training, table, directory)


def same(one, other) -> bool:
    """Weights, moments and their count, bit for bit."""
    a, b = one.state(), other.state()
    moments = [(a.moments[name][key], b.moments[name][key]) for name in b.moments for key in b.moments[name]]
    assert a.moments.keys() == b.moments.keys()
    assert len(moments) > 0
    tensors = [*((a.weights[name], b.weights[name]) for name in b.weights), *moments]
    return all(torch.equal(x, y) for x, y in tensors) and a.optimizer_steps == b.optimizer_steps


def left_out(diary) -> list[int]:
    return [event.clock.step for event in diary.events if isinstance(event, LeftOut)]


def test_a_skipped_step_leaves_a_run_as_if_its_batch_had_been_left_out(training, table, tmp_path):
    skipping = with_bad(training, not_finite="skip")
    diary, skipped = run(skipping, table, tmp_path / "skip", recipe=poisoned(training, table, 3, 6))
    other, expected = reference(training, table, tmp_path / "reference", [[3, 3], [6, 6]])
    assert left_out(diary) == left_out(other) == [3, 6]
    assert same(skipped, expected)
    assert diary.losses() == other.losses()
    assert all(map(math.isfinite, diary.losses().values()))
    assert not {3, 6} & set(diary.losses())
    assert skipped.state().optimizer_steps == max(diary.losses()) - 2
    plain, _ = run(training, table, tmp_path / "plain")
    assert plain.losses() != diary.losses()


def test_a_run_that_goes_back_ends_as_one_that_has_left_the_batches_out(training, table, tmp_path):
    back = with_bad(training, not_finite="rollback", before=1)
    diary, strategy = run(back, table, tmp_path / "back", recipe=poisoned(training, table, 7))
    other, expected = reference(training, table, tmp_path / "reference", [[6, 7]])
    assert [event.resumed_from for event in diary.events if isinstance(event, Started)] == [None, 4]
    assert [event.clock.step for event in diary.events if isinstance(event, GoingBack)] == [6]
    assert left_out(diary) == [6, 7]
    assert same(strategy, expected)
    assert {step: diary.losses()[step] for step in other.losses()} == other.losses()


def test_without_a_checkpoint_going_back_is_skipping(training, table, tmp_path):
    back = with_bad(training, not_finite="rollback", before=2)
    diary, strategy = run(back, table, tmp_path / "back", recipe=poisoned(training, table, 3))
    _, expected = reference(training, table, tmp_path / "reference", [[3, 3]])
    assert left_out(diary) == [3]
    assert same(strategy, expected)


@pytest.mark.parametrize("stop", [4, 5])
def test_a_run_that_is_killed_after_a_skip_goes_on_as_the_unbroken_one(training, table, tmp_path, stop):
    skipping = with_bad(training, not_finite="skip", spike="skip", history=2, loss_factor=1.5)
    unbroken, expected = run(skipping, table, tmp_path / "unbroken", recipe=poisoned(training, table, 3, factor=9.0))
    assert left_out(unbroken) == [3]
    run(skipping, table, tmp_path / "broken", steps=stop, recipe=poisoned(training, table, 3, factor=9.0))
    for path in checkpoint.steps(tmp_path / "broken" / "checkpoints")[-1:] if stop == 5 else []:
        shutil.rmtree(path)  # as if it had been killed: the checkpoint before is taken up
    # The batch is fine this time, as after a fault of the machine; it stays left out.
    resumed, strategy = run(skipping, table, tmp_path / "broken")
    assert resumed.events[0].resumed_from == 4
    assert same(strategy, expected)
    assert resumed.losses() == {step: loss for step, loss in unbroken.losses().items() if step > 4}


def test_what_was_left_out_before_any_checkpoint_stays_so(training, table, tmp_path):
    skipping = with_bad(training, not_finite="skip")
    run(skipping, table, tmp_path / "one", steps=3, recipe=poisoned(training, table, 2))
    shutil.rmtree(checkpoint.steps(tmp_path / "one" / "checkpoints")[-1])
    diary, strategy = run(skipping, table, tmp_path / "one")
    _, expected = reference(training, table, tmp_path / "reference", [[2, 2]])
    assert left_out(diary) == [2]
    assert same(strategy, expected)


def test_a_spike_is_judged_against_the_median_and_left_out(training, table, tmp_path):
    spiky = with_bad(training, spike="skip", history=3, loss_factor=2.0)
    early, _ = run(spiky, table, tmp_path / "early", recipe=poisoned(training, table, 3, factor=50.0))
    assert left_out(early) == []  # three good steps must have been before
    diary, strategy = run(spiky, table, tmp_path / "late", recipe=poisoned(training, table, 6, factor=50.0))
    _, expected = reference(training, table, tmp_path / "reference", [[6, 6]])
    assert left_out(diary) == [6]
    assert same(strategy, expected)
    assert "times the median of the last 3 good steps" in next(e.reason for e in diary.events if isinstance(e, LeftOut))


def test_too_many_bad_steps_stop_the_run_with_what_was_bad_before(training, table, tmp_path):
    skipping = with_bad(training, not_finite="skip", most=2)
    with pytest.raises(TrainingError, match=r"step 8: loss nan.*2 were bad already \(5, 6\).*bad_steps\.most=2"):
        run(skipping, table, tmp_path, recipe=poisoned(training, table, 5, 6, 8))
    assert [int(path.name) for path in checkpoint.steps(tmp_path / "checkpoints")] == [4]
    assert json.loads((tmp_path / "checkpoints" / LEFT_OUT).read_text()) == {"left_out": [[5, 5], [6, 6]]}
    diary, _ = run(with_bad(training, not_finite="skip", most=3), table, tmp_path, recipe=poisoned(training, table, 8))
    assert left_out(diary)[:3] == [5, 6, 8]


def test_bad_steps_long_ago_do_not_count(training, table, tmp_path):
    skipping = with_bad(training, not_finite="skip", most=1, within=3)
    diary, _ = run(skipping, table, tmp_path, recipe=poisoned(training, table, 2, 5))
    assert left_out(diary) == [2, 5]


def test_checkpoints_say_what_was_left_out_and_have_no_loss_of_nothing(training, table, tmp_path):
    each = with_bad(training, not_finite="skip").replace(checkpoint={"every": 1, "keep_last": 9})
    run(each, table, tmp_path, steps=4, recipe=poisoned(training, table, 1, 3))
    states = [checkpoint.verify(path).state for path in checkpoint.steps(tmp_path / "checkpoints")]
    assert [state["left_out"] for state in states] == [[[1, 1]], [[1, 1]], [[1, 1], [3, 3]], [[1, 1], [3, 3]]]
    assert "mean_loss" not in states[0]
    assert states[2]["mean_loss"] == states[1]["mean_loss"]
    assert states[2]["best_step"] == states[1]["best_step"] == 2


class Recorder:
    """A tracker that remembers numbers."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.points.append((step, values))

    def flush(self) -> None:
        pass


def test_it_is_printed_with_its_clips_and_tracked_without_a_point_of_the_loss(training, table, tmp_path, capsys):
    tracker, log = Recorder(), LogConfig()
    order = assemble.feed_order(training, table, world=1)
    hooks = [Progress(log, 0), Tracking(tracker, log)]
    skipping = with_bad(training, not_finite="skip")
    run(skipping, table, tmp_path, recipe=poisoned(training, table, 2, 5), more=hooks)
    assert [(step, one["train/skipped"]) for step, one in tracker.points if "train/skipped" in one] == [(2, 1), (5, 2)]
    losses = [one["train/loss"] for _, one in tracker.points if "train/loss" in one]
    assert losses
    assert all(map(math.isfinite, losses))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("step 2/"))
    assert "left out, 1 so far: loss nan, gradient norm nan" in line
    rows = sorted({one.row for one in order.plan.slice(1, 8)})
    assert all(row.clip_id in line for row in table.read(rows))


def test_an_unreadable_list_is_refused(tmp_path):
    (tmp_path / LEFT_OUT).write_text('{"left_out": [[3')
    with pytest.raises(CheckpointError, match="says which batches the run leaves out"):
        BadSteps(BadStepsConfig(), tmp_path, {}, 0)


def test_a_gradient_norm_alone_may_be_bad(tmp_path):
    bad = BadSteps(BadStepsConfig(not_finite="skip", spike="stop", history=2, norm_factor=4.0), tmp_path, {}, 0)
    assert bad.judge(1, StepResult([1.0, 1.0], {}, math.inf)).action == "skip"
    assert bad.judge(2, StepResult([1.0, math.nan], {}, 1.0)).action == "skip"
    assert [bad.judge(step, StepResult([1.0, 1.0], {}, 1.0)) for step in (3, 4)] == [None, None]
    assert bad.judge(5, StepResult([1.0, 1.0], {}, 4.1)).action == "stop"
    assert bad.judge(6, StepResult([1.0, 1.0], {}, 3.9)) is None
