"""Describing a clip table."""

from pydantic import Field

from marey.config import Config
from marey.experiment.paths import AbsolutePath, TablePlace, default_results
from marey.tracking.mlflow import TrackingConfig


class Description(Config):
    """A clip table in, its data card out."""

    table: TablePlace | None = None
    """The clip table, a path or a URI."""
    output: AbsolutePath | None = None
    """The HTML file to write; default: card.html in the table; for one at a URI, in cards/ under results."""
    results: AbsolutePath = Field(default_factory=default_results)
    """Where runs are kept; $MAREY_HOME, else ~/marey."""
    workers: int | None = Field(None, ge=0)
    """0: in this process, without Ray. Default: all CPUs of the cluster."""
    tracking: TrackingConfig = TrackingConfig()
    """Where it is recorded."""
