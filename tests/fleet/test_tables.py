"""A table made by a cluster is the table made by one process."""

from pathlib import Path

import pytest

from marey.clips import parts
from marey.clips.datasets import find_sources
from marey.clips.prepare import ClipStorage, Progress, prepare_all
from marey.clips.table import open_table, verify
from marey.errors import ClipError
from marey.fleet.looks import looks
from marey.fleet.tables import build_table
from store import WRITES
from videos import write_unusable, write_video

pytestmark = pytest.mark.slow

FAST = ClipStorage(preset="ultrafast")


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(parts, "CHUNK_VIDEOS", 2)
    monkeypatch.setattr(parts, "FEWEST_CHUNKS", 1)
    for number in range(7):
        write_video(tmp_path / f"videos/v{number}.mp4", 10 + number)
    return tmp_path / "videos"


@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_makes_the_same_table_as_one_process(videos: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    sources = find_sources(videos)
    summary = build_table(sources, FAST, tmp_path / "fleet", progress=seen.append)
    alone = prepare_all(sources, FAST, tmp_path / "alone", isolate=False)
    assert summary.fingerprint == alone.fingerprint
    assert (summary.videos, summary.clips) == (7, 7)
    assert (seen[-1].done, seen[-1].total) == (7, 7)
    table = open_table(tmp_path / "fleet")
    verify(table)
    assert table.column("source_id") == [source.source_id for source in sources]

    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("fleet/*/*.parquet")}
    assert build_table(sources, FAST, tmp_path / "fleet") == summary
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("fleet/*/*.parquet")} == made

    write_unusable(videos / "bad")
    with pytest.raises(ClipError, match="9 of 16 videos cannot be used"):
        build_table(find_sources(videos), FAST, tmp_path / "fleet")
    assert open_table(tmp_path / "fleet").fingerprint == summary.fingerprint


@pytest.mark.usefixtures("ray_cluster")
def test_a_failure_on_a_worker_reaches_the_caller(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    (tmp_path / "table/data").write_text("a file where a folder must be")
    with pytest.raises(ClipError, match=r"table: cannot be written: .*File exists.*what is finished is kept"):
        build_table(find_sources(videos), FAST, tmp_path / "table")


@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_makes_and_reads_a_table_at_a_uri(videos: Path, store, tmp_path: Path) -> None:
    sources = find_sources(videos)
    uri = store.uri("fleet/table")
    summary = build_table(sources, FAST, uri)
    assert summary.fingerprint == prepare_all(sources, FAST, tmp_path / "alone", isolate=False).fingerprint
    table = open_table(uri)
    verify(table)
    assert dict(looks(table)) == dict(looks(open_table(tmp_path / "alone")))
    with store.refusing("AccessDenied", WRITES), pytest.raises(ClipError, match=r"cannot be written: .*credentials"):
        build_table(sources, FAST, store.uri("fleet/denied"))
