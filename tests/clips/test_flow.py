"""Flow comes back as it was stored, and damage to it names the clip."""

import io
import struct
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from marey.clips.flow import encode_flow, flow_bound, mirrored, pack_flow, quantised, read_flow, to_pixels
from marey.clips.row import ClipRow
from marey.errors import ClipError

COUNT, HEIGHT, WIDTH = 5, 48, 64


def smooth_flows() -> npt.NDArray[np.float32]:
    """float32 [T, H, W, 2] in pixels: slow waves, as flow is where nothing moves suddenly."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] / WIDTH
    waves = [np.stack([8 * np.sin(3 * x + t), 15 * np.cos(2 * y - t)], -1) for t in range(COUNT)]
    return np.stack(waves).astype(np.float32)


@pytest.fixture
def flows() -> npt.NDArray[np.uint8]:
    return quantised(smooth_flows(), 20)


@pytest.fixture
def row(flows: npt.NDArray[np.uint8]) -> ClipRow:
    return ClipRow(
        source_id="jump/a.mp4",
        uri="/videos/a.mp4",
        start_s=0.0,
        end_s=1.0,
        timestamps=[n / COUNT for n in range(COUNT)],
        keyframes=[0],
        packet_lengths=[1] * COUNT,
        storage="h264",
        payload=bytes(COUNT),
        fps=float(COUNT),
        width=WIDTH,
        height=HEIGHT,
        rotation=0,
        label=None,
        label_name=None,
        split=None,
        sha256="",
        flow=pack_flow([encode_flow(one) for one in flows], WIDTH, HEIGHT, 20),
    )


def test_motion_is_quantised_as_dense_flow_does() -> None:
    motion = np.array([-21, -20, 0, 10, 20, 20.5, 30], np.float32)
    assert quantised(motion, 20).tolist() == [0, 0, 128, 191, 255, 255, 255]
    half = np.array([20 * (2 * k + 1) / 255 - 20 for k in range(255)])  # 255 (v + 20) / 40 = k + 1/2
    exact = 255 * (half + 20) / 40
    assert quantised(half, 20).tolist() == [round(float(value)) for value in exact]


def test_pixels_come_back_within_half_a_step() -> None:
    motion = np.linspace(-15, 15, 1001, dtype=np.float32)
    assert np.abs(to_pixels(quantised(motion, 15), 15) - motion).max() <= 15 / 255 + 1e-5
    assert to_pixels(np.array([0, 255], np.uint8), 15).tolist() == [-15, 15]


def test_a_flip_mirrors_and_turns_x_round() -> None:
    flow = np.arange(24, dtype=np.uint8).reshape(2, 2, 3, 2)
    flipped = mirrored(flow)
    assert flipped[0, 0, 0].tolist() == [255 - flow[0, 0, 2, 0], flow[0, 0, 2, 1]]
    assert np.array_equal(mirrored(flipped), flow)
    assert not np.shares_memory(flipped, flow)


def test_flow_survives_its_jpeg(row: ClipRow, flows: npt.NDArray[np.uint8]) -> None:
    error = np.abs(read_flow(row, range(COUNT)).astype(int) - flows)
    assert error.max() <= 3
    assert error.mean() < 0.6
    assert flow_bound(row) == 20


def test_pictures_are_grey_jpegs_of_quality_95(row: ClipRow) -> None:
    assert row.flow is not None
    data = row.flow[24 + 8 * COUNT :]
    with Image.open(io.BytesIO(data)) as picture, io.BytesIO() as file:
        assert (picture.format, picture.mode) == ("JPEG", "L")
        Image.new("L", (8, 8)).save(file, "JPEG", quality=95)
        assert picture.quantization == Image.open(file).quantization


def test_any_flows_are_read_in_any_order(row: ClipRow) -> None:
    whole = read_flow(row, range(COUNT))
    for indices in ([4], [3, 0, 3], [1, 2]):
        assert np.array_equal(read_flow(row, indices), whole[indices])


@pytest.mark.parametrize("indices", [[], [5], [-1, 0]])
def test_flows_that_are_not_there_are_refused(row: ClipRow, indices: list[int]) -> None:
    with pytest.raises(ClipError, match=r"jump/a\.mp4@0\.000: flow of frames .* it has frames 0 to 4"):
        read_flow(row, indices)


def test_a_row_without_flow_says_how_to_have_it(row: ClipRow) -> None:
    with pytest.raises(ClipError, match=r"jump/a\.mp4@0\.000: no flow; .*clips\.flow=dis or tvl1.*streams=\(.flow.,\)"):
        read_flow(replace(row, flow=None), [0])


def spoilt(data: bytes) -> dict[str, bytes]:
    lengths = np.frombuffer(data, "<u4", 2 * COUNT, 24)
    first = 24 + lengths.nbytes
    other = encode_flow(np.zeros((8, 8, 2), np.uint8))
    return {
        "shorter than its header": data[:10],
        "cut in its table": data[:30],
        "cut in its pictures": data[:-9],
        "longer": data + b"x",
        "another kind": b"JUNK" + data[4:],
        "a later version": data[:4] + struct.pack("<H", 2) + data[6:],
        "another size": data[:12] + struct.pack("<I", 99) + data[16:],
        "no picture": data[:first] + bytes(int(lengths[0])) + data[first + int(lengths[0]) :],
        "pictures of another size": pack_flow([other] * COUNT, WIDTH, HEIGHT, 20),
    }


def test_damage_names_the_clip(row: ClipRow) -> None:
    assert row.flow is not None
    for how, data in spoilt(row.flow).items():
        with pytest.raises(ClipError) as caught:
            read_flow(replace(row, flow=data), [0])
        assert str(caught.value).startswith("jump/a.mp4@0.000: its flow is damaged ("), how
        assert str(caught.value).endswith("prepare the table again")
