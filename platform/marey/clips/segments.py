"""One video in, its clip-table rows out: which frames are kept, where the video is cut, how the pieces are stored."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from av.video.frame import VideoFrame

from marey.clips.datasets import Source
from marey.clips.decode import seeks_exactly
from marey.clips.encode import Encoded, encoder_of, fitted, upright
from marey.clips.flow_methods import allowance, segment_flows
from marey.clips.frames import Pictures, find_pictures, pack_pictures, read_pictures, scan_pictures
from marey.clips.probe import MIN_FRAMES, Scan, scan
from marey.clips.row import ClipRow, Quarantined
from marey.clips.storage import MAX_FPS, ClipStorage
from marey.clips.streams import Kind, Numbers, load_stream, pack_stream
from marey.clips.video import Refused, explain, open_video

# A source this little above the wanted rate (30.02 for 30, 30 for 29.97) keeps all its frames.
_TOLERANCE = 1.02
_GIB = 1 << 30


def prepare_source(source: Source, storage: ClipStorage) -> list[ClipRow] | Quarantined:
    """All rows of one video, or why it has none. Runs in this process, without limits on time and memory."""
    try:
        return list(iterate_rows(source, storage))
    except Refused as refused:
        return Quarantined(source.source_id, source.uri, refused.stage, refused.reason)


def iterate_rows(
    source: Source, storage: ClipStorage, allow: Callable[[float], None] | None = None
) -> Iterator[ClipRow]:
    """The rows of one video, one after another. Raises `Refused` before the first row where the video is unsound.

    ``allow`` is told, before that work begins, how many seconds more than other videos this one may take.
    """
    if not Path(source.uri).exists():
        raise Refused("list", "no such file")
    pictures, pixels = _pictures(source, storage), storage.limits.max_pixels
    if pictures is not None:
        found = scan_pictures(pictures, pixels)
        taken = range(len(found.times))
    else:
        found = scan(source.uri, max_pixels=pixels, checksums=storage.storage == "source")
        taken = _taken(source, len(found.times))
    kept, fps = keep([found.times[number] for number in taken], found.fps, storage.fps)
    kept = [taken[number] for number in kept]
    pieces = cut([found.times[number] for number in kept], fps, storage.max_seconds)
    spans = [kept[start:stop] for start, stop in pieces]
    said = _said(source, found, pictures)
    if storage.storage == "source":
        rows = _pointing_rows(source, found, spans, fps, pictures)
    else:
        rows = _encoded_rows(source, storage, found, spans, fps, _decoded(source.uri, pixels, pictures))
    if storage.flow != "none":
        rows = _with_flow(rows, storage, found, spans, _decoded(source.uri, pixels, pictures), allow)
    offset = pictures.start if pictures is not None else 0
    for row, span in zip(rows, spans, strict=True):
        yield _with_said(row, said, found, [offset + number for number in span])


def _said(source: Source, found: Scan, pictures: Pictures | None) -> dict[Kind, Numbers]:
    """What files of the user say of all frames of the source, those that a list leaves out included."""
    total = len(found.times) if pictures is None else pictures.total
    files: dict[Kind, str | None] = {"joints": source.joints, "boxes": source.boxes}
    return {kind: load_stream(kind, path, total) for kind, path in files.items() if path is not None}


def _with_said(row: ClipRow, said: dict[Kind, Numbers], found: Scan, frames: Sequence[int]) -> ClipRow:
    scale = (row.width / found.width, row.height / found.height)
    packed = {kind: pack_stream(kind, numbers, frames, scale) for kind, numbers in said.items()}
    return replace(row, joints=packed.get("joints"), boxes=packed.get("boxes"))


def _with_flow(
    rows: Iterator[ClipRow],
    storage: ClipStorage,
    found: Scan,
    spans: list[list[int]],
    decoded: Iterator[VideoFrame],
    allow: Callable[[float], None] | None,
) -> Iterator[ClipRow]:
    """The rows with flow of a pass of its own over the video: dear as flow is, another decoding hardly counts."""
    assert storage.flow != "none"
    width, height = _size(storage, found)
    if allow is not None:
        allow(allowance(storage.flow, sum(map(len, spans)), width * height))
    kept = _kept_frames(decoded, [number for span in spans for number in span])
    pixels = (upright(frame, width, height, found.rotation) for frame in kept)
    flows = segment_flows(pixels, [len(span) for span in spans], storage.flow, storage.flow_bound)
    try:
        yield from (replace(row, flow=flow) for row, flow in zip(rows, flows, strict=True))
    except av.FFmpegError as error:
        raise Refused("flow", explain(error)) from None


def _size(storage: ClipStorage, found: Scan) -> tuple[int, int]:
    """(width, height) of a stored frame."""
    if storage.storage == "source":
        return found.width, found.height
    return fitted(found.width, found.height, storage.short_side)


def _pictures(source: Source, storage: ClipStorage) -> Pictures | None:
    """The pictures of a source that is a folder."""
    if not Path(source.uri).is_dir():
        return None
    fps = source.fps or storage.frames_fps
    return find_pictures(source.uri, fps, source.start_frame, source.num_frames, storage.frames_prefix)


def _taken(source: Source, count: int) -> range:
    """The frames of a video file that a list asks for, of ``count``."""
    if source.start_frame is None:
        return range(count)
    stop = count if source.num_frames is None else source.start_frame + source.num_frames
    if stop > count or stop - source.start_frame < MIN_FRAMES:
        wanted = f"frames {source.start_frame} to {stop - 1}"
        raise Refused("list", f"{wanted} are asked for; it has 0 to {count - 1}, and a clip needs {MIN_FRAMES} frames")
    return range(source.start_frame, stop)


def keep(times: list[float], fps: float, wanted: float | None) -> tuple[list[int], float]:
    """Indices of the frames to keep so that at most ``wanted`` (default 30) a second remain, and their rate.

    Every frame where the source is not faster; else, for each instant of a regular grid, the frame on screen.
    """
    target = wanted or MAX_FPS
    if fps <= target * _TOLERANCE:
        return list(range(len(times))), fps
    kept: list[int] = []
    tick, step = 0, 1 / target
    for number, following in enumerate([*times[1:], times[-1] + 1 / fps]):
        # On screen at an instant of the grid or at several; a nanosecond forgives rounding.
        until = following - times[0] - 1e-9
        if tick * step < until:
            kept.append(number)
            tick = math.floor(until / step) + 1
    return kept, target


def cut(times: list[float], fps: float, max_seconds: float) -> list[tuple[int, int]]:
    """Cut frames shown at ``times`` into pieces [start, stop) of equal length, at most ``max_seconds`` each.

    A piece that would hold a single frame joins its neighbour, the one case in which a piece may be longer.
    """
    length = times[-1] + 1 / fps - times[0]
    count = max(1, math.ceil(length / max_seconds - 1e-6))
    piece = [min(count - 1, int((time - times[0]) / length * count + 1e-9)) for time in times]
    starts = [0] + [n for n in range(1, len(times)) if piece[n] != piece[n - 1]]
    bounds = [*starts, len(times)]
    joined: list[tuple[int, int]] = []
    for start, stop in pairwise(bounds):
        if joined and (stop - start < 2 or joined[-1][1] - joined[-1][0] < 2):
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


def _encoded_rows(
    source: Source,
    storage: ClipStorage,
    found: Scan,
    spans: list[list[int]],
    fps: float,
    decoded: Iterator[VideoFrame],
) -> Iterator[ClipRow]:
    width, height = _size(storage, found)
    frames = _kept_frames(decoded, [number for span in spans for number in span])
    for span in spans:
        encoder = encoder_of(storage, width, height, found.rotation, fps)
        try:
            for _ in span:
                encoder.add(next(frames))
            yield _encoded_row(source, storage, found, span, fps, (width, height), encoder.finish())
        except (av.FFmpegError, StopIteration) as error:
            raise Refused("encode", explain(error)) from None


def _decoded(uri: str, max_pixels: int, pictures: Pictures | None) -> Iterator[VideoFrame]:
    if pictures is not None:
        yield from read_pictures(pictures, max_pixels)
        return
    with open_video(uri, max_pixels=max_pixels) as (container, stream):
        yield from container.decode(stream)


def _kept_frames(decoded: Iterator[VideoFrame], numbers: list[int]) -> Iterator[VideoFrame]:
    wanted = iter(numbers)
    following = next(wanted, None)
    for number, frame in enumerate(decoded):
        if number == following:
            yield frame
            following = next(wanted, None)


def _encoded_row(
    source: Source,
    storage: ClipStorage,
    found: Scan,
    span: list[int],
    fps: float,
    size: tuple[int, int],
    encoded: Encoded,
) -> ClipRow:
    return ClipRow(
        keyframes=encoded.keyframes,
        packet_lengths=encoded.packet_lengths,
        storage=storage.storage,
        payload=encoded.payload,
        width=size[0],
        height=size[1],
        sha256=hashlib.sha256(encoded.payload).hexdigest(),
        **_common(source, found, span, fps),
    )


def _pointing_rows(
    source: Source, found: Scan, spans: list[list[int]], fps: float, pictures: Pictures | None
) -> Iterator[ClipRow]:
    if pictures is not None:
        yield from (_picture_row(source, found, span, fps, pictures) for span in spans)
        return
    size = Path(source.uri).stat().st_size
    with Path(source.uri).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    exact = not found.counted and seeks_exactly(source.uri, found)
    keyframes = set(found.keyframes)
    for span in spans:
        worth_a_seek = [n for n, number in enumerate(span) if n == 0 or number in keyframes]
        yield ClipRow(
            keyframes=None if found.counted else worth_a_seek if exact else [],
            packet_lengths=[_GIB] * (size // _GIB) + [size % _GIB],
            storage="source",
            payload=None,
            width=found.width,
            height=found.height,
            sha256=digest,
            **_common(source, found, span, fps),
        )


def _picture_row(source: Source, found: Scan, span: list[int], fps: float, pictures: Pictures) -> ClipRow:
    names = [pictures.names[number] for number in span]
    payload = pack_pictures(pictures.folder, names)
    return ClipRow(
        keyframes=list(range(len(span))),
        packet_lengths=[(pictures.folder / name).stat().st_size for name in names],
        storage="source",
        payload=payload,
        width=found.width,
        height=found.height,
        sha256=hashlib.sha256(payload).hexdigest(),
        **_common(source, found, span, fps),
    )


def _common(source: Source, found: Scan, span: list[int], fps: float) -> dict[str, Any]:
    last = span[-1] + 1
    return {
        "source_id": source.source_id,
        "uri": source.uri,
        "start_s": found.times[span[0]],
        "end_s": found.times[last] if last < len(found.times) else found.end,
        "timestamps": [found.times[number] for number in span],
        "fps": fps,
        "rotation": found.rotation,
        "label": source.label,
        "label_name": source.label_name,
        "split": source.split,
    }
