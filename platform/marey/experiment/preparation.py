"""Preparing a clip table."""

from typing import Literal

from pydantic import Field

from marey.clips.prepare import ClipStorage
from marey.config import Config
from marey.experiment.paths import AbsolutePath, TablePlace, default_results


class Preparation(Config):
    """Videos in, a clip table out."""

    videos: AbsolutePath | None = None
    """A folder of videos, one video (a file, or a folder of frames), a list of them, or a data set's official files."""
    videos_root: AbsolutePath | None = None
    """The folder to which paths in a list are relative; default: the list's own."""
    fold: Literal[1, 2, 3] = 1
    """Which of a data set's official splits, where it has three (HMDB51, UCF101)."""
    classes: AbsolutePath | None = None
    """A label map, one class name a line, whose order numbers the classes; default: the data set's own order."""
    table: TablePlace | None = None
    """The clip table to write, a path or a URI; default: tables/<name of videos> under results."""
    results: AbsolutePath = Field(default_factory=default_results)
    """Where everything is kept that has no place of its own; $MAREY_HOME, else ~/marey."""
    max_quarantine: float = Field(0.1, ge=0, le=1)
    """Share of the videos that may be unreadable; more fail the job at its end."""
    clips: ClipStorage = ClipStorage()
    """How segments are cut and stored."""
    workers: int | None = Field(None, ge=0)
    """Videos prepared at a time; default: one for each CPU of the cluster. 0: in this process, without Ray."""

    def table_path(self) -> str:
        """Where the table goes, a path or a URI."""
        if self.table is not None:
            return self.table
        assert self.videos is not None
        return str(self.results / "tables" / self.videos.stem)
