"""A folder of pictures as a video: which pictures it has, in what order, and the frames that they are.

    img_00001.jpg img_00002.jpg ...         a frame a picture, in the order of the numbers that end their names;
    frame000001.jpg, 0001.png, v_17.bmp     JPEG, PNG or BMP, with any text or none before the number
    flow_x_00001.jpg flow_y_00001.jpg       optical flow beside pictures is left out, and so is all that is no picture
                                            or has no number (Thumbs.db, cover.jpg)

Pictures are read one by one, each whole and with a decoder of its own: no demuxer looks for files by a pattern, so that
nothing outside the folder is opened, and damage has the name of a file. A number that is missing, two pictures of one
number, a file that is no picture, and pictures of different sizes make the folder unusable, as damage does a video.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
from av.codec.context import CodecContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from marey.clips.probe import MIN_FRAMES, Scan
from marey.clips.video import MAX_PIXELS, STRICT, Refused, check_file, check_pixels, explain, rotation_of

_NUMBERED = re.compile(r"(.*?)([0-9]+)\.(?:jpe?g|png|bmp)", re.IGNORECASE | re.DOTALL)
_FLOW = re.compile(r"(?:flow[_-]?)?[xyuv][_-]?|flow.*", re.IGNORECASE)
_MAX_BYTES = 1 << 28
_KINDS = {b"\xff\xd8\xff": "mjpeg", b"\x89PNG\r\n\x1a\n": "png", b"BM": "bmp"}


@dataclass(frozen=True)
class Pictures:
    """The frames of a folder: ``names`` of its files, in order.

    ``start``: frames of the recording before the first, and ``total``: all it has, whether taken or not.
    """

    folder: Path
    names: tuple[str, ...]
    start: int
    fps: float
    total: int


def holds_frames(names: Sequence[str]) -> bool:
    """Whether a folder whose files are ``names`` is a video: more than half of them are numbered pictures."""
    return 2 * sum(_NUMBERED.fullmatch(name) is not None for name in names) > len(names)


def find_pictures(
    folder: Path | str, fps: float, start: int | None = None, count: int | None = None, prefix: str | None = None
) -> Pictures:
    """The pictures of ``folder`` that are its frames, shown ``fps`` a second.

    ``start``: frames to leave out, counted from picture 0, or 1 where there is no 0 (default: none, from the first
    picture on, whatever its number). ``count``: how many to take (default: all). ``prefix``: how their names begin,
    before the number (default: as all names do, those of optical flow aside). Raises `Refused` (stage "probe") where
    these are not to be found or have gaps, "list" where there are fewer than asked for.
    """
    path = Path(folder)
    numbered = _numbered(path)
    group = numbered[_prefix(numbered, prefix)]
    first = group[0][0]
    skipped = 0 if start is None else start
    low = first if start is None else min(first, 1) + start
    high = group[-1][0] if count is None else low + count - 1
    taken = [(number, name) for number, name in group if low <= number <= high]
    _check_range(group, low, high)
    _check_order(taken, low)
    if len(taken) < MIN_FRAMES:
        raise Refused("probe", f"{len(taken)} picture, {taken[0][1]}; a clip needs at least {MIN_FRAMES}")
    total = group[-1][0] + 1 - (first if start is None else min(first, 1))
    return Pictures(path, tuple(name for _, name in taken), skipped, fps, total)


def _numbered(folder: Path) -> dict[str, list[tuple[int, str]]]:
    """Numbers and names of pictures, in order, by what stands before the number."""
    found: dict[str, list[tuple[int, str]]] = {}
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise Refused("probe", f"cannot be read ({error.strerror})") from None
    for name in names:
        match = None if name.startswith(".") else _NUMBERED.fullmatch(name)
        if match is not None:
            found.setdefault(match[1], []).append((int(match[2]), name))
    if not found:
        what = "is empty" if not names else "holds no numbered pictures"
        raise Refused("probe", f"the folder {what}; as a video it would hold img_00001.jpg, img_00002.jpg, ...")
    return {prefix: sorted(group) for prefix, group in sorted(found.items())}


def _prefix(numbered: dict[str, list[tuple[int, str]]], wanted: str | None) -> str:
    examples = ", ".join(group[0][1] for group in numbered.values())
    if wanted is not None:
        if wanted not in numbered:
            raise Refused("probe", f"no picture is named {wanted}<number> (clips.frames_prefix); there are {examples}")
        return wanted
    films = [prefix for prefix in numbered if not _FLOW.fullmatch(prefix)] if len(numbered) > 1 else list(numbered)
    if len(films) != 1:
        raise Refused("probe", f"pictures of several kinds ({examples}); say which with clips.frames_prefix")
    return films[0]


def _check_range(group: list[tuple[int, str]], low: int, high: int) -> None:
    if high > group[-1][0] or low > high:
        wanted = f"pictures {low} to {high}" if low <= high else f"pictures from {low} on"
        raise Refused("list", f"{wanted} are asked for, but {group[-1][1]} is the last")


def _check_order(taken: list[tuple[int, str]], low: int) -> None:
    if not taken or taken[0][0] != low:
        raise Refused("probe", f"picture {low} is missing" + (f": the first is {taken[0][1]}" if taken else ""))
    for (number, name), (following, other) in pairwise(taken):
        if following == number:
            raise Refused("probe", f"two pictures have the number {number}: {name} and {other}")
        if following > number + 1:
            raise Refused("probe", f"picture {number + 1} is missing: {name} is followed by {other}")


def scan_pictures(pictures: Pictures, max_pixels: int) -> Scan:
    """Decode all pictures once, strictly. Raises `Refused` (stage "probe" or "decode") with the file and the reason."""
    shape: tuple[int, int, int] | None = None
    for name, frame in zip(pictures.names, read_pictures(pictures, max_pixels), strict=True):
        one = (frame.width, frame.height, rotation_of(frame))
        if shape is not None and one != shape:
            sizes = "{} x {} (turned by {})".format(*one), "{} x {} (turned by {})".format(*shape)
            raise Refused("decode", f"{name} is {sizes[0]}, the pictures before it {sizes[1]}")
        shape = one
    assert shape is not None, "a Pictures has names"
    width, height, rotation = shape
    if rotation in (90, 270):
        width, height = height, width
    count, fps = len(pictures.names), pictures.fps
    times = [(pictures.start + number) / fps for number in range(count)]
    return Scan(times, False, list(range(count)), fps, width, height, rotation, [])


def read_pictures(pictures: Pictures, max_pixels: int) -> Iterator[VideoFrame]:
    """The frames, in order. Raises `Refused` that names the file at the first that is damaged or no picture."""
    for number, name in enumerate(pictures.names):
        try:
            yield decode_picture(read_picture(pictures.folder / name), max_pixels)
        except Refused as refused:
            raise Refused(refused.stage, f"{name}: {refused.reason}") from None
        except (av.FFmpegError, ValueError) as error:
            raise Refused("decode", f"{name}: damaged ({explain(error)}), after {number} sound pictures") from None


def read_picture(path: Path) -> bytes:
    """The bytes of a file. Raises `Refused` (stage "probe") where it cannot be a picture."""
    check_file(path)
    if path.stat().st_size > _MAX_BYTES:
        raise Refused("probe", f"more than {_MAX_BYTES >> 20} MiB, too much for a picture")
    return path.read_bytes()


def decode_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> VideoFrame:
    """The frame that a whole JPEG, PNG or BMP is. Raises `Refused`, or what the decoder raises on damage."""
    codec = next((codec for magic, codec in _KINDS.items() if data.startswith(magic)), None)
    if codec is None:
        raise Refused("probe", "no JPEG, PNG or BMP picture, whatever its name says")
    if not _is_complete(data, codec):
        raise Refused("decode", "damaged: its end is missing")
    check_pixels(*_stated_size(data, codec), max_pixels)  # a decoder would only say that something is invalid
    context = CodecContext.create(codec, "r")
    assert isinstance(context, VideoCodecContext)
    context.thread_count = 1
    context.options = {"max_pixels": str(max_pixels), "err_detect": STRICT}
    frames = [*context.decode(Packet(data)), *context.decode(None)]
    if len(frames) != 1 or frames[0].is_corrupt:
        raise Refused("decode", "damaged: it gives no whole picture")
    return frames[0]


def _is_complete(data: bytes, codec: str) -> bool:
    """Whether the marker that ends a picture is there; decoders paint over what is missing before it."""
    if codec == "mjpeg":  # a thumbnail inside has an end of its own, before the last scan begins
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    return b"IEND" in data[-64:] if codec == "png" else True


def _stated_size(data: bytes, codec: str) -> tuple[int, int]:
    """(width, height) by a picture's header, zeros where it has none that can be read."""
    head = data[:26].ljust(26, b"\0")
    if codec == "png":
        return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    if codec == "bmp":
        width, height = (int.from_bytes(head[at : at + 4], "little", signed=True) for at in (18, 22))
        return (width, abs(height)) if head[14] >= 40 else (0, 0)
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame, not a table
            return int.from_bytes(data[position + 7 : position + 9]), int.from_bytes(data[position + 5 : position + 7])
        position += 1 if marker == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4])
    return 0, 0


def pack_pictures(folder: Path, names: Sequence[str]) -> bytes:
    """Names and sha256 of files, as the payload of a row that points to them. Raises `OSError`."""
    digests = (hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names)
    pairs = zip(map(os.fsencode, names), map(str.encode, digests), strict=True)
    return b"\0".join(part for pair in pairs for part in pair)


def unpack_pictures(payload: bytes) -> list[tuple[str, str]]:
    """(name, sha256) of each, as `pack_pictures` packed them."""
    parts = payload.split(b"\0")
    return [(os.fsdecode(name), digest.decode()) for name, digest in zip(parts[::2], parts[1::2], strict=True)]


def stamp_pictures(folder: Path | str) -> tuple[int, int]:
    """(bytes, time of the last change in ns) of all that lies in a folder. Raises `OSError`."""
    with os.scandir(folder) as entries:
        files = [entry.stat() for entry in entries if entry.is_file()]
    changed = [Path(folder).stat().st_mtime_ns, *(file.st_mtime_ns for file in files)]
    return sum(file.st_size for file in files), max(changed)
