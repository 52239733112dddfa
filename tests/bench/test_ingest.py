"""The bench of feeding: every row brings the same clips, what differs or fails is noticed, costs add up."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from marey.bench import ingest_marey, ingest_peers
from marey.bench.ingest import IngestBench, _compare, _prepare, run
from marey.bench.ingest_marey import IN_PROCESS, RAY
from marey.bench.ingest_peers import DATALOADER
from marey.bench.ingest_report import Row, ratio, verdicts
from marey.bench.ingest_turn import Failed, Feeder, Turn, take_turn
from marey.bench.processes import Process, Processes, spent, update
from marey.errors import ConfigError
from submitting import until

SMALL = IngestBench(
    frames=40,
    short_side=48,
    clips=8,
    batch=4,
    clip_frames=4,
    crop=32,
    workers=1,
    rounds=1,
    peers=Path("/no/such/python"),
)
TURN = Turn(2.0, 4.0, 300, 100, 1.0, 1.0, 9.0, [[0, 1], [1, 0]], [10, 20])


def test_rows_are_measured_on_the_same_clips_and_missing_peers_are_told():
    console = Console(record=True, width=120)
    ours, loader, peer = run(SMALL.replace(rows=(IN_PROCESS, DATALOADER, "webdataset")), console)
    assert ours.turns[0].brought == loader.turns[0].brought
    assert all(sorted(one) == list(range(8)) for one in ours.turns[0].brought)
    assert all(
        row.turns[0].cpu > 0 and row.turns[0].peak_bytes >= row.turns[0].idle_bytes > 0 for row in (ours, loader)
    )
    assert "`make bench-env` installs it" in peer.failure
    shown = console.export_text()
    assert "not measured: webdataset" in shown
    assert "8 rows of 1 different ones, 64 × 48, 40 frames" in shown


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> dict:
    return _prepare(SMALL, tmp_path_factory.mktemp("ingest"))[0]


def sums(batches) -> dict[int, int]:
    found = {}
    for rows, clips in batches:
        found.update({int(row): int(clip.long().sum()) for row, clip in zip(rows, clips, strict=True)})
    return found


def test_marey_and_the_dataloader_decode_the_same_frames(job):
    alone = {**job, "workers": 0}
    for number in (0, 1):
        ours = sums(ingest_marey.passes(job, ingest_marey.loader.feed)(number))
        theirs = sums(ingest_peers.dataloader(alone)(number))
        assert theirs.keys() == ours.keys()
        pixels = 4 * 3 * 32 * 32
        assert max(abs(ours[row] - theirs[row]) / pixels for row in ours) < 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_feed_through_ray_brings_the_same(job):
    from marey.fleet.feed import feed

    expected = sums(ingest_marey.passes(job, ingest_marey.loader.feed)(1))
    assert sums(ingest_marey.passes(job, feed)(1)) == expected


def test_a_peer_that_cannot_be_run_does_not_end_the_bench():
    [row] = run(SMALL.replace(rows=("litdata",), peers=Path("/bin/false")), Console(quiet=True))
    assert row.failure == "writing its files: exit code 1"


def test_a_program_that_fails_says_why(tmp_path):
    program = "import sys; print('{}', flush=True); sys.exit('no such thing')"
    with pytest.raises(Failed, match="ended with exit code 1: no such thing"):
        take_turn(Feeder([sys.executable, "-c", program], tmp_path))


def turned(name: str, **changes) -> Row:
    return Row(name, [replace(TURN, **changes)])


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        (RAY, {"brought": [[0, 1], [1, 1]]}, "brings 2 clips, not each of 2 once"),
        (RAY, {"brought": [[0], [1, 0]]}, "brings 1 clips, not each of 2 once"),
        (RAY, {"sums": [11, 20]}, "give other pixels"),
        ("webdataset", {"sums": [10, 20 + 5 * 3]}, r"webdataset gives other frames: their means differ by 5\.0"),
    ],
)
def test_what_brings_something_else_ends_the_bench(name, changes, text):
    job = {"passes": [[{"row": 0}, {"row": 1}]], "clip_frames": 1, "crop": 8}
    _compare([turned(IN_PROCESS), turned(name)], job)
    with pytest.raises(AssertionError, match=text):
        _compare([turned(IN_PROCESS), turned(name, **changes)], job)


def test_goals_are_judged_by_medians_of_ratios():
    ray, loader = turned(RAY, cpu=4.4, peak_bytes=450), turned(DATALOADER)
    assert ratio(ray, loader, "cpu") == pytest.approx(1.1)
    assert verdicts([ray, loader, Row("litdata", failure="gone")]) == [
        f"{RAY} takes 1.10 × the processor time of {DATALOADER} (goal ≤ 1): MISSED",
        f"{RAY} takes 1.50 × the memory of {DATALOADER} (goal ≤ 2): ok",
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"clips": 9}, "clips=9: must be a multiple of batch=4"),
        ({"rows": ("dali",)}, "there is no 'dali'; there are marey, Ray Data"),
        ({"video": Path("/a"), "videos": Path("/b")}, "both given"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        run(SMALL.replace(**changes), Console(quiet=True))


def test_time_of_children_that_ended_counts_once():
    known: dict = {}
    update(known, {1: (0, 5, 1.0, 0.0), 2: (1, 6, 2.0, 0.0), 3: (2, 7, 4.0, 0.0), 9: (0, 5, 99.0, 0.0)}, 1)
    assert spent(known) == 7.0
    update(known, {1: (0, 5, 1.0, 0.0), 2: (1, 6, 2.0, 4.5)}, 1)  # 2 has waited for 3
    assert spent(known) == 7.5
    update(known, {1: (0, 5, 1.0, 0.0)}, 1)  # 1 has not waited for 2
    assert spent(known) == 7.5
    update(known, {1: (0, 5, 1.0, 0.0), 2: (1, 50, 8.0, 0.0)}, 1)  # the number comes again
    assert spent(known) == 15.5


def test_an_orphan_is_still_watched():
    known = {(1, 5): Process(None, 1.0, 0.0), (2, 6): Process((1, 5), 1.0, 0.0), (3, 7): Process((2, 6), 1.0, 0.0)}
    update(known, {1: (0, 5, 1.0, 0.0), 3: (0, 7, 6.0, 0.0)}, 1)
    assert spent(known) == 8.0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_processes_are_found_and_what_is_left_is_killed():
    program = "import subprocess, sys; subprocess.Popen(['sleep', '60']); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        with Processes(parent.pid) as processes:
            now = processes.look_at_memory()
            assert processes.peak_bytes >= now > 2**20
            assert len(processes.known) == 2
    [sleeper] = [pid for pid, _ in processes.known if pid != parent.pid]
    until(lambda: not alive(sleeper), 30)
