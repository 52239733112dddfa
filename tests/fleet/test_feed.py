"""The feed through Ray Data gives the batches of the feed in process."""

from dataclasses import replace

import pytest
import torch

from marey.clips import loader
from marey.clips.augment import AugmentConfig
from marey.clips.loader import FeedOrder
from marey.clips.pipeline import Pipeline
from marey.clips.plan import Plan
from marey.clips.sample import SamplingConfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def order(table) -> FeedOrder:
    pipeline = Pipeline(8, 32, SamplingConfig(stride=2), AugmentConfig(crop="random_resized", flip=0.5))
    return FeedOrder(table, Plan(len(table), seed=3, repeats=3), pipeline, batch=8, micro_batch=2)


def same(one, other) -> bool:
    factors = (one.to_rgb is None and other.to_rgb is None) or torch.equal(one.to_rgb, other.to_rgb)
    return (
        torch.equal(one.clip, other.clip)
        and torch.equal(one.key, other.key)
        and one.clip_ids == other.clip_ids
        and factors
    )


@pytest.mark.parametrize(("start", "rank", "world"), [(0, 0, 1), (5, 1, 2)])
def test_batches_are_those_of_the_feed_in_process(order, start, rank, world):
    from marey.fleet.feed import feed

    expected = list(loader.feed(order, start, start + 4, rank, world))
    found = list(feed(order, start, start + 4, rank, world))
    assert len(found) == len(expected) == 4 * (8 // world // 2)
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("pixels", ["rgb", "yuv420"])
def test_actors_give_the_batches_of_threads(order, pixels):
    from marey.fleet.decoders import decode_actors
    from marey.fleet.feed import feed

    sampling = order.pipeline.sampling.replace(pixels=pixels)
    order = replace(order, pipeline=replace(order.pipeline, sampling=sampling))
    expected = list(loader.feed(order, 5, 9))
    with decode_actors(2) as decoders:
        found = list(feed(order, 5, 9, 0, 1, decoders))
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))
    assert all(batch.decode_seconds > 0 for batch in found)


def test_an_actors_error_is_the_one_that_a_thread_would_raise(order, monkeypatch):
    from marey.clips.decode import read_frames
    from marey.errors import ClipError
    from marey.fleet.decoders import decode_actors

    row = replace(order.table.read([0])[0], payload=b"no packets")
    with pytest.raises(ClipError) as expected:
        read_frames(row, [0])
    with decode_actors(1) as decoders, pytest.raises(ClipError) as found:
        decoders.submit(read_frames, row, [0]).result()
    assert str(found.value) == str(expected.value)


def test_an_actor_that_dies_is_started_again(order):
    import os

    from marey.fleet.decoders import decode_actors

    with decode_actors(1) as decoders:
        first = decoders.submit(os.getpid).result()
        os.kill(first, 9)
        assert decoders.submit(os.getpid).result() != first


def test_actors_for_which_there_is_no_room_are_refused():
    from marey.errors import ResourceError
    from marey.fleet.decoders import DecodeActors

    with pytest.raises(ResourceError, match="decode_actors=3: the cluster has not found them a CPU each within 5 s"):
        DecodeActors(3, start_s=5)


@pytest.mark.parametrize("limit", ["rows", "bytes"])
def test_datasets_follow_one_another_without_a_seam(order, monkeypatch, limit):
    from marey.fleet import feed as module

    monkeypatch.setattr(module, "ROWS_PER_TASK", 2)
    if limit == "rows":
        monkeypatch.setattr(module, "ROWS_PER_DATASET", 4)
    else:
        monkeypatch.setattr(module, "BYTES_PER_DATASET", int(4.5 * order.table.bytes_per_row()))
    read, passes = module._read, []
    monkeypatch.setattr(module, "_read", lambda order, chunk: passes.append(len(chunk)) or read(order, chunk))
    expected = list(loader.feed(order, 2, 4))
    assert all(same(one, other) for one, other in zip(module.feed(order, 2, 4, 0, 1), expected, strict=True))
    assert passes == [1, 2, 2, 2, 1]


def test_an_error_of_reading_reaches_the_trainer_with_the_file(order, tmp_path, monkeypatch):
    import shutil

    from marey.clips.table import open_table
    from marey.fleet.feed import feed

    copy = tmp_path / "copy"
    shutil.copytree(order.table.path, copy)
    broken = replace(order, table=open_table(copy))
    victim = next((copy / "data").glob("*.parquet"))
    victim.unlink()
    with pytest.raises(Exception, match=victim.name):
        list(feed(broken, 0, 2, 0, 1))
