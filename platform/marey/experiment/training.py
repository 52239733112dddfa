"""Training a model."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from marey.backbones import zoo
from marey.backbones.base import BackboneConfig
from marey.clips.augment import AugmentConfig
from marey.clips.sample import SamplingConfig
from marey.config import Config
from marey.engine.checkpoint import CheckpointConfig
from marey.engine.hooks import LogConfig
from marey.engine.optim import OptimConfig
from marey.engine.strategy import EngineConfig
from marey.experiment.paths import AbsolutePath, default_results
from marey.recipes.masked import MaskedConfig
from marey.tracking.mlflow import TrackingConfig


class FleetConfig(Config):
    """Workers and what they may use."""

    workers: int = Field(1, ge=0)
    """Training workers under Ray; 0: one, in this process, without Ray."""
    cpus_per_worker: float | None = Field(None, gt=0)
    """CPUs of each worker; default: the cluster's, shared out."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: a GPU for each worker if the cluster has enough."""
    max_failures: int = Field(3, ge=0)
    """Times that lost workers are started again from the last checkpoint."""
    storage: Literal["local", "shared"] = "local"
    """shared: results and table are on a path that all hosts see; needed with more than one host."""


class Training(Config):
    """A run: what is trained, on what, how, and where."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=120)
    """The run's name; a run of that name is taken up where it stopped. Default: a fresh one."""
    results: AbsolutePath = Field(default_factory=default_results)
    """Where runs, tables and the MLflow store are kept; $MAREY_HOME, else ~/marey."""
    table: AbsolutePath | None = None
    """The clip table to train on (`jobs/prepare_clips.py` makes one)."""
    videos: AbsolutePath | None = None
    """Instead of a table: a folder or list of videos, of which a table with the default settings is made first."""
    epochs: float = Field(800.0, gt=0)
    """Passes over the samples (rows × repeats)."""
    batch: int = Field(256, gt=0)
    """Global batch: clips of one optimiser step, over all workers and accumulated passes."""
    repeats: int = Field(1, gt=0)
    """Samples that each row gives in an epoch, decoded once (repeated augmentation)."""
    seed: int = Field(0, ge=0)
    """Seeds the weights, the order, the crops and the masks."""
    backbone: Annotated[SerializeAsAny[BackboneConfig], BeforeValidator(zoo.from_setting)]
    """The model: a variant's name, and fields that differ from it."""
    clips: SamplingConfig = SamplingConfig()
    """Which frames make a clip."""
    augment: AugmentConfig = AugmentConfig()
    """What is drawn for each sample."""
    recipe: MaskedConfig = MaskedConfig()
    """What is learned."""
    optim: OptimConfig = OptimConfig()
    """How the weights are changed."""
    engine: EngineConfig = EngineConfig()
    """How it is computed."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is saved."""
    log: LogConfig = LogConfig()
    """What is reported."""
    tracking: TrackingConfig = TrackingConfig()
    """Where it is recorded."""
    fleet: FleetConfig = FleetConfig()
    """On what it runs."""

    @model_validator(mode="after")
    def _fits(self) -> "Training":
        if self.batch % max(1, self.fleet.workers):
            raise ValueError(f"batch={self.batch} is not a multiple of fleet.workers={self.fleet.workers}")
        if self.table is not None and self.videos is not None:
            raise ValueError("table= and videos= are both given; a run reads one of them")
        return self

    def micro_batch(self, world: int) -> int:
        """Clips of one forward pass: the largest divisor of a worker's share that is at most engine.micro_batch."""
        share = self.batch // world
        return max(size for size in range(1, min(share, self.engine.micro_batch) + 1) if share % size == 0)
