"""Small sound videos over containers and codecs, and the ways in which a file is spoilt: all from a seed."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from random import Random

import av
import numpy as np
import numpy.typing as npt

FRAMES, HEIGHT, WIDTH = 24, 64, 96

CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"preset": "veryfast", "g": "8", "bf": "2"}),
    "hevc": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:keyint=8:pools=none:frame-threads=1"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "8"}),
    "av1": ("libsvtav1", {"preset": "12", "g": "8", "svtav1-params": "lp=1"}),
    "mpeg1video": ("mpeg1video", {"g": "8", "bf": "2"}),
    "mpeg2video": ("mpeg2video", {"g": "8", "bf": "2"}),
    "mpeg4": ("mpeg4", {"g": "8"}),
    "mjpeg": ("mjpeg", {}),
}
_MPEG = ("mpeg1video", "mpeg2video")
CONTAINERS: dict[str, tuple[str, ...]] = {
    "mp4": tuple(CODECS),
    "mkv": tuple(CODECS),
    "avi": ("h264", *_MPEG, "mpeg4", "mjpeg"),
    "ts": ("h264", "hevc", *_MPEG, "mpeg4"),
    "webm": ("vp9", "av1"),
}


def textured(count: int = FRAMES) -> npt.NDArray[np.uint8]:
    """uint8 [T, H, W, 3]: a grainy texture that drifts, so that a coded frame is hundreds of bytes and refers back."""
    grain = np.random.default_rng(5).normal(0, 22, (HEIGHT, WIDTH, 3))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = 60 * np.sin(x / 9)[..., None] + 40 * np.cos(y / 7)[..., None] * np.array([1.0, 0.6, -1.0])
    texture = 128 + waves + (grain + np.roll(grain, 1, 0) + np.roll(grain, 1, 1)) / 2
    frames = [np.roll(texture, (number, 2 * number), (0, 1)) for number in range(count)]
    return np.clip(frames, 0, 255).astype(np.uint8)


def write_sources(folder: Path) -> dict[tuple[str, str], Path]:
    """A sound video of each codec in each container that holds it, by (container, codec)."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = textured()
    pairs = [(container, codec) for container, codecs in CONTAINERS.items() for codec in codecs]
    return {(container, codec): _write(folder / f"{codec}.{container}", codec, frames) for container, codec in pairs}


def _write(path: Path, codec: str, frames: npt.NDArray[np.uint8]) -> Path:
    encoder, options = CODECS[codec]
    # Without "bitexact" Matroska files hold random numbers, and a seed would not give the same files again.
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as out:
        stream = out.add_stream(encoder, rate=Fraction(25), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 400_000
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def mutated(data: bytes, rng: Random, kind: str | None = None) -> tuple[str, bytes]:
    """``data`` spoilt in one way (``kind``, else any of `KINDS`), never equal to ``data``; and the way's name."""
    kind = kind or rng.choice(list(KINDS))
    spoilt = data
    while spoilt == data:  # zeros over zeros, or two equal blocks exchanged
        spoilt = KINDS[kind](data, rng)
    return kind, spoilt


def _span(data: bytes, rng: Random) -> tuple[int, int]:
    """Start and end of a run of 1 byte to an eighth of the file; short ones as often as long ones."""
    length = max(1, int((len(data) // 8) ** rng.random()))
    start = rng.randrange(len(data) - length + 1)
    return start, start + length


def _bit(data: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def _noise(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _zeroed(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + bytes(end - start) + data[end:]


def _removed(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _duplicated(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] + data[end:]


def _truncated(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _swapped(data: bytes, rng: Random) -> bytes:
    """Two blocks of equal length, neither over the other, exchanged."""
    length = max(1, int((len(data) // 8) ** rng.random()))
    first = rng.randrange(len(data) - 2 * length + 1)
    second = rng.randrange(first + length, len(data) - length + 1)
    middle = data[first + length : second]
    return b"".join(
        [data[:first], data[second : second + length], middle, data[first : first + length], data[second + length :]]
    )


def _header(data: bytes, rng: Random) -> bytes:
    """One to eight bytes of the first 512 replaced."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        spoilt[rng.randrange(min(512, len(data)))] = rng.randrange(256)
    return bytes(spoilt)


KINDS: dict[str, Callable[[bytes, Random], bytes]] = {
    "bit": _bit,
    "noise": _noise,
    "zeroed": _zeroed,
    "removed": _removed,
    "duplicated": _duplicated,
    "truncated": _truncated,
    "swapped": _swapped,
    "header": _header,
}
