"""Augmenting clips side by side: Marey against torchvision v2 and Pillow, in processor time a clip.

A clip is 16 frames of one film, cut out, resized to 224 × 224, flipped or not, and made normalised floats; then the
same with RandAugment before the floats. Boxes and operations are drawn once for a clip: all its frames, all rows.
Rows take turns on one thread; ratios are medians over rounds.

    marey, on the CPU     what processors do in training where there is a GPU: draws, cut, resize and flip, to uint8;
                          the rest is done on the device, for a batch
    marey, all on the CPU the device's share too, on the same thread
    torchvision v2        resized_crop, horizontal_flip, RandAugment's operations, to_dtype, normalize, on all frames
    PIL                   frame by frame, as the video papers' loaders do it

The peers' draws are not in their time. Results are checked: the quarters of each clip must have the same means, as far
as the rounding of each row allows. The goal is that Marey takes at most a quarter of either peer's time on the CPU.
"""

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from rich.table import Table
from torch import Tensor

from marey.bench import augment_peers, report, words
from marey.bench.augment_peers import quarters
from marey.bench.decode import film
from marey.bench.machine import cpu_name
from marey.bench.peer_process import PYTHON, PeerProcess
from marey.clips import operations, randaugment
from marey.clips.augment import AugmentConfig, Box, apply_box, draw_box, draw_flip
from marey.clips.operations import Operation
from marey.clips.plan import FLIP_STREAM, RANDAUGMENT_STREAM, rng_of
from marey.clips.randaugment import RandAugmentConfig
from marey.config import Config
from marey.errors import ConfigError
from marey.nn.pixels import MEAN, STD, normalise

GOAL = 0.25
ON_CPU, ALL = "marey, on the CPU", "marey, all on the CPU"
PLAIN, WITH = "crop, resize, flip, normalise", "the same with RandAugment"
_SAME = {PLAIN: 0.03, WITH: 0.25}
"""Largest difference of means, in standard deviations, of which a grey level is 0.017: PyTorch resizes and Pillow's
operations cut off to whole numbers; a sequence of operations makes more of it."""


class AugmentBench(Config):
    """What to measure."""

    video: Path | None = None
    """The film to take frames of. Default: soft moving pictures that are drawn."""
    film_frames: int = Field(64, ge=16)
    """Frames of the film."""
    short_side: int = Field(256, ge=16)
    """Pixels to which its shorter side is scaled."""
    crop: int = Field(224, ge=16)
    """Height and width of a clip in pixels."""
    frames: int = Field(16, gt=0)
    """Frames of a clip."""
    boxes: Literal["multi_scale", "random_resized"] = "multi_scale"
    """What is cut out (augment.crop)."""
    ops: int = Field(4, gt=0)
    """RandAugment's operations, each applied to half of the clips."""
    magnitude: float = Field(7.0, ge=0, le=10)
    """RandAugment's mean strength."""
    clips: int = Field(24, gt=0)
    """Clips of a turn."""
    rounds: int = Field(5, gt=0)
    """Turns that each row takes, after one to warm up."""
    peers: Path | None = None
    """Python of the environment with the peers. Default: .bench/bin/python where `make bench-env` has made it."""


class Drawn(NamedTuple):
    """One clip's parameters."""

    start: int
    """Its first frame in the film."""
    box: Box
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Film:
    """What clips are made of, and how."""

    pictures: np.ndarray
    """uint8 [T, H, W, 3]."""
    bench: AugmentBench
    ops: int
    """RandAugment's."""

    def draw(self, key: int) -> Drawn:
        """All that is drawn for one clip, from its key."""
        bench, (count, height, width, _) = self.bench, self.pictures.shape
        config = AugmentConfig(crop=bench.boxes, flip=0.5)
        box = draw_box(config, height, width, rng_of(key))._replace(flip=draw_flip(config, rng_of(key, FLIP_STREAM)))
        strength = RandAugmentConfig(ops=self.ops, magnitude=bench.magnitude)
        operations = randaugment.draw(strength, rng_of(key, RANDAUGMENT_STREAM)) if self.ops else ()
        return Drawn(key * 7 % (count - bench.frames + 1), box, operations)

    def cut(self, drawn: Drawn) -> Tensor:
        """What is done where a clip is decoded: uint8 [T, crop, crop, 3]."""
        return apply_box(self.pictures[drawn.start :][: self.bench.frames], drawn.box, self.bench.crop)

    def whole(self, drawn: Drawn) -> Tensor:
        """With what `marey.recipes.supervised` does on the device: float32 [C, T, crop, crop]."""
        clip = self.cut(drawn).permute(3, 0, 1, 2).unsqueeze(0)
        return normalise(operations.apply(clip, [drawn.operations]) if self.ops else clip)[0]


Means = list[list[float]]
"""Of the quarters of each clip."""
Augment = Callable[[Film, Sequence[int]], tuple[float, Means | None]]
"""Seconds of processor time for the clips of these keys, and their means if they are normalised."""


@dataclass
class Row:
    """One way to augment clips."""

    name: str
    augment: Augment
    seconds: list[float] = field(default_factory=list)
    """A clip's, one for each round."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line's words ask for and print it."""
    words.launch(AugmentBench(), __doc__ or "", run, report.open_console(), arguments)


def run(bench: AugmentBench, console: Console) -> dict[str, list[Row]]:
    """One table without RandAugment and one with it; the rows of each."""
    if bench.frames > bench.film_frames:
        raise ConfigError(f"frames={bench.frames}: a clip is longer than film_frames={bench.film_frames}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            return _run(bench, console, Path(folder, "film.npy"), stack)
    finally:
        torch.set_num_threads(threads)


def _run(bench: AugmentBench, console: Console, path: Path, stack: ExitStack) -> dict[str, list[Row]]:
    pictures, tables = film(bench.video, bench.film_frames, bench.short_side), {}
    np.save(path, pictures)
    height, width = pictures.shape[1:3]
    shown = f"{bench.frames} frames of {height} × {width} to {bench.crop}²; {bench.boxes}"
    console.print(f"{cpu_name()}, one thread, processor time; {shown}", highlight=False)
    rows = [Row(ON_CPU, on_cpu), Row(ALL, all_on_cpu), *_peers(bench, path, console, stack)]
    for title, ops in ((PLAIN, 0), (WITH, bench.ops)):
        tables[title] = measure(rows, Film(pictures, bench, ops), _SAME[title])
        _show(tables[title], title, console)
    return tables


def measure(rows: Sequence[Row], film: Film, same: float) -> list[Row]:
    """Every row's seconds a clip, round after round; `AssertionError` where two rows' means differ by ``same``."""
    fresh = [Row(row.name, row.augment) for row in rows]
    count = film.bench.clips
    for turn in range(film.bench.rounds + 1):
        keys = range(turn * count, (turn + 1) * count)
        expected: Means | None = None
        for row in fresh:
            seconds, means = row.augment(film, keys)
            if means is not None:
                expected = expected or means
                apart = float(np.abs(np.array(means) - np.array(expected)).max())
                assert apart < same, f"{row.name} gives other clips: their means differ by {apart:.2f}"
            if turn:
                row.seconds.append(seconds / count)
    return fresh


def on_cpu(film: Film, keys: Sequence[int]) -> tuple[float, Means | None]:
    """Marey's share of the processors: the draws, and bytes."""
    start = time.process_time()
    for key in keys:
        film.cut(film.draw(key))
    return time.process_time() - start, None


def all_on_cpu(film: Film, keys: Sequence[int]) -> tuple[float, Means | None]:
    """Marey's share of the processors and of the device, clip by clip."""
    seconds, means = 0.0, []
    for key in keys:
        start = time.process_time()
        clip = film.whole(film.draw(key))
        seconds += time.process_time() - start
        means.append(quarters(clip))
    return seconds, means


def _peers(bench: AugmentBench, path: Path, console: Console, stack: ExitStack) -> list[Row]:
    """A row for each peer that is there; says what is missing."""
    python = bench.peers or PYTHON
    if not python.exists():
        names = " and ".join(augment_peers.PEERS)
        console.print(f"left out: {names}; `make bench-env` installs them ({python} is not there)")
        return []
    found = []
    for name in augment_peers.PEERS:
        command = [str(python), augment_peers.__file__, name]
        if subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
            console.print(f"left out: {name}; {python} cannot import it")
            continue
        found.append(
            Row(name, _peer(command, {"frames": str(path), "crop": bench.crop, "mean": MEAN, "std": STD}, stack))
        )
    return found


def _peer(command: list[str], wanted: dict[str, Any], stack: ExitStack) -> Augment:
    """Asks a process of the peers' environment; it ends with ``stack``."""
    peer = PeerProcess(command, stack)
    peer.tell(wanted)

    def augment(film: Film, keys: Sequence[int]) -> tuple[float, Means | None]:
        answer = peer.ask([film.draw(key)._asdict() | {"count": film.bench.frames} for key in keys])
        return answer["seconds"], answer["quarters"]

    return augment


def _show(rows: Sequence[Row], title: str, console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    peers = [row for row in rows if row.name in augment_peers.PEERS]
    table.add_column("row")
    for column in ("ms/clip", *(f"of {peer.name}" for peer in peers)):
        table.add_column(column, justify="right")
    for row in rows:
        ratios = [ratio(row, peer) for peer in peers]
        missed = [" (goal missed)" if row.name == ON_CPU and one > GOAL else "" for one in ratios]
        shown = [f"{one:.3f}{text}" for one, text in zip(ratios, missed, strict=True)]
        table.add_row(row.name, f"{1000 * statistics.median(row.seconds):.2f}", *shown)
    console.print(f"\n{title}", highlight=False)
    console.print(table)


def ratio(row: Row, peer: Row) -> float:
    """Median over the rounds of one row's time over another's in the same round."""
    return statistics.median(a / b for a, b in zip(row.seconds, peer.seconds, strict=True))
