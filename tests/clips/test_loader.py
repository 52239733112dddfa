"""The feed in one process, and the pipeline it runs."""

import threading
from dataclasses import replace

import pytest
import torch

from marey.clips import pipeline as pipeline_module
from marey.clips.augment import AugmentConfig
from marey.clips.loader import FeedOrder, feed
from marey.clips.pipeline import Pipeline
from marey.clips.plan import Plan
from marey.clips.sample import SamplingConfig
from marey.errors import ClipError


@pytest.fixture
def order(table) -> FeedOrder:
    pipeline = Pipeline(8, 32, SamplingConfig(stride=2), AugmentConfig(flip=0.5))
    return FeedOrder(table, Plan(len(table), seed=1, repeats=2), pipeline, batch=8, micro_batch=2)


def test_batches_are_uint8_clips_with_their_keys_and_names(order):
    [first, *_] = feed(order, 0, 1)
    assert first.clip.shape == (2, 3, 8, 32, 32)
    assert first.clip.dtype == torch.uint8
    assert first.key.tolist() == [one.key for one in order.plan.slice(0, 8)[:2]]
    assert all(name.split("@")[0].endswith(".mp4") for name in first.clip_ids)


def test_a_feed_may_start_at_any_step(order):
    keys = torch.cat([batch.key for batch in feed(order, 3, 5)]).tolist()
    assert keys == [one.key for step in (3, 4) for one in order.plan.slice(step, 8)]


def test_the_frames_follow_the_decode_key_and_the_crop_the_samples_own(order):
    [row] = order.table.read([0])
    one = order.plan.sample(0)
    made = order.pipeline.examples(row, [one, one, one._replace(key=one.key + 1)])
    others = [order.pipeline.examples(row, [one._replace(decode_key=key)])[0] for key in range(5)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert any(not torch.equal(made[0], other) for other in others)


@pytest.mark.parametrize("world", [1, 2])
def test_workers_get_the_global_batch_between_them_from_any_step(order, world):
    everything = torch.cat([batch.clip for batch in feed(order, 3, 5)])
    per_rank = [torch.cat([b.clip for b in feed(order, 3, 5, rank, world)]).chunk(2) for rank in range(world)]
    assert torch.equal(everything, torch.cat([part[step] for step in range(2) for part in per_rank]))


def test_repeats_of_a_row_are_decoded_once(order, monkeypatch):
    calls = []
    read = pipeline_module.read_frames
    monkeypatch.setattr(pipeline_module, "read_frames", lambda row, indices: calls.append(row) or read(row, indices))
    batches = list(feed(order, 0, 2))
    assert sum(len(batch) for batch in batches) == 16
    assert len(calls) == 8
    assert not torch.equal(batches[0].clip[0], batches[0].clip[1])


def test_a_crop_larger_than_the_table_names_the_command_that_mends_it(order):
    with pytest.raises(ClipError, match=r"prepare_clips\.py .* clips\.short_side=512"):
        replace(order.pipeline, crop=512).check(order.table)


def test_an_error_of_decoding_is_raised_in_the_trainers_thread(order, monkeypatch):
    def broken(row, indices):
        raise ClipError(f"{row.clip_id} is broken")

    monkeypatch.setattr(pipeline_module, "read_frames", broken)
    with pytest.raises(ClipError, match=r"\.mp4@.* is broken"):
        list(feed(order, 0, 1))


def test_closing_the_feed_ends_its_threads(order):
    before = threading.active_count()
    batches = feed(order, 0, 1000)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_a_table_too_slow_for_the_clips_is_refused_with_the_command_that_makes_a_faster_one(order):
    slowest = min(order.table.column("fps"))
    replace(order.pipeline, sampling=SamplingConfig(fps=slowest)).check(order.table)
    with pytest.raises(ClipError, match=rf"rows of {slowest:g} frames a second, but clips.fps=60; .* clips.fps=60"):
        replace(order.pipeline, sampling=SamplingConfig(fps=60)).check(order.table)


def test_a_flipped_clip_of_a_class_with_a_mirror_image_gets_the_others_label(labelled):
    pipeline = Pipeline(8, 32, SamplingConfig(stride=2), AugmentConfig(crop="center", flip=0.5), mirrored={0: 1, 1: 0})
    flipped = replace(pipeline, augment=AugmentConfig(crop="center", flip=1.0))
    order = FeedOrder(labelled, Plan(len(labelled), seed=1), pipeline, batch=len(labelled), micro_batch=len(labelled))
    [batch], [turned] = feed(order, 0, 1), feed(replace(order, pipeline=flipped), 0, 1)
    assert batch.label is not None
    rows = labelled.read([one.row for one in order.plan.slice(0, len(labelled))])
    for place, row in enumerate(rows):
        is_flipped = torch.equal(batch.clip[place], turned.clip[place])
        assert batch.label[place] == ({0: 1, 1: 0}.get(row.label, row.label) if is_flipped else row.label)
    assert 0 < sum(torch.equal(one, other) for one, other in zip(batch.clip, turned.clip, strict=True)) < len(rows)
