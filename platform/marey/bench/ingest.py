"""Feeding a training with decoded clips, side by side: processor time, memory and pace of Marey's feeds and of others.

Every row decodes the same H.264 clips from the same stored bytes to batches of uint8 pixels; on the same cores, one
row at a time, rows taking turns. A turn is a program of its own: it starts, goes through all clips once, and is
measured while it goes through them a second time. Its processor time and memory are those of all its processes,
Ray's cluster included.

    marey, Ray Data       as training under Ray is fed: rows through Ray Data, decoded in the trainer's threads
    marey, in process     the same without Ray
    torch DataLoader      over the same Parquet files, decoding in worker processes with plain PyAV
    webdataset, litdata, mosaicml-streaming
                          each over files of its own format, with that same decoding, from the environment that
                          `make bench-env` makes

Checked: each row brings every clip once a pass; Marey's two bring the same pixels to the bit; the thinned mean of no
clip differs by more than 1.5 grey levels. Ratios to the torch DataLoader are medians over rounds. Idle:
memory before anything is fed. Start: from nothing to the first batch.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from rich.console import Console

from marey.bench import decode, ingest_marey, ingest_peers, ingest_report, report, words
from marey.bench.ingest_clips import works, write_table
from marey.bench.ingest_marey import IN_PROCESS, RAY
from marey.bench.ingest_peers import DATALOADER, WRITERS
from marey.bench.ingest_report import Row, Turn
from marey.bench.ingest_turn import Failed, Feeder, take_turn
from marey.bench.machine import OtherWork
from marey.bench.peer_process import PYTHON
from marey.clips.datasets import Source, find_sources
from marey.clips.row import ClipRow
from marey.clips.storage import ClipStorage
from marey.config import Config
from marey.errors import ConfigError

ROWS = (RAY, IN_PROCESS, DATALOADER, *WRITERS)
_SAME_MEAN = 1.5  # grey levels by which two ways to convert and resize may differ on a clip's mean
_WRITE_SECONDS = 600


class IngestBench(Config):
    """What to measure."""

    videos: Path | None = None
    """Folder (or list) of videos. Default: one film, as video and frames say."""
    video: Path | None = None
    """The film; its first frames are used. Default: soft moving pictures that are drawn."""
    frames: int = Field(300, ge=16)
    """Frames of the film."""
    short_side: int = Field(256, ge=16)
    """Pixels of a stored frame's shorter side."""
    clips: int = Field(400, gt=0)
    """Clips of a pass, each a table row of its own; videos are repeated until there are as many."""
    clip_frames: int = Field(16, gt=0)
    """Frames of a clip."""
    stride: int = Field(4, gt=0)
    """Distance of a clip's frames."""
    crop: int = Field(224, gt=0)
    """Pixels of its sides."""
    batch: int = Field(8, gt=0)
    """Clips of a batch."""
    workers: int | None = Field(None, ge=0)
    """Worker processes of the loaders that have them. Default: one a core."""
    rounds: int = Field(3, gt=0)
    """Turns that each row takes."""
    rows: tuple[str, ...] = ROWS
    """Rows to measure."""
    peers: Path | None = None
    """Python of the environment with the peers. Default: .bench/bin/python where `make bench-env` has made it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line's words ask for and print it."""
    words.launch(IngestBench(), __doc__ or "", run, report.open_console(), arguments)


def run(bench: IngestBench, console: Console) -> list[Row]:
    """Measure every row, print the table, return the rows."""
    _check(bench)
    others = OtherWork()
    rows = [Row(name) for name in bench.rows]
    with tempfile.TemporaryDirectory(prefix="marey-") as folder:
        job, stored = _prepare(bench, Path(folder))
        ingest_report.show_setting(job, stored, console)
        feeders = _feeders(bench, job, rows)
        for number in range(bench.rounds):
            console.print(f"round {number + 1} of {bench.rounds}", highlight=False)
            for row in rows:
                if row.failure is None:
                    _measure(row, feeders[row.name])
            _compare(rows, job)
    ingest_report.show(rows, console)
    own = sum(turn.all_cpu for row in rows for turn in row.turns)
    if (cores := others.cores(own)) > 0.1:
        console.print(
            f"other work took {cores:.1f} of {os.cpu_count()} cores meanwhile, which disturbs clips/s and start, "
            "processor time less",
            highlight=False,
            soft_wrap=True,
        )
    return rows


def _check(bench: IngestBench) -> None:
    if bench.clips % bench.batch:
        raise ConfigError(f"clips={bench.clips}: must be a multiple of batch={bench.batch}")
    if unknown := [name for name in bench.rows if name not in ROWS]:
        raise ConfigError(f"rows: there is no {unknown[0]!r}; there are {', '.join(ROWS)}")
    if bench.video and bench.videos:
        raise ConfigError("video and videos are both given; keep one")


def _prepare(bench: IngestBench, folder: Path) -> tuple[dict[str, Any], list[ClipRow]]:
    """The table and the job that all rows do, the latter also as job.json in ``folder``; the table's different rows."""
    if bench.videos:
        sources = find_sources(bench.videos)
    else:
        path = folder / "film.mp4"
        decode.encode(decode.film(bench.video, bench.frames, bench.short_side), path, max(decode.GOPS))
        sources = [Source("film", str(path))]
    stored = write_table(sources, ClipStorage(short_side=bench.short_side), bench.clips, folder / "table")
    job: dict[str, Any] = {
        "table": str(folder / "table"),
        "files": sorted(str(path) for path in (folder / "table/data").glob("*.parquet")),
        **{name: getattr(bench, name) for name in ("clip_frames", "stride", "crop", "batch")},
        "workers": len(os.sched_getaffinity(0)) if bench.workers is None else bench.workers,
    }
    job["passes"] = [works(job, number) for number in (0, 1)]
    (folder / "job.json").write_text(json.dumps(job))
    return job, stored


def _feeders(bench: IngestBench, job: dict[str, Any], rows: Sequence[Row]) -> dict[str, Feeder]:
    """How each row is started; peers' files are written first. What cannot be, is the row's failure."""
    path = Path(job["table"]).with_name("job.json")
    python = bench.peers or PYTHON
    feeders = {}
    for row in rows:
        if row.name in (RAY, IN_PROCESS):
            command = [sys.executable, "-m", ingest_marey.__name__, row.name, str(path)]
        else:
            own = sys.executable if row.name == DATALOADER else str(python)
            command = [own, "-P", ingest_peers.__file__, "read", row.name, str(path)]
        feeders[row.name] = Feeder(command, path.parent)
        if row.name in WRITERS:
            row.failure = _write(python, row.name, path)
    return feeders


def _write(python: Path, name: str, job: Path) -> str | None:
    """Write the clips in a peer's format; why it cannot be done."""
    if not python.exists():
        return f"`make bench-env` installs it ({python} is not there)"
    command = [str(python), "-P", ingest_peers.__file__, "write", name, str(job)]
    environment = {**os.environ, "TMPDIR": str(job.parent)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_WRITE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"writing its files took more than {_WRITE_SECONDS} s"
    if done.returncode:
        return "writing its files: " + (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return None


def _measure(row: Row, feeder: Feeder) -> None:
    try:
        row.turns.append(take_turn(feeder))
    except Failed as failure:
        row.failure = str(failure)


def _compare(rows: Sequence[Row], job: dict[str, Any]) -> None:
    """`AssertionError` where a row's last turn brought other clips or other frames than it should."""
    found = {row.name: row.turns[-1] for row in rows if row.failure is None}
    for name, turn in found.items():
        for brought in turn.brought:
            expected = sorted(work["row"] for work in job["passes"][0])
            assert sorted(brought) == expected, f"{name} brings {len(brought)} clips, not each of {len(expected)} once"
    if RAY in found and IN_PROCESS in found:
        assert found[RAY].sums == found[IN_PROCESS].sums, f"{RAY} and {IN_PROCESS} give other pixels"
    expected_means: np.ndarray | None = None
    for name, turn in found.items():
        means = _means(turn, job)
        expected_means = means if expected_means is None else expected_means
        apart = float(np.abs(means - expected_means).max())
        assert apart < _SAME_MEAN, f"{name} gives other frames: their means differ by {apart:.1f}"


def _means(turn: Turn, job: dict[str, Any]) -> np.ndarray:
    """Thinned mean of each clip by row, in grey levels."""
    values = job["clip_frames"] * 3 * len(range(0, job["crop"], 8)) ** 2
    return np.array([total for _, total in sorted(zip(turn.brought[1], turn.sums, strict=True))]) / values
