"""Preparing a clip table from settings to its summary."""

from marey.clips.datasets import find_listing
from marey.clips.flow_methods import require_opencv
from marey.errors import ConfigError
from marey.experiment import Preparation
from marey.launch import signals


def run(preparation: Preparation) -> None:
    """Prepare the table; raises `ClipError` where too much was unreadable."""
    if preparation.videos is None:
        raise ConfigError('videos: not given; a folder or a list of videos, e.g. videos="$PWD/videos"')
    require_opencv(preparation.clips.flow)
    listing = find_listing(preparation.videos, preparation.videos_root, preparation.fold, preparation.classes)
    sources, classes = listing.sources, listing.classes
    table = preparation.table_path()
    print(f"preparing {len(sources)} videos of {preparation.videos} into {table}", flush=True)
    if preparation.workers == 0:
        from marey.clips.prepare import prepare_all

        summary = prepare_all(sources, preparation.clips, table, preparation.max_quarantine, _say, classes=classes)
    else:
        from marey.fleet import cluster
        from marey.fleet.tables import build_table

        cluster.join()
        signals.install()
        summary = build_table(
            sources, preparation.clips, table, preparation.max_quarantine, _say, preparation.workers, classes
        )
    print(f"{summary}\ntable    {table}", flush=True)


def _say(line: object) -> None:
    print(line, flush=True)
