"""Flow is computed right, goes into tables of every storage, and leaves all else as it was."""

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from marey.clips import flow_methods, prepare
from marey.clips.datasets import Source, find_sources
from marey.clips.flow import flow_bound, read_flow, to_pixels
from marey.clips.flow_methods import allowance, estimator, grey, opencv, require_opencv, segment_flows
from marey.clips.row import ClipRow, from_arrow
from marey.clips.sandbox import Sandbox
from marey.clips.segments import iterate_rows, prepare_source
from marey.clips.storage import ClipStorage, Limits
from marey.clips.table import open_table
from marey.clips.video import Refused
from marey.errors import ClipError, ConfigError
from marey.experiment import Preparation
from marey.launch import prepare as job
from videos import write_video

FAST = ClipStorage(preset="ultrafast", flow="dis")
STEP = (3, -2)


def texture(height: int = 96, width: int = 128) -> npt.NDArray[np.uint8]:
    """uint8 RGB [H, W, 3]: soft blobs, wrapping round."""
    noise = np.fft.rfft2(np.random.default_rng(0).normal(size=(height, width)))
    y, x = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    soft = np.fft.irfft2(noise * np.exp(-(x**2 + y**2) * 300), s=(height, width))
    soft = 255 * (soft - soft.min()) / np.ptp(soft)
    return np.repeat(soft.astype(np.uint8)[..., None], 3, -1)


def moving(count: int) -> npt.NDArray[np.uint8]:
    """uint8 [T, H, W, 3]: the texture, moved by (3, -2) pixels (x, y) from frame to frame."""
    return np.stack([np.roll(texture(), (STEP[1] * n, STEP[0] * n), (0, 1)) for n in range(count)])


@pytest.fixture
def video(tmp_path: Path) -> Source:
    return Source("a", str(write_video(tmp_path / "videos/a.mp4", moving(25), options={"crf": "12"})))


def rows_of(source: Source, storage: ClipStorage) -> list[ClipRow]:
    rows = prepare_source(source, storage)
    assert isinstance(rows, list), rows
    return rows


def check_motion(row: ClipRow, times: float = 1, tolerance: float = 0.3) -> None:
    inside = to_pixels(read_flow(row, range(row.num_frames)), flow_bound(row))[:, 16:-16, 16:-16]
    assert np.abs(np.median(inside, (1, 2)) - np.array(STEP) * times).max() < tolerance


@pytest.mark.parametrize("method", ["dis", "tvl1"])
def test_a_moved_picture_has_the_flow_it_was_moved_by(method: str) -> None:
    first, second = (grey(frame) for frame in moving(2))
    flow = estimator(method)(first, second)
    assert flow.dtype == np.float32
    assert np.abs(flow[16:-16, 16:-16] - STEP).max() < 0.3


@pytest.mark.parametrize("kind", ["h264", "jpeg", "raw", "source"])
def test_rows_of_every_storage_have_flow_and_are_otherwise_the_same(video: Source, kind: str) -> None:
    storage = FAST.replace(storage=kind, max_seconds=0.4)
    rows = rows_of(video, storage)
    assert [row.num_frames for row in rows] == [9, 8, 8]
    for row in rows:
        check_motion(row)
    assert [replace(row, flow=None) for row in rows] == rows_of(video, storage.replace(flow="none"))


def test_flow_leads_to_the_next_segment_and_the_last_is_repeated(video: Source) -> None:
    rows = rows_of(video, FAST.replace(max_seconds=0.4))
    flows = [read_flow(row, range(row.num_frames)) for row in rows]
    whole = np.concatenate(flows)
    assert np.array_equal(whole[-1], whole[-2])
    assert not any(np.array_equal(a, b) for a, b in pairwise(whole[:-1]))


def test_flow_is_of_the_frames_that_are_kept_and_of_their_size(video: Source) -> None:
    (slow,) = rows_of(video, FAST.replace(fps=12.5))
    check_motion(slow, times=2)
    (small,) = rows_of(video, FAST.replace(short_side=48, flow_bound=5))
    assert flow_bound(small) == 5
    check_motion(small, times=0.5)


def test_a_folder_of_frames_has_flow(tmp_path: Path) -> None:
    for number, picture in enumerate(moving(6), 1):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / f"a/img_{number:05d}.png")
    for kind in ("source", "raw"):
        (row,) = rows_of(Source("a", str(tmp_path / "a")), FAST.replace(storage=kind))
        check_motion(row)


def test_a_table_with_flow_gives_it_when_asked(video: Source, tmp_path: Path) -> None:
    storage = FAST.replace(max_seconds=0.4)
    prepare.prepare_all(find_sources(tmp_path / "videos"), storage, tmp_path / "t", isolate=False)
    table = open_table(tmp_path / "t")
    expected = [replace(row, source_id="a.mp4") for row in rows_of(video, storage)]
    assert table.read(range(3), streams=("flow",)) == expected
    assert [row.flow for row in table.read(range(3))] == [None] * 3
    assert table.settings["flow"] == "dis"
    assert np.array_equal(read_flow(table.read([1], ["flow"])[0], [5, 2]), read_flow(expected[1], [5, 2]))


def test_the_server_has_no_threads_with_opencv_and_a_child_may_take_its_time(video: Source) -> None:
    storage = FAST.replace(limits=Limits(memory_mib=400))
    with Sandbox(storage) as sandbox:
        rows = [row for table in sandbox.tables(video) for row in from_arrow(table)]
        if sys.platform == "linux":
            assert "Threads:\t1\n" in Path(f"/proc/{sandbox._server.pid}/status").read_text()
    assert rows == rows_of(video, storage)


def test_time_for_flow_is_asked_for_before_it_is_computed(video: Source) -> None:
    asked: list[float] = []
    next(iterate_rows(video, FAST, asked.append))
    assert asked == [allowance("dis", 25, 96 * 128)]
    assert allowance("none", 25, 96 * 128) == 0
    assert allowance("tvl1", 300, 256 * 340) > 10 * 2.4 * 300, "what it takes, tenfold"
    list(iterate_rows(video, FAST.replace(flow="none"), asked.append))
    assert len(asked) == 1


def test_one_frame_has_no_motion_and_too_few_are_refused() -> None:
    frames = moving(2)
    (packed,) = segment_flows(iter(frames[:1]), [1], "dis", 20)
    assert len(packed) > 24
    with pytest.raises(Refused, match="flow: 1 frames fewer"):
        list(segment_flows(iter(frames), [2, 1], "dis", 20))


def test_opencv_refuses_tiny_frames_with_a_reason() -> None:
    tiny = np.zeros((4, 4), np.uint8)
    with pytest.raises(Refused, match=r"flow: OpenCV cannot compute it: .*12"):
        estimator("dis")(tiny, tiny)


def test_without_opencv_the_job_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    require_opencv("none")
    settings = Preparation(videos=tmp_path, table=tmp_path / "t", workers=0, clips=FAST)
    with pytest.raises(ConfigError, match=r'clips\.flow=dis: needs OpenCV.*pip install "opencv-contrib-python-head'):
        job.run(settings)
    with pytest.raises(ClipError, match=r"on .*: clips\.flow=dis: needs OpenCV"):
        prepare.prepare_all([Source("a", str(tmp_path / "a.mp4"))], FAST, tmp_path / "t")


def test_an_opencv_without_contributed_modules_has_no_tvl1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(opencv(), "optflow")
    require_opencv("dis")
    with pytest.raises(ConfigError, match=r"clips\.flow=tvl1: needs OpenCV, which has no contributed modules"):
        require_opencv("tvl1")


def test_the_command_installs_what_the_project_asks_for() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert f'flow = ["{flow_methods.OPENCV}"]' in project.read_text()


@pytest.mark.parametrize("words", [{"flow": "farneback"}, {"flow_bound": 0}])
def test_settings_that_mean_nothing_are_refused(words: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(words))):
        ClipStorage().replace(**words)
