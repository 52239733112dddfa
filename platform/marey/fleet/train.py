"""Training on a cluster: Ray Train starts the workers, each of which runs what one process would run without Ray."""

import logging
import os
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from marey.clips.table import ClipTable
from marey.engine.events import CheckpointWritten, Evaluated, Event
from marey.errors import MareyError, TrainingError
from marey.experiment import assemble
from marey.experiment.training import Training
from marey.fleet.cluster import describe, settled
from marey.fleet.decoders import decode_actors
from marey.fleet.feed import feed
from marey.fleet.resources import Shares, share_out, wants_gpu
from marey.fleet.tracker import RemoteTracker
from marey.tracking.base import Tracker

COLLECTIVE_TIMEOUT_S = 600


@dataclass(frozen=True)
class Assignment:
    """What a worker is told."""

    training: Training
    table: ClipTable
    directory: Path
    tracker: Tracker
    reports: bool = False
    """Whether numbers are reported to Ray: for a trial of a sweep."""


def plan_shares(training: Training) -> tuple[Shares, str]:
    """Each worker's share, and the cluster in words; raises `ResourceError` for what does not fit."""
    cluster = settled()
    fleet = training.fleet
    return share_out(fleet, training.results, cluster, fleet.decode_actors), str(cluster)


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
) -> None:
    """Run ``fleet.workers`` workers to the end, started again up to ``fleet.max_failures`` times.

    ``callbacks``: of Ray Train, to whom the workers then report their numbers (a sweep's).

    Raises `TrainingError` for a loss that is not finite, `WorkerFailure` for any other error of a worker.
    """
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    trainer = TorchTrainer(
        _work,
        train_loop_config={"assignment": Assignment(training, table, directory, tracker, bool(callbacks))},
        torch_config=TorchConfig(backend="nccl" if shares.gpus else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=training.fleet.workers, use_gpu=shares.gpus > 0, resources_per_worker=shares.for_ray()
        ),
        run_config=RunConfig(
            # A fresh name each time: resuming is ours, and a damaged snapshot of Ray's cannot stand in its way.
            name=f"attempt-{os.getpid()}-{os.urandom(3).hex()}",
            storage_path=str(directory / "ray"),
            # Its account of a failure is cut short, and comes again with every attempt; ours comes once, whole, last.
            logging_config=LoggingConfig(log_level="CRITICAL"),
            callbacks=list(callbacks),
            failure_config=FailureConfig(max_failures=training.fleet.max_failures, controller_failure_limit=3),
        ),
    )
    try:
        stopped = trainer.fit().return_value
    except TrainingFailedError as error:
        raise _failure(error) from None
    except SystemExit:  # how Ray ends after Ctrl-C, once its workers are gone
        raise KeyboardInterrupt from None
    if stopped:
        raise TrainingError(stopped)


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


def _work(config: dict[str, Any]) -> str | None:
    """A worker. A loss that is not finite, on which all workers agree, is returned: trying again would not help."""
    from ray.train import get_context

    _hush()
    job: Assignment = config["assignment"]
    rank = get_context().get_world_rank()
    try:
        reports = [Reports()] if job.reports else []
        with decode_actors(job.training.fleet.decode_actors) as decoders:
            assemble.train(
                job.training,
                job.table,
                job.directory,
                partial(feed, decoders=decoders),
                job.tracker if rank == 0 else None,
                reports,
            )
    except TrainingError as error:
        return str(error)
    except Exception as error:
        raise WorkerFailure(_account(rank, error)) from None
    return None


def _hush() -> None:
    """What Ray Data and DeepSpeed's dependencies say at every turn, and no user can act on."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed.*")


class WorkerFailure(MareyError):
    """A worker failed; the text ends with its own traceback and the path of its log."""


def _account(rank: int, error: Exception) -> str:
    """An error as its worker tells it: a traceback does not survive the way to the driver. User errors need none."""
    from ray import get_runtime_context

    text = str(error) if isinstance(error, MareyError) else traceback.format_exc().rstrip()
    node = get_runtime_context().get_node_id()
    return f"worker {rank} failed: {text}\nlog of worker {rank} (process {os.getpid()}, node {node[:8]}): {_log_path()}"


def _log_path() -> str:
    """Where Ray keeps this process' output."""
    from ray._private.worker import global_worker

    folder = Path(global_worker.node.get_logs_dir_path()) if global_worker.node else Path("logs")
    mine = sorted(folder.glob(f"worker-*-{os.getpid()}.err"))
    return str(mine[0] if mine else folder)


def _failure(error: Any) -> WorkerFailure:
    """The first cause among the workers' errors: the others mostly tell of a lost connection to it."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return WorkerFailure(f"training failed: {error}")
    causes = {rank: getattr(cause, "_base_exc", cause) for rank, cause in failures.items()}
    _, cause = min(causes.items(), key=lambda item: (_is_echo(item[1]), item[0]))
    return cause if isinstance(cause, WorkerFailure) else WorkerFailure(f"a worker was lost: {cause}")


def _is_echo(error: BaseException) -> bool:
    text = str(error)
    return any(sign in text for sign in ("Connection closed by peer", "Connection reset", "gloo", "NCCL"))
