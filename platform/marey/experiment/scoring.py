"""Using a trained model: evaluating it on labelled rows, predicting with it on any."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from marey.backbones import zoo
from marey.backbones.base import BackboneConfig
from marey.clips.sample import SamplingConfig, ViewConfig
from marey.config import Config
from marey.experiment.fleet import FleetConfig
from marey.experiment.paths import AbsolutePath, TablePlace, default_results
from marey.tracking.mlflow import TrackingConfig


class Choice(Config):
    """Which of a run's weights, and where runs are."""

    weights: Literal["best", "last"] = "best"
    """Of a run: the checkpoint that was best in its validations, or the last."""
    results: AbsolutePath = Field(default_factory=default_results)
    """Where runs and tables are kept; $MAREY_HOME, else ~/marey."""


class Scoring(Choice):
    """What evaluation and prediction have in common."""

    model: str | None = None
    """A run's name or folder, a checkpoint, a .safetensors or PyTorch file."""
    backbone: Annotated[SerializeAsAny[BackboneConfig], BeforeValidator(zoo.from_setting)] | None = None
    """Only for a file of weights: which model they are of (for a run, its own)."""
    clips: SamplingConfig | None = None
    """Which frames make a clip; none: as in the run's training."""
    views: ViewConfig = ViewConfig()
    """Clips and crops of each row, whose probabilities are averaged."""
    batch: int = Field(8, gt=0)
    """Views of one forward pass."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products under autocast."""
    fleet: FleetConfig = FleetConfig()
    """On what it runs."""


class Evaluation(Scoring):
    """How right a model is on labelled rows."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=120)
    """Name of the evaluation, a folder beside the run; default: split and views, e.g. test-5x3."""
    table: TablePlace | None = None
    """The clip table, a path or a URI; none: the one that the run was trained on."""
    split: str | None = "test"
    """Split of the table; none: all rows."""
    tracking: TrackingConfig = TrackingConfig()
    """Where it is recorded."""


class Prediction(Scoring):
    """What a model says of videos, labelled or not."""

    table: TablePlace | None = None
    """A clip table, a path or a URI."""
    videos: AbsolutePath | None = None
    """Instead of a table: a video, a folder or a list of videos."""
    split: str | None = None
    """Split of the table; none: all rows."""
    output: AbsolutePath | None = None
    """Parquet file to write; default: predictions/<table or videos>.parquet beside the run."""
    top: int = Field(5, gt=0)
    """Classes that are told of each video, the likeliest first."""
