"""Reading clips side by side: Marey's storages and decoders against torchcodec and decord, in processor time a clip.

One film is encoded twice with ordinary settings (H.264, B-frames), with a keyframe every 12 and every 250 frames. A
clip is 16 frames from a random place, as RGB. Rows take turns; each uses one thread, ratios are medians over rounds.

    source        Marey finds the frames in the file itself (clips.storage=source)
    h264 ...      Marey reads them from a row of a clip table in that storage
    ..., thinned  from a row that holds no other frames than clips of this stride can ask for (clips.fps)
    ..., aligned  clips that start at keyframes (clips.start=keyframe in training)
    ..., yuv      as YUV 4:2:0, which turns into RGB on the device (clips.pixels=yuv420 in training)
    torchcodec, decord
                  the peers, on the same file, from the environment that `make bench-env` makes

Frames are checked: their means must agree to 2 grey levels, by which decoders' conversions differ. KB are of a clip's
16 frames as stored, dB is the PSNR of stored frames against the film's, both at the film's size.
"""

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table

from marey.bench import decode_peers, report, words
from marey.bench.machine import cpu_name
from marey.bench.peer_process import PYTHON, PeerProcess
from marey.clips.datasets import Source
from marey.clips.decode import decode_frames, read_frames, read_planes
from marey.clips.planes import Planes
from marey.clips.prepare import prepare_source
from marey.clips.row import ClipRow, Storage
from marey.clips.storage import ClipStorage
from marey.clips.video import Pixels
from marey.config import Config
from marey.errors import ConfigError

GOPS = (12, 250)
STORAGES: tuple[Storage, ...] = ("source", "h264", "jpeg", "raw")
THINNED = "h264, thinned"
YUV = ", yuv"
_RATE = 30
_SAME_MEAN = 2.0  # grey levels on a frame: FFmpeg rounds RGB down, by 1.2 on average, and ours to the nearest


class DecodeBench(Config):
    """What to measure."""

    video: Path | None = None
    """The film to encode; its first frames are used. Default: soft moving pictures that are drawn."""
    frames: int = Field(300, ge=64)
    """Frames of the film."""
    short_side: int = Field(256, ge=16)
    """Pixels to which its shorter side is scaled."""
    clips: int = Field(20, gt=0)
    """Clips of a turn."""
    strides: tuple[int, ...] = (1, 4)
    """Distances of a clip's frames."""
    rounds: int = Field(3, gt=0)
    """Turns that each row takes, after one to warm up."""
    peers: Path | None = None
    """Python of the environment with the peers. Default: .bench/bin/python where `make bench-env` has made it."""


Read = Callable[[list[list[int]]], tuple[float, list[list[float]]]]


@dataclass
class Row:
    """One way to read clips: seconds of processor time and frame means for a list of clips."""

    name: str
    read: Read
    bytes_per_clip: float | None = None
    psnr: float | None = None
    aligned: int = 1
    """Clips start at multiples of this film frame."""
    seconds: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line's words ask for and print it."""
    words.launch(DecodeBench(), __doc__ or "", run, report.open_console(), arguments)


def run(bench: DecodeBench, console: Console) -> dict[tuple[int, int], list[Row]]:
    """One table for each distance of keyframes and stride; the rows of each."""
    if 15 * max(bench.strides) >= bench.frames:
        raise ConfigError(
            f"strides={list(bench.strides)}: a clip is longer than frames={bench.frames}; give more frames"
        )
    console.print(f"{cpu_name()}, one thread, processor time", highlight=False)
    original, tables = film(bench.video, bench.frames, bench.short_side), {}
    python = bench.peers or PYTHON
    peers = _peers(python, console)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for gop in GOPS:
            path = Path(folder, f"gop{gop}.mp4")
            encode(original, path, gop)
            ours, others = _ours(path), [_peer(name, python, path, stack) for name in peers]
            means = [float(frame.mean()) for _, frame in decode_frames(path)]
            for stride in bench.strides:
                rows = [*ours, *(_thinned(path, stride) if stride > 1 else []), *others]
                tables[gop, stride] = measure(rows, bench, stride, means)
                _show(tables[gop, stride], gop, stride, console)
    return tables


def measure(rows: Sequence[Row], bench: DecodeBench, stride: int, means: Sequence[float]) -> list[Row]:
    """Every row's seconds a clip, round after round; `AssertionError` where one gives frames of other ``means``."""
    rng = np.random.default_rng(stride)
    span = 15 * stride + 1
    fresh = [replace(row, seconds=[]) for row in rows]
    for turn in range(bench.rounds + 1):
        starts = rng.integers(0, (bench.frames - span) // stride + 1, bench.clips) * stride
        for row in fresh:
            firsts = (starts // row.aligned * row.aligned).tolist()
            clips = [list(range(start, start + span, stride)) for start in firsts]
            seconds, found = row.read(clips)
            apart = np.abs(np.array(found) - np.array(means)[np.array(clips)]).max()
            assert apart < _SAME_MEAN, f"{row.name} gives other frames: their means differ by {apart:.1f}"
            if turn:
                row.seconds.append(seconds / bench.clips)
    return fresh


def encode(pictures: np.ndarray, path: Path, gop: int) -> None:
    """Frames uint8 [T, H, W, 3] as people have them: H.264, three B-frames, CRF 23."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=_RATE, options={"crf": "23", "g": str(gop), "keyint_min": str(gop)})
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))


def film(video: Path | None, count: int, short_side: int) -> np.ndarray:
    """The first ``count`` frames of ``video``, or as many that are drawn: uint8 [T, H, W, 3], of even size."""
    frames = list(_read_film(video, count) if video else _drawn(count, short_side))
    if len(frames) < count:
        raise ConfigError(f"video={video}: has {len(frames)} frames; give a longer one, or frames={len(frames)}")
    height, width = frames[0].shape[:2]
    scale = short_side / min(height, width)
    size = (round(width * scale / 2) * 2, round(height * scale / 2) * 2)
    pictures = (av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in frames)
    return np.stack([picture.reformat(*size, interpolation="BICUBIC").to_ndarray() for picture in pictures])


def _read_film(path: Path, count: int) -> Iterator[np.ndarray]:
    for number, (_, frame) in enumerate(decode_frames(path)):
        if number == count:
            return
        yield frame


def _drawn(count: int, side: int) -> Iterator[np.ndarray]:
    """A soft picture that pans, with grain."""
    rng = np.random.default_rng(0)
    height, width = side, side * 4 // 3
    ground = np.zeros((1024, 1024, 3))
    for cells in (8, 16, 32, 64, 128):
        coarse = rng.normal(0, 320 / cells, (cells, cells, 3))
        ground += np.kron(coarse, np.ones((1024 // cells, 1024 // cells, 1)))
    for number in range(count):
        top, left = (number * 2) % (ground.shape[0] - height), (number * 3) % (ground.shape[1] - width)
        cut = ground[top : top + height, left : left + width] + 120 + rng.normal(0, 3, (height, width, 1))
        yield cut.clip(0, 255).astype(np.uint8)


def _ours(path: Path) -> list[Row]:
    """One row for each storage, from one segment that holds the whole film, and one for its planes."""
    original = np.stack([frame for _, frame in decode_frames(path)])
    made = []
    for storage in STORAGES:
        [row] = _prepared(path, ClipStorage(storage=storage, max_seconds=1e6))
        stored = path.stat().st_size if row.payload is None else len(row.payload)
        plain = Row(storage, _reader(row), stored / row.num_frames * 16, _psnr(row, original))
        made.append(plain)
        if storage in ("source", "h264"):
            made.append(replace(plain, name=storage + YUV, read=_reader(row, planes=True)))
        if storage == "h264":
            made += _aligned(made[-2:], ClipStorage().gop)
    return made


def _thinned(path: Path, stride: int) -> list[Row]:
    """Rows of which clips of ``stride`` are consecutive frames."""
    original = np.stack([frame for _, frame in decode_frames(path)])[::stride]
    [row] = _prepared(path, ClipStorage(fps=_RATE / stride, max_seconds=1e6))
    assert row.payload is not None
    assert row.num_frames == len(original), f"{row.num_frames} frames are stored, every {stride}th are {len(original)}"
    plain = Row(THINNED, _reader(row, stride), len(row.payload) / row.num_frames * 16, _psnr(row, original))
    made = [plain, replace(plain, name=THINNED + YUV, read=_reader(row, stride, planes=True))]
    return [*made, *_aligned(made, ClipStorage().gop * stride)]


def _aligned(rows: Sequence[Row], every: int) -> list[Row]:
    """The same rows, of which clips start at keyframes alone, ``every`` so many frames of the film."""
    return [replace(row, name=row.name.replace("h264", "h264, aligned", 1), aligned=every) for row in rows]


def _prepared(path: Path, storage: ClipStorage) -> list[ClipRow]:
    rows = prepare_source(Source(path.name, str(path)), storage)
    assert isinstance(rows, list), rows
    return rows


def _psnr(row: ClipRow, original: np.ndarray) -> float | None:
    if row.storage == "source":
        return None
    numbers = list(range(0, row.num_frames, 7))
    error = (read_frames(row, numbers).astype(np.float32) - original[numbers]) ** 2
    return float(10 * np.log10(255**2 / max(float(error.mean()), 1e-9)))


def _reader(row: ClipRow, stride: int = 1, planes: bool = False) -> Read:
    """Reads clips of the film's frame numbers, of which the row holds every ``stride``-th."""

    def read(clips: list[list[int]]) -> tuple[float, list[list[float]]]:
        take: Callable[[ClipRow, Sequence[int]], Pixels | Planes] = read_planes if planes else read_frames
        start = time.process_time()
        found = [take(row, [number // stride for number in clip]) for clip in clips]
        seconds = time.process_time() - start
        return seconds, [_means(clip) for clip in found]

    return read


def _means(clip: Pixels | Planes) -> list[float]:
    """The mean of each frame's RGB."""
    if not isinstance(clip, Planes):
        return [float(frame.mean()) for frame in clip]
    ones = np.ones((len(clip.luma), 1))
    planes = np.concatenate([clip.luma.mean((1, 2))[:, None], clip.chroma.mean((2, 3)), ones], 1)
    return [float(value) for value in (clip.to_rgb @ planes[..., None]).mean((1, 2))]


def _peers(python: Path, console: Console) -> list[str]:
    """The peers that are there; says what is missing."""
    if not python.exists():
        console.print(f"left out: torchcodec and decord; `make bench-env` installs them ({python} is not there)")
        return []
    found = []
    for name in decode_peers.PEERS:
        module = name.split(",")[0]
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0:
            found.append(name)
        else:
            console.print(f"left out: {name}; {python} cannot import it")
    return found


def _peer(name: str, python: Path, path: Path, stack: ExitStack) -> Row:
    """A row that asks a process of the peers' environment; it ends with ``stack``."""
    peer = PeerProcess([str(python), decode_peers.__file__, name], stack)

    def read(clips: list[list[int]]) -> tuple[float, list[list[float]]]:
        answer = peer.ask({"path": str(path), "clips": clips})
        return answer["seconds"], answer["means"]

    return Row(name, read)


def _show(rows: Sequence[Row], gop: int, stride: int, console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    peers = [row for row in rows if row.name in decode_peers.PEERS]
    table.add_column("row")
    for title in ("ms/clip", "clips/s", "KB", "dB", *(f"faster than\n{peer.name}" for peer in peers)):
        table.add_column(title, justify="right")
    for row in rows:
        seconds = statistics.median(row.seconds)
        ratios = [f"{statistics.median(b / a for a, b in zip(row.seconds, p.seconds, strict=True)):.2f}" for p in peers]
        size = "-" if row.bytes_per_clip is None else f"{row.bytes_per_clip / 1000:.0f}"
        quality = "-" if row.psnr is None else f"{row.psnr:.1f}"
        table.add_row(row.name, f"{1000 * seconds:.1f}", f"{1 / seconds:.0f}", size, quality, *ratios)
    console.print(f"\n16 frames, stride {stride}, of a file with a keyframe every {gop}", highlight=False)
    console.print(table)
