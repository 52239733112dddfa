"""Preparing a clip table from settings to its summary."""

from collections import Counter
from collections.abc import Sequence

from marey.clips.datasets import Source, find_listing
from marey.clips.flow_methods import require_opencv
from marey.clips.prepare import QUARANTINE_REPORT
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
    print(
        f"preparing {len(sources)} videos of {preparation.videos} into {table}\nlabels   {labels_of(sources)}",
        flush=True,
    )
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
    left_out = f"\nleft out {summary.table / QUARANTINE_REPORT}" if summary.num_quarantined else ""
    print(f"{summary}\ntable    {table}{left_out}", flush=True)


def labels_of(sources: Sequence[Source]) -> str:
    """What is known of videos before they are opened: ``"4 classes; train 64, test 16"``."""
    classes = len({source.label for source in sources} - {None})
    unlabelled = sum(source.label is None for source in sources)
    splits = Counter(source.split or "no split" for source in sources)
    known = f"{classes} classes" + (f", {unlabelled} videos without" if unlabelled else "") if classes else "none"
    return f"{known}; " + ", ".join(f"{split} {count}" for split, count in splits.items())


def _say(line: object) -> None:
    print(line, flush=True)
