"""Tables at a URI, on a real S3 server: what is there when, what is refused by name, and what a read costs."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marey.clips import location, parts, prepare
from marey.clips.datasets import find_sources
from marey.clips.location import Remote, in_order, located
from marey.clips.mixture import open_tables
from marey.clips.prepare import ClipStorage, Summary, prepare_all
from marey.clips.sandbox import Sandbox
from marey.clips.table import open_table, verify
from marey.config import flatten, override, to_yaml
from marey.errors import ClipError, ConfigError
from marey.experiment import Description, Evaluation, Prediction, Preparation, Training
from store import WRITES, Store
from videos import REPOSITORY, write_unusable, write_video

FAST = ClipStorage(preset="ultrafast")
PARTS = 3


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("remote") / "videos"
    for number in range(2 * PARTS - 1):
        write_video(folder / f"{'jump' if number % 2 else 'run'}/v{number}.mp4", 12 + number)
    (folder / "run/empty.mp4").touch()
    return folder


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CHUNK_VIDEOS", 2)
    monkeypatch.setattr(parts, "FEWEST_CHUNKS", 1)


def prepare_at(place: Path | str, videos: Path, storage: ClipStorage = FAST) -> Summary:
    return prepare_all(find_sources(videos), storage, place, 0.5, isolate=False)


@pytest.fixture(scope="module")
def made(videos: Path, store: Store, tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """One table in a folder, and the objects of the same table as it was made at a URI."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "CHUNK_VIDEOS", 2)
        patch.setattr(parts, "FEWEST_CHUNKS", 1)
        folder = tmp_path_factory.mktemp("local") / "table"
        prepare_at(folder, videos)
        prepare_at(store.uri("made"), videos)
    return folder, {name: store.read(f"made/{name}") for name in store.objects("made")}


@pytest.fixture
def name(store: Store, made: tuple[Path, dict[str, bytes]], request: pytest.FixtureRequest) -> str:
    """A table of a test's own in the bucket."""
    own = f"tables/{re.sub('[^a-z_]', '', request.node.name)}"
    for path, content in made[1].items():
        store.put(f"{own}/{path}", content)
    return own


def test_a_table_at_a_uri_is_the_one_in_a_folder(store: Store, made) -> None:
    local, remote = open_table(made[0]), open_table(store.uri("made"))
    assert remote.fingerprint == local.fingerprint
    assert remote.path.name == "made"
    rows = [4, 0, 3, 3]
    assert remote.read(rows) == local.read(rows)
    assert remote.column("source_id") == local.column("source_id")
    assert remote.class_names() == ["jump", "run"]
    assert remote.quarantined() == local.quarantined() != []
    verify(remote)
    travelled = pickle.loads(pickle.dumps(remote.select([4, 1])))
    assert travelled.read([1, 0]) == local.read([1, 4])
    both = pickle.loads(pickle.dumps(open_tables([made[0], store.uri("made")])))
    assert both.read([6])[0].payload == local.read([1])[0].payload
    assert both.column("source_id")[-1] == f"made/{local.column('source_id')[-1]}"


def test_files_come_first_and_the_manifest_last(store: Store, videos: Path) -> None:
    with store.requests() as diary:
        prepare_at(store.uri("order"), videos)
    written = [one.path.removeprefix("/clips/order/") for one in diary if one.method in WRITES and one.last]
    kinds = [path.partition("/")[0] for path in written]
    assert kinds == ["quarantine", "data", "finished"] * PARTS + ["quarantine-report.csv", "manifest.json"]
    assert len(store.objects("order")) == 3 * PARTS + 2


def test_preparing_again_makes_no_part(store: Store, made, videos: Path) -> None:
    before = open_table(store.uri("made"))
    with store.requests() as diary:
        summary = prepare_at(store.uri("made"), videos)
    written = [one.path for one in diary if one.method in WRITES and one.last]
    assert [path.rpartition("/")[2] for path in written] == ["quarantine-report.csv", "manifest.json"]
    assert (summary.videos, summary.num_quarantined) == (2 * PARTS, 1)
    assert open_table(store.uri("made")).manifest == before.manifest


def test_without_the_notes_parts_are_read_and_not_made_again(store: Store, name: str, videos: Path) -> None:
    for path in store.objects(name):
        if path.startswith("finished/"):
            store.delete(f"{name}/{path}")
    store.put(f"{name}/finished/{next(iter(store.objects(name)))[5:-8]}.json", b"{")
    with store.requests() as diary:
        prepare_at(store.uri(name), videos)
    assert not [one for one in diary if one.method in WRITES and "/data/" in one.path]


KILLED = """
import sys, time
from marey.clips import parts, prepare
from marey.clips.datasets import find_sources
parts.CHUNK_VIDEOS, parts.FEWEST_CHUNKS = 2, 1
real = prepare.upload
def slow(*arguments):
    time.sleep(0.2)
    real(*arguments)
prepare.upload = slow
prepare.prepare_all(
    find_sources(sys.argv[1]), prepare.ClipStorage(preset="ultrafast"), sys.argv[2], 0.5, isolate=False
)
"""


def test_a_killed_preparation_goes_on_where_it_stopped(store: Store, videos: Path, made) -> None:
    uri = store.uri("killed")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(videos), uri],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "platform")},
    )
    deadline = time.monotonic() + 60
    while len(store.objects("killed")) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was to be killed half-way"
    with pytest.raises(ClipError, match=r"no clip table here \(manifest\.json is missing\)"):
        open_table(uri)
    left = {path for path in store.objects("killed") if path.startswith("finished/")}
    assert left
    with store.requests() as diary:
        prepare_at(uri, videos)
    again = {one.path.removeprefix("/clips/killed/") for one in diary if one.method in WRITES}
    assert not left & again, "what was finished is not made again"
    local, remote = open_table(made[0]), open_table(uri)
    assert remote.fingerprint == local.fingerprint
    assert remote.read(range(len(remote))) == local.read(range(len(local)))


def part_of(store: Store, name: str) -> str:
    return next(f"{name}/{path}" for path in store.objects(name) if path.startswith("data/"))


def truncate(store: Store, path: str) -> None:
    store.put(path, store.read(path)[:-100])


def replace(store: Store, path: str) -> None:
    store.put(path, bytes(len(store.read(path))))


FAULTS = {
    "missing": (Store.delete, "named by the manifest but missing"),
    "truncated": (truncate, "bytes, the manifest says"),
    "foreign": (replace, "is not a readable Parquet file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_object_is_refused_by_name_and_mended_by_preparing_again(
    store: Store, name: str, videos: Path, made, fault: str
) -> None:
    spoil, message = FAULTS[fault]
    path = part_of(store, name)
    spoil(store, path)
    with pytest.raises(ClipError, match=rf"s3://clips/{path}\?\S*: .*{message}"):
        open_table(store.uri(name))
    prepare_at(store.uri(name), videos)
    assert open_table(store.uri(name)).fingerprint == open_table(made[0]).fingerprint


def test_flipped_bits_are_found_when_read_and_when_verified(store: Store, name: str) -> None:
    path = part_of(store, name)
    content = bytearray(store.read(path))
    content[len(content) // 3] ^= 4
    store.put(path, bytes(content))
    spoilt = open_table(store.uri(name))
    with pytest.raises(ClipError, match=rf"s3://clips/{path}\S*: sha256 .* the manifest says"):
        verify(spoilt)
    with pytest.raises(ClipError, match=rf"s3://clips/{path}\S*: row group 0 is damaged"):
        spoilt.read(range(len(spoilt)))
    store.delete(path)
    with pytest.raises(ClipError, match=rf"s3://clips/{path}\S*: is missing"):
        verify(spoilt)


def test_a_row_costs_three_requests_and_a_second_one_of_its_file_one(
    store: Store, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is the file there, its footer, and exactly the row group."""
    monkeypatch.setattr(parts, "_GROUP_ROWS", 1)
    prepare_at(store.uri("costs"), videos)
    table = open_table(store.uri("costs"))
    assert table.manifest.files[0].rows == 2
    with store.requests() as diary:
        [row] = table.read([0])
    assert [one.method for one in diary] == ["HEAD", "GET", "GET"]
    with store.requests() as diary:
        table.read([1])
    assert [one.method for one in diary] == ["GET"]
    first, last = map(int, str(diary[0].range).removeprefix("bytes=").split("-"))
    assert 0 < last - first - len(row.payload or b"") < 3000 < table.manifest.files[0].bytes


def test_what_keeps_a_table_from_being_reached_is_told(store: Store, made, videos: Path) -> None:
    elsewhere = store.uri("t", bucket="nowhere")
    with pytest.raises(ClipError, match=r"s3://nowhere/t\?.*there is no bucket 'nowhere'.*prepare one with"):
        open_table(elsewhere)
    with pytest.raises(ClipError, match=r"s3://nowhere/t\?.*there is no bucket 'nowhere'; make it first"):
        prepare_at(elsewhere, videos)
    with pytest.raises(ClipError, match=r"s3://clips/none\?.*no clip table here \(manifest.json is missing\)"):
        open_table(store.uri("none"))
    table = open_table(store.uri("made"))
    with store.refusing("InvalidAccessKeyId", ("GET", "HEAD")):
        with pytest.raises(ClipError, match=r"s3://clips/\S+manifest\.json\?.*cannot be read: .*AWS_ACCESS_KEY_ID"):
            open_table(store.uri("made"))
        with pytest.raises(ClipError, match=r"s3://clips/\S+\.parquet\?.*cannot be read: .*credentials come from"):
            table.read([0])
    told = r"s3://clips/denied/quar\S+: cannot be written: .*may list, read and, to prepare, write"
    with store.refusing("AccessDenied", WRITES), pytest.raises(ClipError, match=told):
        prepare_at(store.uri("denied"), videos)
    assert store.objects("denied") == {}


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_told() -> None:
    with pytest.raises(ClipError, match=r"s3://clips/t/manifest\.json\?.*cannot be read: .*endpoint_override="):
        open_table("s3://clips/t?endpoint_override=127.0.0.1:1&scheme=http")


def test_two_preparations_of_one_table_never_name_each_others_files(store: Store, name: str, videos: Path) -> None:
    """The one that ends first keeps what the other has finished; what is gone all the same is not published."""
    storage = ClipStorage(preset="ultrafast", crf=30)
    sources = find_sources(videos)
    chunks = parts.cut_chunks(sources)
    with Sandbox(storage) as sandbox:
        slower = [prepare.prepare_chunk(chunk, storage, store.uri(name), sandbox.tables) for chunk in chunks]
    first = prepare_at(store.uri(name), videos)
    assert {one.data.path for one in slower} <= set(store.objects(name))
    assert open_table(store.uri(name)).fingerprint == first.fingerprint
    store.delete(f"{name}/{slower[0].data.path}")
    with pytest.raises(ClipError, match=rf"{slower[0].data.path}\S*: is no longer as it was made .*Run again"):
        prepare.finish(store.uri(name), slower, storage, 0.5)
    assert open_table(store.uri(name)).fingerprint == first.fingerprint
    second = prepare_at(store.uri(name), videos, storage)
    assert open_table(store.uri(name)).fingerprint == second.fingerprint != first.fingerprint


def test_what_no_table_names_is_deleted_after_a_day_if_that_is_allowed(
    store: Store, name: str, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, suffix in (("data", "parquet"), ("quarantine", "parquet"), ("finished", "json")):
        store.put(f"{name}/{folder}/old.{suffix}", b"old")
    with store.refusing("AccessDenied", ("DELETE",)):
        monkeypatch.setattr(prepare, "_STALE_SECONDS", 0)
        prepare_at(store.uri(name), videos)
    assert len([path for path in store.objects(name) if "/old." in path]) == 3
    prepare_at(store.uri(name), videos)
    assert not [path for path in store.objects(name) if "/old." in path]
    assert len(store.objects(name)) == 3 * PARTS + 2


def test_a_file_uri_is_a_path(made, videos: Path, tmp_path: Path) -> None:
    place = tmp_path / "a b"
    uri = f"file://{str(place).replace(' ', '%20')}"
    assert located(uri) == place
    prepare_at(uri, videos)
    assert open_table(uri).path == place
    assert open_table(place).fingerprint == open_table(made[0]).fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("here/table", r'write "\$PWD/here/table"'),
        ("ftp://host/table", r"ftp://: no such kind of place; there are s3://, gs://.*and absolute paths"),
        ("s3://key:hush@bucket/table", r"s3://bucket/table: was given with a user or password.*AWS_ACCESS_KEY_ID"),
        ("s3://key@bucket/table", "was given with a user or password"),
        ("abfs://a@b/t?client_secret=hush", "was given with the option client_secret="),
        ("s3:///table", "names no bucket"),
        ("s3://[bucket/table", "is not a URI"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_anything_starts(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        override(Preparation(), [f"table={text}"])
    assert "hush" not in str(told.value)


def test_settings_hold_a_uri_as_it_was_given(store: Store) -> None:
    uri = store.uri("a//b")
    training = Training(backbone={"name": "videomae_v2_tiny_pretrain"})
    for job in (Preparation(), Description(), Evaluation(), Prediction(), training):
        assert flatten(override(job, [f"table={uri}"]))["table"] == uri
    several = override(training, [f"tables=['{uri}', /local//one/]", "shares=[1, 2]"])
    assert several.tables == (uri, "/local/one")
    assert uri in to_yaml(several)
    with pytest.raises(ConfigError, match=r"tables=.*put quotes around a text that holds a question mark"):
        override(training, [f"tables=[{uri}, /local]"])
    assert Training(table=Path("/a/b"), backbone={"name": "videomae_v2_tiny_pretrain"}).table == "/a/b"


def test_remote_places_join_have_names_and_show_as_typed() -> None:
    place = located("s3://bucket/tables/mine/?scheme=http")
    assert isinstance(place, Remote)
    assert str(place / "data" / "a.parquet") == "s3://bucket/tables/mine/data/a.parquet?scheme=http"
    assert (place.name, located("s3://bucket").name, (place / "x/y").name) == ("mine", "bucket", "y")
    assert located(place) is place


def test_an_error_among_several_requests_is_raised_in_order() -> None:
    def make(number: int) -> int:
        if number == 20:
            raise ClipError("twenty")
        return number

    found = in_order(make, range(100), location._AT_ONCE)
    assert [next(found) for _ in range(20)] == list(range(20))
    with pytest.raises(ClipError, match="twenty"):
        next(found)


def test_what_is_wrong_with_the_videos_is_listed_at_the_uri_too(store: Store, tmp_path: Path) -> None:
    write_unusable(tmp_path / "videos")
    with pytest.raises(ClipError, match=r"listed in s3://clips/bad/quarantine-report\.csv\?"):
        prepare_all(find_sources(tmp_path / "videos"), FAST, store.uri("bad"), 1.0, isolate=False)
    assert b"sound.mp4" in store.read("bad/quarantine-report.csv")
    assert "manifest.json" not in store.objects("bad")


@pytest.mark.parametrize("uri", ["fsspec+memory://tables/{}", "fsspec+file://{}"])
def test_other_stores_take_tables_too(made, videos: Path, tmp_path: Path, uri: str) -> None:
    place = uri.format(f"{tmp_path}/table")
    prepare_at(place, videos)
    prepare_at(place, videos)
    remote = open_table(place)
    verify(remote)
    assert remote.fingerprint == open_table(made[0]).fingerprint
    assert remote.read([4, 0]) == open_table(made[0]).read([4, 0])
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
