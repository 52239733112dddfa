"""Scores of a model over the rows of a table: what an evaluation and a prediction have in common."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from marey.clips import loader
from marey.clips.loader import FeedOrder
from marey.clips.plan import EvaluationPlan
from marey.clips.table import ClipTable
from marey.nn.pixels import normalise


@dataclass(frozen=True)
class Scored:
    """Scores of consecutive views: ``keys`` int64 [n], places in the plan; ``scores`` float32 [n, K], probabilities."""

    keys: np.ndarray
    scores: np.ndarray


class Scorer:
    """A classifier on its device: normalised clips in, probabilities out."""

    def __init__(self, model: nn.Module, device: torch.device, precision: Literal["fp32", "bf16"] = "fp32") -> None:
        self.model = model.eval().to(device)
        self.device = device
        self.bf16 = precision == "bf16"

    @torch.inference_mode()
    def steps(self, order: FeedOrder, start: int, stop: int) -> Iterator[Scored]:
        """Scores of the passes ``start`` to ``stop`` (exclusive); decoding runs ahead in threads."""
        total = order.plan.epoch_length
        with closing(loader.feed(order, start, stop)) as batches:
            for batch in batches:
                clip = normalise(batch.to(self.device).clip)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    logits = self.model(clip)
                inside = batch.key < total
                yield Scored(batch.key[inside].numpy(), logits.float().softmax(1).cpu()[inside].numpy())


def num_passes(order: FeedOrder) -> int:
    """Forward passes that cover the plan; the last may hold padding."""
    return -(-order.plan.epoch_length // order.batch)


def collect(order: FeedOrder, parts: Iterator[Scored]) -> np.ndarray:
    """Parts in any order as one array [V, K]; an `AssertionError` if a view is missing or came twice."""
    found: np.ndarray | None = None
    times = np.zeros(order.plan.epoch_length, np.int64)
    for part in parts:
        found = np.zeros((len(times), part.scores.shape[1]), np.float32) if found is None else found
        found[part.keys] = part.scores
        np.add.at(times, part.keys, 1)
    assert found is not None
    assert (times == 1).all(), "every view is scored once"
    return found


def write_scores(path: Path, order: FeedOrder, scores: np.ndarray, classes: tuple[str, ...]) -> None:
    """One row a view: what it is of, and its probabilities. The names of the classes are in the file's metadata."""
    table, plan = order.table, order.plan
    assert isinstance(plan, EvaluationPlan)
    rows = np.arange(len(scores)) // plan.views
    view = np.arange(len(scores)) % plan.views
    columns: dict[str, Any] = {name: np.array(table.column(name), object)[rows] for name in _TOLD}
    columns["temporal_view"] = view // plan.spatial
    columns["spatial_view"] = view % plan.spatial
    flat = pa.array(scores.astype(np.float32).reshape(-1))
    columns["scores"] = pa.FixedSizeListArray.from_arrays(flat, scores.shape[1])
    write_parquet(path, columns, {"classes": "\n".join(classes), "table_fingerprint": table.fingerprint})


def write_parquet(path: Path, columns: dict[str, Any], metadata: dict[str, str]) -> None:
    """A Parquet file, there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), temporary)
    temporary.rename(path)


_TOLD = ("source_id", "uri", "start_s", "end_s", "label", "label_name", "split")


def evaluation_order(table: ClipTable, pipeline: loader.Pipeline, batch: int) -> FeedOrder:
    """Every view of every row, ``batch`` views a pass."""
    plan = EvaluationPlan(len(table), temporal=pipeline.views.temporal, spatial=pipeline.views.spatial)
    return FeedOrder(table, plan, pipeline, batch, batch)
