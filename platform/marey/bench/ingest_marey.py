"""Marey's side of `marey.bench.ingest`: the feed in process, or through a Ray cluster that lives as long as it.

Run as a module, ``python -m marey.bench.ingest_marey NAME JOB``; it answers as `marey.bench.ingest_peers.serve` does.
The only module of the benches that looks up to the fleet: what it measures is there.
"""

import json
import sys
from collections.abc import Callable, Generator
from pathlib import Path

from marey.bench.ingest_peers import Batches, Job, serve
from marey.clips import loader
from marey.clips.augment import AugmentConfig
from marey.clips.batch import Batch
from marey.clips.loader import FeedOrder
from marey.clips.pipeline import Pipeline
from marey.clips.plan import Plan
from marey.clips.sample import SamplingConfig
from marey.clips.table import open_table

IN_PROCESS, RAY = "marey, in process", "marey, Ray Data"
Feed = Callable[[FeedOrder, int, int, int, int], Generator[Batch]]


def order_of(job: Job) -> FeedOrder:
    """What is fed: all rows in each pass (epoch), cropped as for pre-training."""
    table = open_table(job["table"])
    pipeline = Pipeline(job["clip_frames"], job["crop"], SamplingConfig(stride=job["stride"]), AugmentConfig())
    return FeedOrder(table, Plan(len(table), seed=0), pipeline, job["batch"], job["batch"])


def passes(job: Job, feed: Feed) -> Callable[[int], Batches]:
    """What ``feed`` brings, pass by pass, for `marey.bench.ingest_peers.serve`."""
    order = order_of(job)
    steps = len(order.table) // order.batch

    def batches(number: int) -> Batches:
        first, stop = number * steps, (number + 1) * steps
        fed = feed(order, first, stop, 0, 1)
        for samples, batch in zip(order.micro_batches(first, stop, 0, 1), fed, strict=True):
            yield [one.row for one in samples], batch.clip

    return batches


def _ray_feed() -> Feed:
    from marey.fleet import cluster
    from marey.fleet.feed import feed

    cluster.join(log_to_driver=False)
    return feed


def main() -> None:
    """What the command line says."""
    _, name, path = sys.argv
    serve(passes(json.loads(Path(path).read_text()), _ray_feed() if name == RAY else loader.feed))


if __name__ == "__main__":
    main()
