"""Training on a cluster: Ray Train starts the workers, each of which runs what one process would run without Ray.

One start of the workers is an attempt. Attempts follow one another here, each from the newest checkpoint, until the
run is at its end, is stopped, or fails too often without progress: after a failure, after a machine was taken away, and
with more workers once there is room for them.
"""

import logging
import math
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray

from marey.clips.table import ClipTable
from marey.engine.events import Asked, CheckpointWritten, Evaluated, Event, Stop, nobody_asks
from marey.engine.stopping import leave_note
from marey.errors import ResourceError, TrainingError
from marey.experiment import assemble
from marey.experiment.training import Training
from marey.fleet.bell import Bell, Ear
from marey.fleet.cluster import describe, say, settled
from marey.fleet.decoders import decode_actors
from marey.fleet.desk import open_desk
from marey.fleet.failures import Patience, WorkerFailure, account, logs
from marey.fleet.feed import feed
from marey.fleet.resources import Shares, share_out, wants_gpu
from marey.fleet.room import Growth, bundle_of, sizes, wait_for_room
from marey.fleet.tracker import RemoteTracker
from marey.fleet.watchdog import Pulse, Watchdog
from marey.tracking.base import Tracker

LISTEN_S = 0.5


@dataclass(frozen=True)
class Assignment:
    """What a worker is told."""

    training: Training
    table: ClipTable
    directory: Path
    tracker: Tracker
    bell: Bell
    reports: bool = False
    """Whether numbers are reported to Ray: for a trial of a sweep."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended on which all workers agree; rank 0 tells it."""

    stop: Stop = Stop.GO_ON
    step: int = 0
    """Where it was stopped, which is saved."""
    error: str = ""
    """A loss that is not finite: trying again would not help."""


def plan_shares(training: Training) -> tuple[Shares, str]:
    """Each worker's share, and the cluster in words; raises `ResourceError` if not even the fewest workers fit."""
    cluster, fleet = settled(), training.fleet
    for size in reversed(sizes(training)[1:]):
        try:
            shares = share_out(fleet.replace(workers=size), training.results, cluster, fleet.decode_actors)
            return shares, str(cluster)
        except ResourceError:
            continue
    fewest = fleet.replace(workers=sizes(training)[0])
    return share_out(fewest, training.results, cluster, fleet.decode_actors), str(cluster)


def shares_of_trial(training: Training) -> Shares:
    """What each worker of a trial gets: the sweep has set its CPUs."""
    return Shares(training.fleet.cpus_per_worker or 1.0, 1 if wants_gpu(training.fleet, describe()) else 0)


def train(
    training: Training,
    table: ClipTable,
    directory: Path,
    tracker: RemoteTracker,
    shares: Shares,
    callbacks: Sequence[Any] = (),
    asked: Asked = nobody_asks,
) -> Outcome | None:
    """Run the workers to the end, or until it is ``asked`` to stop; then where that was.

    They are started again from the newest checkpoint, at most ``fleet.max_failures`` times without a new one.

    ``callbacks``: of Ray Train, to whom the workers then report their numbers (a sweep's).

    Raises `TrainingError` for a loss that is not finite, `WorkerFailure` for any other error of a worker.
    """
    desk = open_desk(training.fleet.hang_seconds or math.inf)
    try:
        with Watchdog(desk, directory):
            first = Assignment(training, table, directory, tracker, Bell(desk), bool(callbacks))
            return _attempts(first, shares, callbacks, asked)
    finally:
        ray.kill(desk)


def _attempts(job: Assignment, shares: Shares, callbacks: Sequence[Any], asked: Asked) -> Outcome | None:
    """One attempt after the other, each with a bell of its own; see `train`."""
    training = job.training
    patience = Patience(training.fleet.max_failures, job.directory)
    allowed, bundle = sizes(training), bundle_of(shares, training.fleet.decode_actors)
    workers: int | None = allowed[0] if len(allowed) == 1 else None
    while True:
        workers = workers or wait_for_room(allowed, bundle, asked)
        if workers is None:
            return Outcome(asked(), patience.newest())
        job = replace(job, bell=job.bell.another())
        attempt = _Attempt(_trainer(job, workers, shares, callbacks))
        with Growth(allowed, workers, bundle, partial(_listen, job.bell, workers)) as growth:
            _accompany(attempt, job, asked, growth)
        if attempt.error is not None:
            patience.failed(attempt.error, again=not asked())
        elif attempt.outcome is None:
            return None
        elif attempt.outcome.error:
            raise TrainingError(attempt.outcome.error)
        elif attempt.outcome.stop.is_final:
            return attempt.outcome
        else:
            say(f"{attempt.outcome.stop} at step {attempt.outcome.step}: going on from there")
        workers = None


def _listen(bell: Bell, workers: int) -> bool:
    """Whether all workers have started."""
    return bell.listening() >= workers


class _Attempt(threading.Thread):
    """The workers from their start to their end, beside the main thread: that one listens to signals meanwhile."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(name="attempt", daemon=True)
        self.trainer = trainer
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.outcome = self.trainer.fit().return_value
        except BaseException as error:
            self.error = error


def _accompany(attempt: _Attempt, job: Assignment, asked: Asked, growth: Growth) -> None:
    """Wait for the end of an attempt, and ring for it once there is a reason."""
    attempt.start()
    rung = False
    while attempt.is_alive():
        attempt.join(LISTEN_S)
        reason = asked()
        if reason and not rung:
            leave_note(job.directory, reason)
        elif not rung and growth.found():
            reason = Stop.RESIZE
        if reason and not rung:
            job.bell.ring(reason)
            rung = True


def _trainer(job: Assignment, workers: int, shares: Shares, callbacks: Sequence[Any]) -> Any:
    from marey.fleet.trainer import make_trainer  # imports PyTorch: the driver does without until here

    return make_trainer(_work, job, job.directory, workers, shares, callbacks)


class Reports:
    """A hook that tells a sweep each validation, or each checkpoint of a training without one."""

    def __init__(self) -> None:
        self.validates = False

    def on(self, event: Event) -> None:
        """See `Hook.on`."""
        from ray import train

        if isinstance(event, Evaluated):
            self.validates = True
            train.report(report_of(event.clock.step, event.clock.total_steps, event.metrics, event.best))
        elif isinstance(event, CheckpointWritten) and not self.validates:
            train.report(report_of(event.clock.step, event.clock.total_steps, event.last, event.best))


def report_of(step: int, total: int, last: Mapping[str, float], best: Mapping[str, float]) -> dict[str, float]:
    """What a sweep is told: metrics by their bare names, the best so far as ``best_<name>``, and how far it is."""
    return {
        **_bare(last),
        **{f"best_{name}": value for name, value in _bare(best).items()},
        "step": float(step),
        "progress": step / total,
    }


def _bare(numbers: Mapping[str, float]) -> dict[str, float]:
    """Without their prefix; of a training's and a validation's loss the validation's."""
    prefix = "validation/"
    trained = {name: value for name, value in numbers.items() if not name.startswith(prefix)}
    return trained | {name.removeprefix(prefix): value for name, value in numbers.items() if name.startswith(prefix)}


def _work(config: dict[str, Any]) -> Outcome | None:
    """A worker. A loss that is not finite, on which all workers agree, is returned: trying again would not help."""
    from ray.train import get_context

    _hush()
    job: Assignment = config["assignment"]
    rank = get_context().get_world_rank()
    try:
        reports = [Reports()] if job.reports else []
        fleet = job.training.fleet
        with (
            decode_actors(fleet.decode_actors) as decoders,
            Pulse(job.bell.desk, fleet.hang_seconds, rank, logs(), job.training.engine.compile) as pulse,
        ):
            stopped = assemble.train(
                job.training,
                job.table,
                job.directory,
                pulse.watched(partial(feed, decoders=decoders)),
                job.tracker if rank == 0 else None,
                Ear(job.bell),
                [*reports, pulse],
            )
    except TrainingError as error:
        return Outcome(error=str(error))
    except Exception as error:
        raise WorkerFailure(account(rank, error)) from None
    return Outcome(stopped.reason, stopped.clock.step) if stopped else None


def _hush() -> None:
    """What Ray Data and DeepSpeed's dependencies say at every turn, and no user can act on."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed.*")
