"""Scores of a model over a table: every view of every row once, on however many workers."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from marey.clips.batch import Batch
from marey.clips.loader import FeedOrder
from marey.clips.table import ClipTable
from marey.engine.strategy import Strategy
from marey.recipes import metrics

Feed = Callable[[FeedOrder, int, int, int, int], Generator[Batch]]


@dataclass(frozen=True)
class Scores:
    """What a model makes of the videos of a table, one entry a source."""

    source_ids: list[str]
    scores: np.ndarray
    """Probabilities float32 [N, K], the mean over the views of all of a source's rows."""
    labels: np.ndarray
    """Class index int64 [N]."""

    def summary(self) -> dict[str, float]:
        """Accuracies and loss, see `marey.recipes.metrics.summarise`."""
        return metrics.summarise(self.scores, self.labels)


def evaluate(strategy: Strategy, order: FeedOrder, feed: Feed) -> np.ndarray | None:
    """Probabilities float32 [V, K] of every view of an `EvaluationPlan`, on rank 0; None elsewhere. Collective.

    All workers run equally many passes, as ZeRO-3 demands; what the last ones compute beyond the plan is dropped.
    """
    total, share = order.plan.epoch_length, strategy.world * order.micro_batch
    steps = -(-total // share)
    found: np.ndarray | None = None
    strategy.align_buffers()
    with closing(feed(order, 0, steps, strategy.rank, strategy.world)) as batches:
        for batch in batches:
            scores = strategy.forward(batch, "predict").metrics["scores"].float()
            keys, everyone = strategy.gather_rows(batch.key, scores)
            if strategy.rank == 0:
                found = np.zeros((total, everyone.shape[1]), np.float32) if found is None else found
                inside = keys < total
                found[keys[inside].numpy()] = everyone[inside].numpy()
    return found


def per_source(table: ClipTable, scores: np.ndarray) -> Scores:
    """The views' scores [V, K] of a table's rows, views of a row together, as one score a source."""
    ids, means = source_means(table, scores)
    label_of = dict(zip(table.column("source_id"), table.column("label"), strict=True))
    return Scores(ids, means, np.array([label_of[one] for one in ids], np.int64))


def source_means(table: ClipTable, scores: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Sources in order of appearance, and their mean scores [N, K] over the views [V, K] of all of their rows."""
    return metrics.by_source(np.repeat(table.column("source_id"), len(scores) // len(table)).tolist(), scores)
