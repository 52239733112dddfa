"""Training on a cluster: Ray Train starts the workers, each of which runs what one process would run without Ray."""

import logging
import os
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marey.clips.table import ClipTable
from marey.errors import MareyError, TrainingError
from marey.experiment import assemble
from marey.experiment.training import Training
from marey.fleet.cluster import describe
from marey.fleet.feed import feed
from marey.fleet.resources import Shares, share_out
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


def plan_shares(training: Training) -> tuple[Shares, str]:
    """Each worker's share, and the cluster in words; raises `ResourceError` for what does not fit."""
    cluster = describe()
    return share_out(training, cluster), str(cluster)


def train(training: Training, table: ClipTable, directory: Path, tracker: RemoteTracker, shares: Shares) -> None:
    """Run ``fleet.workers`` workers to the end, started again up to ``fleet.max_failures`` times.

    Raises `TrainingError` for a loss that is not finite, `WorkerFailure` for any other error of a worker.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    trainer = TorchTrainer(
        _work,
        train_loop_config={"assignment": Assignment(training, table, directory, tracker)},
        torch_config=TorchConfig(backend="nccl" if shares.gpus else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=training.fleet.workers, use_gpu=shares.gpus > 0, resources_per_worker=shares.for_ray()
        ),
        run_config=RunConfig(
            # A fresh name each time: resuming is ours, and a damaged snapshot of Ray's cannot stand in its way.
            name=f"attempt-{os.getpid()}-{os.urandom(3).hex()}",
            storage_path=str(directory / "ray"),
            failure_config=FailureConfig(max_failures=training.fleet.max_failures, controller_failure_limit=3),
        ),
    )
    try:
        stopped = trainer.fit().return_value
    except TrainingFailedError as error:
        raise _failure(error) from None
    if stopped:
        raise TrainingError(stopped)


def _work(config: dict[str, Any]) -> str | None:
    """A worker. A loss that is not finite, on which all workers agree, is returned: trying again would not help."""
    from ray.train import get_context

    _hush()
    job: Assignment = config["assignment"]
    tracker = job.tracker if get_context().get_world_rank() == 0 else None
    try:
        assemble.train(job.training, job.table, job.directory, feed, tracker)
    except TrainingError as error:
        return str(error)
    return None


def _hush() -> None:
    """What Ray Data and DeepSpeed's dependencies say at every turn, and no user can act on."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed.*")


class WorkerFailure(MareyError):
    """A worker failed; the text ends with its own traceback."""


def _failure(error: Any) -> WorkerFailure:
    """The first cause among the workers' errors: the others mostly tell of a lost connection to it."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return WorkerFailure(f"training failed: {error}")
    rank, cause = min(failures.items(), key=lambda item: (_is_echo(item[1]), item[0]))
    cause = getattr(cause, "_base_exc", cause)
    text = "".join(traceback.format_exception(cause)).rstrip()
    return WorkerFailure(f"worker {rank} failed:\n{text}")


def _is_echo(error: BaseException) -> bool:
    text = str(error)
    return any(sign in text for sign in ("Connection closed by peer", "Connection reset", "gloo", "NCCL"))
