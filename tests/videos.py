"""Small videos for tests, made on the spot: a moving square over a gradient, in many codecs, clocks and states."""

import os
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

REPOSITORY = Path(__file__).parent.parent


def shared_folder() -> Path | None:
    """The folder of reference videos, where there is one."""
    folder = REPOSITORY / os.environ.get("MAREY_SHARED", "../shared")
    return folder.resolve() if folder.is_dir() else None


def moving_square(count: int, height: int = 48, width: int = 64, seed: int = 0) -> npt.NDArray[np.uint8]:
    """uint8 [T, H, W, 3]: a bright square crosses a soft gradient; no two frames are equal."""
    y, x = np.mgrid[:height, :width]
    ground = np.stack([90 + 60 * x / width, 80 + 60 * y / height, 120 + 0 * x], -1)
    frames = np.repeat(ground[None], count, 0)
    size = max(2, min(height, width) // 4)
    for number in range(count):
        left = (3 * number + 7 * seed) % max(1, width - size)
        top = (2 * number + 5 * seed) % max(1, height - size)
        frames[number, top : top + size, left : left + size] = (220, 200 - number % 50, 60)
    return frames.astype(np.uint8)


def write_video(
    path: Path,
    frames: npt.NDArray[np.uint8] | int = 30,
    *,
    fps: float = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    container: str | None = None,
) -> Path:
    """Write ``frames`` (or that many of `moving_square`); ``times``: seconds of each, else one every 1 / ``fps``."""
    pictures = moving_square(frames) if isinstance(frames, int) else frames
    path.parent.mkdir(parents=True, exist_ok=True)
    base = Fraction(1, 12800)
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options or {})
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = stream.time_base = base
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if times is None:
                frame.pts, frame.time_base = number, Fraction(1) / Fraction(fps).limit_denominator(1001)
            else:
                frame.pts, frame.time_base = round(times[number] / base), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    """Half a second of silence, and no picture."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def rotate_clockwise(path: Path, degrees: int) -> Path:
    """Say in an MP4's track header that it is to be shown turned; no pixel changes."""
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    struct.pack_into(">9i", content, matrix, cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(content))
    return path


def truncate(path: Path, share: float) -> Path:
    """Cut the end off a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


FASTSTART = {"movflags": "+faststart"}
PLAYLISTS = {
    "hls.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "concat.mp4": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "html.mp4": b"<!DOCTYPE html><html><body>404</body></html>",
    "lfs.mp4": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "zeros.mp4": bytes(4096),
    "empty.mp4": b"",
}


def write_unusable(folder: Path) -> list[Path]:
    """Files that no table takes: playlists, web pages, half a video, one frame, only sound."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in PLAYLISTS.items():
        (folder / name).write_bytes(content)
        paths.append(folder / name)
    paths.append(truncate(write_video(folder / "half.mkv", 50), 0.5))
    paths.append(write_video(folder / "one_frame.mp4", 1))
    paths.append(write_audio(folder / "sound.mp4"))
    return paths
