"""Training a model."""

from typing import Annotated

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from marey.backbones import zoo
from marey.backbones.base import BackboneConfig
from marey.clips.augment import AugmentConfig
from marey.clips.quotas import BalanceConfig
from marey.clips.sample import SamplingConfig, ViewConfig
from marey.config import Config
from marey.engine.bad_steps import BadStepsConfig
from marey.engine.checkpoint_config import CheckpointConfig
from marey.engine.hooks import LogConfig
from marey.engine.optim import OptimConfig
from marey.engine.strategy import EngineConfig
from marey.errors import ConfigError
from marey.experiment.fleet import TrainingFleet
from marey.experiment.paths import AbsolutePath, TablePlace, default_results
from marey.recipes import registry
from marey.recipes.base import RecipeConfig
from marey.recipes.masked import MaskedConfig
from marey.tracking.mlflow import TrackingConfig


class ValidationConfig(Config):
    """What is evaluated while training."""

    split: str | None = None
    """Split of the table; none: no validation."""
    every: float = Field(1.0, gt=0)
    """Epochs from one validation to the next; the end always has one."""
    views: ViewConfig = ViewConfig()
    """Clips and crops of each row, whose scores are averaged."""


class Training(Config):
    """A run: what is trained, on what, how, and where."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=120)
    """The run's name; a run of that name is taken up where it stopped. Default: a fresh one."""
    results: AbsolutePath = Field(default_factory=default_results)
    """Where runs, tables and the MLflow store are kept; $MAREY_HOME, else ~/marey."""
    table: TablePlace | None = None
    """The clip table to train on, a path or a URI (`jobs/prepare_clips.py` makes one)."""
    tables: tuple[TablePlace, ...] = ()
    """Instead of a table: several, whose rows are mixed."""
    shares: tuple[float, ...] = ()
    """What each of the tables gives to an epoch, relative to one another; none: as their rows."""
    videos: AbsolutePath | None = None
    """Instead of a table: a folder or list of videos, of which a table with the default settings is made first."""
    split: str | None = None
    """Split of the table to train on; none: all rows."""
    init: str | None = None
    """Weights to start from: a run's name or folder, a checkpoint, a .safetensors or PyTorch file."""
    epochs: float = Field(800.0, gt=0)
    """Passes over the samples (rows × repeats)."""
    batch: int = Field(256, gt=0)
    """Global batch: clips of one optimiser step, over all workers and accumulated passes."""
    repeats: int = Field(1, gt=0)
    """Samples that each row gives in an epoch, decoded once (repeated augmentation)."""
    balance: BalanceConfig = BalanceConfig()
    """Which classes come more often than their rows do."""
    seed: int = Field(0, ge=0)
    """Seeds the weights, the order, the crops and the masks."""
    backbone: Annotated[SerializeAsAny[BackboneConfig], BeforeValidator(zoo.from_setting)]
    """The model: a variant's name, and fields that differ from it."""
    clips: SamplingConfig = SamplingConfig()
    """Which frames make a clip."""
    augment: AugmentConfig = AugmentConfig()
    """What is drawn for each sample."""
    recipe: Annotated[SerializeAsAny[RecipeConfig], BeforeValidator(registry.from_setting)] = MaskedConfig()
    """What is learned."""
    validation: ValidationConfig = ValidationConfig()
    """What is evaluated while training."""
    optim: OptimConfig = OptimConfig()
    """How the weights are changed."""
    bad_steps: BadStepsConfig = BadStepsConfig()
    """What is done about a loss that is not finite, or a spike."""
    engine: EngineConfig = EngineConfig()
    """How it is computed."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is saved."""
    log: LogConfig = LogConfig()
    """What is reported."""
    tracking: TrackingConfig = TrackingConfig()
    """Where it is recorded."""
    fleet: TrainingFleet = TrainingFleet()
    """On what it runs."""

    @model_validator(mode="after")
    def _fits(self) -> "Training":
        if self.batch % max(1, self.fleet.workers):
            raise ValueError(f"batch={self.batch} is not a multiple of fleet.workers={self.fleet.workers}")
        if (self.fleet.min_workers or 0) > self.fleet.workers:
            raise ValueError(
                f"fleet.min_workers={self.fleet.min_workers} is more than fleet.workers={self.fleet.workers}"
            )
        if self.fleet.decode_actors and not self.fleet.workers:
            raise ValueError(f"fleet.decode_actors={self.fleet.decode_actors} need Ray: fleet.workers=1 or more")
        if sum(map(bool, (self.table, self.tables, self.videos))) > 1:
            raise ValueError("of table=, tables= and videos= more than one is given; a run reads one of them")
        if self.shares and (len(self.shares) != len(self.tables) or min(self.shares) <= 0):
            raise ValueError(
                f"shares={list(self.shares)}: one number above 0 is needed for each of the {len(self.tables)} tables="
            )
        if self.validation.split is not None and not self.recipe.labelled:
            raise ValueError(f"validation.split={self.validation.split}: recipe {self.recipe.kind!r} has no validation")
        if self.checkpoint.keep_best == "top1" and self.validation.split is None:
            raise ValueError("checkpoint.keep_best=top1 needs validation.split=; or keep_best=loss")
        return self

    def micro_batch(self, world: int) -> int:
        """Clips of one forward pass: the largest divisor of a worker's share that is at most engine.micro_batch.

        `ConfigError` if the recipe needs neighbouring clips together, and they do not fit.
        """
        share, unit = self.batch // world, self.recipe.together(self.repeats)
        largest = min(share, self.engine.micro_batch)
        sizes = [size for size in range(unit, largest + 1, unit) if share % size == 0]
        if not sizes:
            raise ConfigError(
                f"recipe.mix pairs clips: it needs passes of a multiple of {unit} clips (2 × repeats={self.repeats}), "
                f"but a worker has {share} of batch={self.batch} and engine.micro_batch={self.engine.micro_batch}"
            )
        return max(sizes)
