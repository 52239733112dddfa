"""On what a verb runs."""

from typing import Literal

from pydantic import Field

from marey.config import Config


class FleetConfig(Config):
    """Workers and what they may use."""

    workers: int = Field(1, ge=0)
    """Workers under Ray; 0: one, in this process, without Ray."""
    cpus_per_worker: float | None = Field(None, gt=0)
    """CPUs of each worker; default: the cluster's, shared out."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: a GPU for each worker if the cluster has enough."""
    max_failures: int = Field(3, ge=0)
    """Times that failed workers are started again from the last checkpoint without reaching a new one."""
    storage: Literal["local", "shared"] = "local"
    """shared: results and table are on a path that all hosts see; needed with more than one host."""


class TrainingFleet(FleetConfig):
    """On what a training runs."""

    min_workers: int | None = Field(None, ge=1)
    """Fewest workers to go on with when machines are lost, until there is room for all again; none: all of them."""
    hang_seconds: float | None = Field(60.0, gt=0)
    """Seconds without any progress (or three steps, where these take longer) after which workers are taken for hung:
    their stacks are logged and they start again from the last checkpoint; none: never."""
    decode_actors: int = Field(0, ge=0)
    """Ray actors of one CPU that decode for each worker, on its host or another; 0: the worker's own threads do."""
