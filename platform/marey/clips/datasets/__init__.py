"""Where videos come from: a folder, one file, or a list of files, each with its labels, as a list of `Source`."""

from marey.clips.datasets.source import Source

__all__ = ["Source"]
