import errno
import json
import math
import resource
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marey.tracking.base import RunDescription
from marey.tracking.journal import AppendFile, Point, point_line, read_lines, read_point, read_points
from marey.tracking.jsonl import JsonlTracker


def started(directory: Path) -> JsonlTracker:
    tracker = JsonlTracker()
    tracker.start(RunDescription("run", directory, {"optim.lr": 0.1, "clip": math.inf, "path": Path("/x")}))
    return tracker


def steps(directory: Path) -> list[int]:
    return [point.step for point in read_points(directory)]


def test_one_line_for_each_call(tmp_path: Path) -> None:
    tracker = started(tmp_path)
    tracker.metrics(1, {"train/loss": 0.5, "train/lr": np.float32(0.25)})
    tracker.metrics(2, {"train/loss": 0.25})
    tracker.end("finished")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["values"] for line in lines] == [{"train/loss": 0.5, "train/lr": 0.25}, {"train/loss": 0.25}]
    assert all(abs(line["time"] - time.time()) < 60 for line in lines)


def test_numbers_that_are_not_finite_come_back_and_stay_json() -> None:
    point = Point(1, 0.0, {"nan": math.nan, "up": math.inf, "down": -math.inf, "tiny": 5e-324})
    text = json.dumps(point_line(point), allow_nan=False)
    values = read_point(json.loads(text)).values
    assert math.isnan(values["nan"])
    assert (values["up"], values["down"], values["tiny"]) == (math.inf, -math.inf, 5e-324)


def test_replayed_steps_are_dropped_key_by_key(tmp_path: Path) -> None:
    first = started(tmp_path)
    for step in range(1, 7):
        first.metrics(step, {"loss": step})
    first.metrics(4, {"top1": 0.5})
    first.end("killed")
    second = started(tmp_path)
    for step in range(3, 10):
        second.metrics(step, {"loss": step, "top1": 0.5} if step == 8 else {"loss": step})
    second.end("finished")
    loss = [point.step for point in read_points(tmp_path) if "loss" in point.values]
    assert loss == list(range(1, 10))
    assert [point.step for point in read_points(tmp_path) if "top1" in point.values] == [4, 8]


@pytest.mark.parametrize("torn", [b'{"step":3,"ti', b"\x00" * 200_000, b"{"])
def test_a_torn_last_line_is_mended(tmp_path: Path, torn: bytes) -> None:
    first = started(tmp_path)
    first.metrics(1, {"loss": 1.0})
    first.metrics(2, {"loss": 2.0})
    first.end("finished")
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    second = started(tmp_path)
    second.metrics(3, {"loss": 3.0})
    second.end("finished")
    assert steps(tmp_path) == [1, 2, 3]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_reading_stops_before_an_unfinished_line_and_passes_over_damage(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a":1}\n\xff\xfe\n{"a":2}\n{"a":3')
    assert [(line["a"], offset) for line, offset in read_lines(path)] == [(1, 8), (2, 19)]
    assert [line["a"] for line, _ in read_lines(path, 8)] == [2]


def test_pictures_and_events(tmp_path: Path) -> None:
    tracker = started(tmp_path)
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    tracker.picture(12, "reconstruction", image)
    tracker.picture(12, "reconstruction", 255 - image)
    tracker.end("failed", "loss is nan")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "pictures/reconstruction/00000012.png")), image)
    start, picture, end = [line for line, _ in read_lines(tmp_path / "events.jsonl")]
    assert start["parameters"] == {"optim.lr": 0.1, "clip": "Infinity", "path": "/x"}
    assert (picture["step"], picture["key"]) == (12, "reconstruction")
    assert (end["status"], end["message"]) == ("failed", "loss is nan")


def test_a_full_disk_leaves_no_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    file = AppendFile(path)
    file.append({"a": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 4, hard))  # four bytes of the line fit
    try:
        with pytest.raises(OSError, match="part of a line"):
            file.append({"a": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.append({"a": 3})
    assert path.read_text() == '{"a":1}\n{"a":3}\n'


def test_a_disk_that_hangs_or_is_full_holds_nothing_up_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = started(tmp_path)
    healthy, append = threading.Event(), AppendFile.append

    def sick(self: AppendFile, line: dict[str, object]) -> None:
        if not healthy.is_set():
            time.sleep(0.3)
            raise OSError(errno.ENOSPC, "no space left on device")
        append(self, line)

    monkeypatch.setattr(AppendFile, "append", sick)
    longest = 0.0
    for step in range(1, 40):
        began = time.perf_counter()
        tracker.metrics(step, {"loss": 1.0})
        longest = max(longest, time.perf_counter() - began)
    healthy.set()
    tracker.end("finished")
    assert longest < 0.1
    assert steps(tmp_path) == list(range(1, 40))
