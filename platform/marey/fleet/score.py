"""Scoring on a cluster: Ray Data hands out chunks of forward passes, each to one of a pool of actors with the model."""

import pickle
from collections.abc import Iterator
from typing import Any

import ray
import torch

from marey.clips.loader import FeedOrder
from marey.experiment.scoring import Scoring
from marey.fleet.cluster import settled
from marey.fleet.resources import Shares, share_out
from marey.inference.opened import Opened
from marey.inference.score import Scored, Scorer, num_passes

CHUNKS_PER_WORKER = 8  # so that a slow worker's last chunk is not waited for long
_MOST_PASSES = 64  # of one chunk: what is lost, and done again, when a worker is


def plan_shares(scoring: Scoring) -> tuple[Shares, str]:
    """Each worker's share, and the cluster in words; raises `ResourceError` for what does not fit."""
    cluster = settled()
    return share_out(scoring.fleet, scoring.results, cluster), str(cluster)


def score(scoring: Scoring, order: FeedOrder, opened: Opened, shares: Shares) -> Iterator[Scored]:
    """Scores of all passes as they are finished. Which views are in a pass does not depend on the workers."""
    workers, passes = scoring.fleet.workers, num_passes(order)
    length = max(1, min(_MOST_PASSES, -(-passes // (CHUNKS_PER_WORKER * workers))))
    items = [{"start": start, "stop": min(passes, start + length)} for start in range(0, passes, length)]
    model = ray.put(opened.model(scoring.backbone))
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _Worker,
        fn_constructor_args=(pickle.dumps((order, scoring.precision, shares.gpus > 0)), model),
        concurrency=min(workers, len(items)),
        num_cpus=shares.cpus,
        num_gpus=shares.gpus,
    )
    dataset.context.enable_progress_bars = False
    for row in dataset.iter_rows():
        yield from pickle.loads(row["scored"])


class _Worker:
    """The body of an actor."""

    def __init__(self, order: bytes, model: Any) -> None:
        self.order, precision, gpu = pickle.loads(order)
        self.scorer = Scorer(ray.get(model), torch.device("cuda" if gpu else "cpu"), precision)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"scored": pickle.dumps(list(self.scorer.steps(self.order, item["start"], item["stop"])))}
