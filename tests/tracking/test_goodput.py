"""Where time went, from records that were made up and so are known."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from marey.cli import app
from marey.errors import RunError
from marey.experiment.run import SETTINGS
from marey.tracking.goodput import PACE, STALL, goodput, read_goodput
from marey.tracking.journal import EVENTS, METRICS, Point, point_line

START = {"event": "start", "time": 100.0, "parameters": {"batch": 8}}


def record(*times: float, seconds: float = 2.0, first: int = 1) -> list[Point]:
    """Steps of so many seconds that ended at these times."""
    return [Point(step, time, {PACE: 8 / seconds}) for step, time in enumerate(times, first)]


def test_steps_and_the_start():
    found = goodput(record(112.0, 114.0, 116.5), [START])
    assert (found.steps, found.start, found.rest, found.interruptions) == (6.0, 10.0, 0.5, ())
    assert found.total == 16.5
    assert found.share == pytest.approx(6 / 16.5)


def test_an_interruption_holds_what_was_done_again():
    found = goodput(record(102.0, 104.0, 136.0, 138.0), [START])
    assert found.interruptions == (30.0,)
    assert found.steps == 8.0


def test_waiting_for_checkpoints_and_validations_are_told_apart():
    points = [
        *record(102.0, 104.0, 107.0, 117.0),
        Point(2, 105.0, {STALL: 1.0}),
        Point(3, 115.0, {"validation/top1": 0.5}),
    ]
    found = goodput(points, [START])
    assert (found.stalls, found.validations, found.interruptions, found.rest) == (1.0, 8.0, (), 0.0)


def test_time_between_an_end_and_the_next_start_is_nobodys():
    events = [START, {"event": "end", "time": 105.0}, {"event": "picture", "time": 105.0}, {**START, "time": 1000.0}]
    found = goodput(record(102.0, 104.0, 1012.0), events)
    assert found.interruptions == (11.0,)  # 1 s before the end, 10 s after the start
    assert found.total == 17.0


def test_points_of_every_tenth_step_stand_for_ten():
    points = [Point(step, 100.0 + 2 * step, {PACE: 4.0}) for step in (1, 10, 20, 30)]
    found = goodput(points, [START])
    assert (found.steps, found.rest, found.start) == (60.0, 0.0, 0.0)


def test_it_is_read_from_a_runs_folder(tmp_path: Path):
    with pytest.raises(RunError, match="no step is recorded"):
        read_goodput(tmp_path)
    (tmp_path / EVENTS).write_text(json.dumps(START) + "\n")
    lines = (json.dumps(point_line(point)) for point in record(102.0, 104.0))
    (tmp_path / METRICS).write_text("\n".join(lines) + "\n")
    assert read_goodput(tmp_path).share == 1.0
    (tmp_path / SETTINGS).touch()
    shown = CliRunner().invoke(app, ["goodput", str(tmp_path)])
    assert shown.exit_code == 0
    assert "steps that count" in shown.stdout
    assert "100.0%" in shown.stdout
