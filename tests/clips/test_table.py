"""A table is what its manifest names; anything else about its files is refused by name."""

import json
import pickle
import shutil
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marey.clips.parts import PartWriter, write_quarantine
from marey.clips.row import SCHEMA, ClipRow, Quarantined, to_arrow
from marey.clips.table import ClipTable, Manifest, describe, open_table, publish, verify
from marey.errors import ClipError


def make_row(number: int) -> ClipRow:
    payload = bytes([number % 256]) * (1000 + number)
    return ClipRow(
        source_id=f"v{number:03d}",
        uri=f"/videos/v{number:03d}.mp4",
        start_s=0.0,
        end_s=1.0,
        timestamps=[0.0, 0.5],
        keyframes=[0],
        packet_lengths=[500, 500 + number],
        storage="h264",
        payload=payload,
        fps=2.0,
        width=64,
        height=48,
        rotation=0,
        label=number % 3,
        label_name=f"class{number % 3}",
        split=None,
        sha256="0" * 64,
    )


def make_table(root: Path, counts: tuple[int, ...] = (40, 0, 25)) -> Manifest:
    parts, first = [], 0
    for number, count in enumerate(counts):
        writer = PartWriter(root / f"data/part{number}.parquet")
        writer.add(to_arrow([make_row(first + n) for n in range(count)]))
        writer.commit()
        parts.append(describe(root, f"data/part{number}.parquet"))
        first += count
    write_quarantine(root / "quarantine/q.parquet", [Quarantined("bad", "/videos/bad", "probe", "is empty")])
    return publish(root, parts, {"short_side": 256}, quarantine=[describe(root, "quarantine/q.parquet")])


@pytest.fixture
def table(tmp_path: Path) -> ClipTable:
    make_table(tmp_path / "t")
    return open_table(tmp_path / "t")


def test_rows_come_back_as_they_went_in(table: ClipTable) -> None:
    assert len(table) == 65
    asked = [64, 0, 39, 40, 17, 17]
    assert table.read(asked) == [make_row(number) for number in asked]
    assert table.settings == {"short_side": 256}
    assert table.quarantined() == [Quarantined("bad", "/videos/bad", "probe", "is empty")]
    verify(table)


def test_row_groups_are_small_and_payloads_are_not_compressed_again(table: ClipTable) -> None:
    metadata = pq.ParquetFile(table.path / "data/part0.parquet").metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [16, 16, 8]
    columns = {metadata.row_group(0).column(n).path_in_schema: metadata.row_group(0).column(n) for n in range(20)}
    assert columns["payload"].compression == "UNCOMPRESSED"
    assert columns["timestamps.list.element"].compression == "ZSTD"


def test_large_payloads_make_smaller_row_groups(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path / "data/a.parquet")
    row = make_row(0)
    heavy = to_arrow([ClipRow(**{**row.__dict__, "payload": bytes(400 << 10)})] * 4)
    writer.add(heavy)
    writer.commit()
    assert pq.ParquetFile(tmp_path / "data/a.parquet").metadata.num_row_groups == 2


def test_light_columns_do_not_touch_payloads(table: ClipTable) -> None:
    assert table.column("label") == [number % 3 for number in range(65)]
    with pytest.raises(ClipError, match="'payload' is not a light column"):
        table.column("payload")


@pytest.mark.parametrize("indices", [[65], [-1, 3]])
def test_rows_that_do_not_exist_are_refused(table: ClipTable, indices: list[int]) -> None:
    with pytest.raises(ClipError, match="it holds rows 0 to 64"):
        table.read(indices)


def test_a_table_travels_and_is_shared_by_threads(table: ClipTable) -> None:
    table.read([3])
    copy: ClipTable = pickle.loads(pickle.dumps(table))
    wrong: list[int] = []

    def read(offset: int) -> None:
        for number in range(200):
            index = (offset * 31 + number * 7) % 65
            if copy.read([index]) != [make_row(index)]:
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_fingerprint_names_the_content_and_nothing_else(tmp_path: Path) -> None:
    first = make_table(tmp_path / "a")
    assert make_table(tmp_path / "elsewhere" / "b").fingerprint == first.fingerprint
    shutil.move(tmp_path / "a", tmp_path / "c")
    assert open_table(tmp_path / "c").fingerprint == first.fingerprint
    assert make_table(tmp_path / "d", (40, 0, 26)).fingerprint != first.fingerprint


def test_files_that_the_manifest_does_not_name_are_not_seen(table: ClipTable) -> None:
    shutil.copy(table.path / "data/part0.parquet", table.path / "data/stray.parquet")
    (table.path / "data/empty.parquet").write_bytes(b"")
    assert open_table(table.path).read([64]) == [make_row(64)]


def test_publishing_again_replaces_the_table_at_once(table: ClipTable) -> None:
    publish(table.path, table.manifest.files[:1], table.settings)
    assert len(open_table(table.path)) == 40
    assert not list(table.path.glob(".*"))
    assert table.read([64]) == [make_row(64)]  # who had it open goes on


def rewrite(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path)
    manifest = json.loads((path.parent.parent / "manifest.json").read_text())
    for part in manifest["files"]:
        if part["path"].endswith(path.name):
            part["bytes"] = path.stat().st_size
    (path.parent.parent / "manifest.json").write_text(json.dumps(manifest))


def drop_column(path: Path) -> None:
    rewrite(path, pq.read_table(path).drop_columns(["fps"]))


def add_column(path: Path) -> None:
    rewrite(path, pq.read_table(path).append_column("mood", pa.array(["good"] * 25)))


def change_column(path: Path) -> None:
    table = pq.read_table(path)
    rewrite(path, table.set_column(9, "fps", table["fps"].cast(pa.float32())))


def drop_rows(path: Path) -> None:
    rewrite(path, pq.read_table(path).slice(1))


def flip(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 4
    path.write_bytes(bytes(content))


FAULTS = {
    "missing": (lambda path: path.unlink(), "named by the manifest but missing"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "bytes, the manifest says"),
    "zero bytes": (lambda path: path.write_bytes(b""), "0 bytes, the manifest says"),
    "column missing": (drop_column, "misses column 'fps'"),
    "column added": (add_column, "has unknown column 'mood'"),
    "column changed": (change_column, "column 'fps' is float, expected double"),
    "rows missing": (drop_rows, "24 rows, the manifest says 25"),
    "footer flipped": (lambda path: flip(path, 0.9999), "Parquet"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_file_is_refused_by_name(table: ClipTable, fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(table.path / "data/part2.parquet")
    with pytest.raises(ClipError, match=rf"part2\.parquet: .*{message}"):
        open_table(table.path)


def test_flipped_bits_are_found_when_read_and_when_verified(table: ClipTable) -> None:
    flip(table.path / "data/part2.parquet", 0.4)
    spoilt = open_table(table.path)
    with pytest.raises(ClipError, match=r"part2\.parquet: sha256 .* the manifest says"):
        verify(spoilt)
    with pytest.raises(ClipError, match=r"part2\.parquet: row group \d is damaged"):
        spoilt.read(range(40, 65))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no clip table here"),
        (b"{", "not a readable manifest"),
        (b"[]", "not the manifest of a clip table"),
        (b'{"format": "marey-clip-table", "schema_version": 2}', "schema version 2, this Marey reads version 1"),
        (b'{"format": "marey-clip-table", "schema_version": 1}', "not a readable manifest"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ClipError, match=message):
        open_table(tmp_path)


def test_a_manifest_cut_anywhere_is_refused(table: ClipTable) -> None:
    file = table.path / "manifest.json"
    whole = file.read_bytes()
    for length in range(0, len(whole), 40):
        file.write_bytes(whole[:length])
        with pytest.raises(ClipError, match=r"manifest\.json"):
            open_table(table.path)


def test_a_manifest_cannot_point_outside_its_table(table: ClipTable) -> None:
    file = table.path / "manifest.json"
    file.write_text(file.read_text().replace("data/part0.parquet", "../part0.parquet"))
    with pytest.raises(ClipError, match="outside the table"):
        open_table(table.path)


def test_the_schema_is_the_contract() -> None:
    assert len(SCHEMA) == 20
    assert SCHEMA.field("payload").type == pa.large_binary()
