"""Ray's trainer of one attempt, without what it would start for nothing."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from marey.fleet.cluster import has_dashboard
from marey.fleet.resources import Shares

COLLECTIVE_TIMEOUT_S = 600


class LeanTrainer(TorchTrainer):
    """A `TorchTrainer` with fewer processes beside the workers; each would be 115 MiB and a hundred wake-ups a second.

    The manager of datasets goes: workers make theirs themselves (`marey.fleet.feed`). So does the cleaner of placement
    groups where there is no dashboard: it asks the dashboard's state service, and would complain every second.
    """

    def _create_default_callbacks(self) -> list[Any]:
        needless = {"DatasetsCallback"} | (set() if has_dashboard() else {"PlacementGroupCleanerCallback"})
        return [one for one in super()._create_default_callbacks() if type(one).__name__ not in needless]


def make_trainer(
    work: Any, assignment: Any, directory: Path, workers: int, shares: Shares, callbacks: Sequence[Any]
) -> LeanTrainer:
    """The trainer that has every worker ``work({"assignment": assignment})``; ``directory``: of the run."""
    return LeanTrainer(
        work,
        train_loop_config={"assignment": assignment},
        torch_config=TorchConfig(backend="nccl" if shares.gpus else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=shares.gpus > 0, resources_per_worker=shares.for_ray()
        ),
        run_config=RunConfig(
            # A fresh name each time: resuming is ours, and a damaged snapshot of Ray's cannot stand in its way.
            name=f"attempt-{os.getpid()}-{os.urandom(3).hex()}",
            storage_path=str(directory / "ray"),
            # Its account of a failure is cut short, and comes again with every attempt; ours comes once, whole, last.
            logging_config=LoggingConfig(log_level="CRITICAL"),
            callbacks=list(callbacks),
            # So are its counts: they know no progress, and end with its controller.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
        ),
    )
