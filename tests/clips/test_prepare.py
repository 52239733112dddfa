"""Preparing a table: what ends where, what a killed run leaves, and when nothing is published."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marey.clips import parts
from marey.clips.datasets import Source, find_sources
from marey.clips.decode import read_frames, verify_row
from marey.clips.prepare import ClipStorage, Progress, Summary, finish, prepare_all, prepare_chunk
from marey.clips.sandbox import Sandbox
from marey.clips.table import open_table, verify
from marey.errors import ClipError, ConfigError
from videos import REPOSITORY, shared_folder, truncate, write_unusable, write_video

FAST = ClipStorage(preset="ultrafast")
SHARED = shared_folder()


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for number in range(8):
        write_video(tmp_path / f"videos/{'jump' if number % 2 else 'run'}/v{number}.mp4", 12 + number)
    return tmp_path / "videos"


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CHUNK_VIDEOS", 2)
    monkeypatch.setattr(parts, "FEWEST_CHUNKS", 1)


def prepare(videos: Path, table: Path, storage: ClipStorage = FAST, max_quarantine: float = 0.1) -> Summary:
    return prepare_all(find_sources(videos), storage, table, max_quarantine, isolate=False)


def files(table: Path) -> dict[str, int]:
    return {str(path.relative_to(table)): path.stat().st_mtime_ns for path in sorted(table.glob("*/*.parquet"))}


def test_a_folder_becomes_a_table(videos: Path, tmp_path: Path) -> None:
    summary = prepare(videos, tmp_path / "t")
    table = open_table(tmp_path / "t")
    verify(table)
    assert len(table) == summary.clips == 8
    assert table.column("source_id") == [source.source_id for source in find_sources(videos)]
    assert table.column("label_name") == ["jump"] * 4 + ["run"] * 4
    assert table.column("label") == [0] * 4 + [1] * 4
    assert table.settings["short_side"] == 256
    assert table.fingerprint == summary.fingerprint
    assert summary.seconds == pytest.approx(sum(12 + n for n in range(8)) / 25)
    for row in table.read(range(8)):
        verify_row(row)
        assert read_frames(row, [0, row.num_frames - 1]).shape == (2, 48, 64, 3)
    assert "8 clips" in str(summary)


def test_preparing_again_does_nothing(videos: Path, tmp_path: Path, small_chunks: None) -> None:
    first = prepare(videos, tmp_path / "t")
    before = files(tmp_path / "t")
    assert len(before) == 8
    assert prepare(videos, tmp_path / "t") == first
    assert files(tmp_path / "t") == before


@pytest.mark.slow
def test_isolated_or_not_the_table_is_the_same(videos: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    alone = prepare_all(find_sources(videos), FAST, tmp_path / "a", progress=seen.append)
    assert alone.fingerprint == prepare(videos, tmp_path / "b").fingerprint
    assert (seen[-1].done, seen[-1].total) == (8, 8)
    assert "8 of 8 videos" in str(seen[-1])


def test_a_changed_video_is_prepared_again_and_the_rest_is_kept(
    videos: Path, tmp_path: Path, small_chunks: None
) -> None:
    first = prepare(videos, tmp_path / "t")
    old = open_table(tmp_path / "t")
    before = files(tmp_path / "t")
    write_video(videos / "run/v0.mp4", 30)
    second = prepare(videos, tmp_path / "t")
    after = files(tmp_path / "t")
    assert second.fingerprint != first.fingerprint
    assert {name: stamp for name, stamp in before.items() if name in after} == before  # the last table stays readable
    assert len(after) == len(before) + 2
    assert old.read([0])[0].source_id == "jump/v1.mp4"
    prepare(videos, tmp_path / "t", ClipStorage(preset="ultrafast", crf=30))
    third = files(tmp_path / "t")
    assert len(third) == len(before) * 2  # this table and the one before it, nothing older
    verify(open_table(tmp_path / "t"))


def test_what_another_preparation_deleted_is_not_published(videos: Path, tmp_path: Path) -> None:
    other = ClipStorage(preset="ultrafast", crf=30)
    chunks = parts.cut_chunks(find_sources(videos))
    with Sandbox(other) as sandbox:
        slower = [prepare_chunk(chunk, other, tmp_path / "t", sandbox.tables) for chunk in chunks]
    first = prepare(videos, tmp_path / "t")
    with pytest.raises(ClipError, match=r"t/data/\w+\.parquet: is no longer as it was made .*Run again"):
        finish(tmp_path / "t", slower, other)
    assert open_table(tmp_path / "t").fingerprint == first.fingerprint


def test_a_damaged_part_is_made_again(videos: Path, tmp_path: Path) -> None:
    first = prepare(videos, tmp_path / "t")
    truncate(next((tmp_path / "t/data").iterdir()), 0.5)
    assert prepare(videos, tmp_path / "t") == first
    verify(open_table(tmp_path / "t"))


def test_unusable_videos_are_quarantined_with_reasons(videos: Path, tmp_path: Path) -> None:
    write_unusable(videos / "run")
    summary = prepare(videos, tmp_path / "t", max_quarantine=0.9)
    assert summary.clips == 8
    assert summary.num_quarantined == 9
    refused = open_table(tmp_path / "t").quarantined()
    assert {one.source_id for one in refused} >= {"run/half.mkv", "run/hls.mp4", "run/sound.mp4"}
    assert all(one.reason and one.stage in ("probe", "decode") for one in refused)
    with (tmp_path / "t/quarantine-report.csv").open() as file:
        assert {line["source_id"] for line in csv.DictReader(file)} == {one.source_id for one in refused}


def test_too_many_unusable_videos_publish_nothing_and_lose_nothing(videos: Path, tmp_path: Path) -> None:
    good = prepare(videos, tmp_path / "t")
    write_unusable(videos / "run")
    with pytest.raises(ClipError) as caught:
        prepare(videos, tmp_path / "t")
    message = str(caught.value)
    assert "9 of 17 videos cannot be used, more than max_quarantine=0.1 allows" in message
    assert "was not published" in message
    assert "quarantine-report.csv" in message
    assert open_table(tmp_path / "t").fingerprint == good.fingerprint
    made = files(tmp_path / "t")
    share = float(message.split("max_quarantine=")[-1].split()[0])
    assert prepare(videos, tmp_path / "t", max_quarantine=share).clips == 8
    assert files(tmp_path / "t") == made


def test_nothing_usable_is_a_failure_whatever_is_allowed(tmp_path: Path) -> None:
    write_unusable(tmp_path / "videos")
    with pytest.raises(ClipError, match="9 of 9 videos cannot be used"):
        prepare(tmp_path / "videos", tmp_path / "t", max_quarantine=1.0)
    assert not (tmp_path / "t/manifest.json").exists()


def test_a_video_that_a_list_names_and_that_is_not_there_is_quarantined(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("videos/run/v0.mp4 0\nvideos/run/gone.mp4 1\n")
    prepare(tmp_path / "list.txt", tmp_path / "t", max_quarantine=0.5)
    (refused,) = open_table(tmp_path / "t").quarantined()
    assert (refused.source_id, refused.stage, refused.reason) == ("videos/run/gone.mp4", "list", "no such file")


def test_formulas_are_defused_in_the_report(videos: Path, tmp_path: Path) -> None:
    (videos / "run/=cmd().mp4").write_bytes(b"")
    (tmp_path / "list.csv").write_text("path,label\n=cmd().mp4,0\nv0.mp4,0\n")
    sources = find_sources(tmp_path / "list.csv", videos / "run")
    prepare_all(sources, FAST, tmp_path / "t", 0.5, isolate=False)
    assert "\n'=cmd().mp4," in (tmp_path / "t/quarantine-report.csv").read_text()


KILLED = """
import sys, time
from pathlib import Path
from marey.clips import parts, prepare
from marey.clips.datasets import find_sources
parts.CHUNK_VIDEOS, parts.FEWEST_CHUNKS = 2, 1
real = prepare._write_rows
def slow(*arguments):
    time.sleep(0.3)
    return real(*arguments)
prepare._write_rows = slow
prepare.prepare_all(find_sources(sys.argv[1]), prepare.ClipStorage(preset="ultrafast"), sys.argv[2], isolate=False)
"""


@pytest.fixture
def killed(videos: Path, tmp_path: Path) -> Path:
    """A table whose second preparation was killed after at least one chunk."""
    prepare(videos / "run", tmp_path / "t")
    before = len(files(tmp_path / "t"))
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(videos), str(tmp_path / "t")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "platform")},
    )
    deadline = time.monotonic() + 30
    while len(files(tmp_path / "t")) < before + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was to be killed half-way"
    return tmp_path / "t"


def test_a_killed_preparation_goes_on_where_it_stopped(videos: Path, killed: Path, small_chunks: None) -> None:
    old = open_table(killed)
    verify(old)
    assert len(old) == 4, "the table from before is untouched"
    left = files(killed)
    summary = prepare(videos, killed)
    now = files(killed)
    assert {name: now[name] for name in left if name in now} == left, "what was finished is not made again"
    assert len(open_table(killed)) == summary.clips == 8
    assert summary.fingerprint == prepare(videos, killed.with_name("whole")).fingerprint


def test_chunks_close_at_a_number_of_videos_or_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "FEWEST_CHUNKS", 1)
    paths = [tmp_path / f"{number}.mp4" for number in range(70)]
    for path in paths:
        path.write_bytes(b"x")
    with paths[3].open("r+b") as file:
        file.truncate(65 << 20)
    chunks = parts.cut_chunks([Source(path.name, str(path)) for path in paths])
    assert [len(chunk.sources) for chunk in chunks] == [4, 32, 32, 2]
    assert [source.uri for chunk in chunks for source in chunk.sources] == [str(path) for path in paths]


@pytest.mark.parametrize(("videos", "largest"), [(4, 1), (15, 1), (16, 2), (100, 8), (1000, 32)])
def test_few_videos_make_small_chunks(videos: int, largest: int) -> None:
    sources = [Source(f"{number}.mp4", f"/none/{number}.mp4") for number in range(videos)]
    assert max(len(chunk.sources) for chunk in parts.cut_chunks(sources)) == largest


@pytest.mark.parametrize(
    "words", [{"crf": 99}, {"preset": "warp"}, {"storage": "gif"}, {"max_seconds": 0}, {"short_side": 8}]
)
def test_settings_out_of_range_are_refused(words: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(words))):
        ClipStorage().replace(**words)


@pytest.mark.slow
@pytest.mark.skipif(SHARED is None, reason="no folder of reference videos")
def test_every_broken_reference_file_ends_somewhere(tmp_path: Path) -> None:
    assert SHARED is not None
    sources = find_sources(SHARED / "broken")
    storage = ClipStorage(preset="ultrafast", short_side=16, fps=2, max_seconds=1e4)
    summary = prepare_all(sources, storage, tmp_path / "t", max_quarantine=0.5)
    table = open_table(tmp_path / "t")
    refused = {one.source_id.split("/")[1]: one for one in table.quarantined()}
    taken = {name.split("/")[1] for name in table.column("source_id")}
    assert len(refused) + len(taken) == len(sources) == summary.videos
    assert all(one.reason for one in refused.values())
    assert not [one for one in refused.values() if "crashed" in one.reason or "gave up" in one.reason]
    bad = {source.source_id.split("/")[1] for source in sources if "/bad_" in source.source_id}
    assert bad - set(refused) == {"bad_avi_no_index.avi"}
    cut = {source.source_id.split("/")[1] for source in sources if "/trunc_" in source.source_id}
    assert cut - set(refused) == {"trunc_60pct.ts"}, "a transport stream promises no length"
    odd = (
        "codec_",
        "vfr_",
        "rotated_",
        "ts_",
        "gop_",
        "fps_",
        "edit_",
        "frag_",
        "interlaced_",
        "lie_",
        "nopts_",
        "ok_",
    )
    healthy = {source.source_id.split("/")[1] for source in sources if source.source_id.split("/")[1].startswith(odd)}
    assert healthy - taken == {"codec_webp_anim.webp"}


def test_a_full_disk_stops_the_preparation_with_advice(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(writer: parts.PartWriter) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(parts.PartWriter, "commit", full)
        with pytest.raises(ClipError, match=r"cannot be written: .*No space left on device; mend that and run again"):
            prepare(videos, tmp_path / "t")
    assert not list((tmp_path / "t/data").iterdir())
    assert prepare(videos, tmp_path / "t").clips == 8
