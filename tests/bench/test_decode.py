"""The bench of reading clips: every storage is measured on the same frames, and other frames are noticed."""

from pathlib import Path

import pytest
from rich.console import Console

from marey.bench.decode import GOPS, DecodeBench, Row, measure, run
from marey.errors import ConfigError

SMALL = DecodeBench(frames=80, short_side=48, clips=2, rounds=1, strides=(2,), peers=Path("/no/such/python"))


def test_every_storage_is_measured_and_missing_peers_are_told():
    console = Console(record=True, width=120)
    tables = run(SMALL, console)
    assert set(tables) == {(gop, 2) for gop in GOPS}
    h264 = ["h264", "h264, yuv", "h264, aligned", "h264, aligned, yuv"]
    thinned = ["h264, thinned", "h264, thinned, yuv", "h264, aligned, thinned", "h264, aligned, thinned, yuv"]
    names = ["source", "source, yuv", *h264, "jpeg", "raw", *thinned]
    assert all([row.name for row in rows] == names for rows in tables.values())
    assert all(row.seconds[0] > 0 for rows in tables.values() for row in rows)
    by_name = {row.name: row for row in tables[12, 2]}
    assert by_name["raw"].bytes_per_clip == 16 * 48 * 64 * 3
    assert by_name["h264"].psnr > 30
    shown = console.export_text()
    assert "left out: torchcodec and decord; `make bench-env` installs them" in shown
    assert "16 frames, stride 2, of a file with a keyframe every 250" in shown


def test_a_row_that_gives_other_frames_ends_the_bench():
    right = Row("right", lambda clips: (0.1, [[float(number) for number in clip] for clip in clips]))
    wrong = Row("wrong", lambda clips: (0.1, [[number + 5.0 for number in clip] for clip in clips]))
    moved = Row("moved", right.read, aligned=16)
    assert [row.seconds for row in measure([right, moved], SMALL, 1, range(80))] == [[0.05], [0.05]]
    with pytest.raises(AssertionError, match=r"wrong gives other frames: their means differ by 5.0"):
        measure([right, wrong], SMALL, 1, range(80))


def test_a_clip_longer_than_the_film_is_refused():
    with pytest.raises(ConfigError, match=r"strides=\[8\]: a clip is longer than frames=80"):
        run(SMALL.replace(strides=(8,)), Console(quiet=True))


def test_peers_that_cannot_be_imported_are_told():
    console = Console(record=True, width=120)
    run(SMALL.replace(peers=Path("/bin/false")), console)
    assert "left out: decord; /bin/false cannot import it" in console.export_text()
