"""Frames out of a source video or a clip-table row, exactly and fast.

`decode_frames` goes through a whole source. `read_frames` takes the frames that a training sample needs: the packets
of the groups they lie in, or a seek into the source, and nothing after the last one. Whatever the order of access,
a frame equals the one that a full sequential decode gives.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from marey.clips.frames import decode_picture, read_picture, unpack_pictures
from marey.clips.planes import Planes
from marey.clips.probe import Scan, checksum, frame_rate, frame_time, scan
from marey.clips.row import ClipRow
from marey.clips.video import Pixels, Refused, explain, open_video, to_rgb
from marey.errors import ClipError

# A seek costs about as much as decoding this many frames.
_SEEK_FRAMES = 12
# Sources whose hash a process keeps in mind, at some 300 bytes each.
_REMEMBERED = 65536
# Decoders that heed skip_frame from packet to packet; leaving out unreferenced frames saves up to a quarter.
_SKIPPING = {"h264", "hevc"}
_CODECS = {"h264": "h264", "jpeg": "mjpeg"}


def decode_frames(path: str | Path, found: Scan | None = None) -> Iterator[tuple[float, Pixels]]:
    """Every frame of a video as (seconds, uint8 RGB [H, W, 3] upright), in display order.

    The first pass (`scan`) settles the times: those of the source where they increase from frame to frame, else
    frame number / rate. Pass its result as ``found`` where it is known. Raises `Refused` for a damaged video.
    Pixels are taken as stored: sample aspect ratio is ignored.
    """
    found = found or scan(path)
    with open_video(path) as (container, stream):
        for time, frame in zip(found.times, container.decode(stream), strict=False):
            yield time, to_rgb(frame, found.rotation).copy()


def read_frames(row: ClipRow, indices: Sequence[int]) -> Pixels:
    """The frames ``row.timestamps[i] for i in indices`` as uint8 RGB [T, H, W, 3]; any order, repeats allowed.

    Raises `ClipError` naming the clip where an index does not exist, the payload does not decode, or the source
    (storage "source") is gone or is not the file it was when the table was prepared.
    """
    wanted, slots = _slots(row, indices)
    if row.storage == "raw":
        return _pixels(row)[list(indices)]
    out = np.empty((len(wanted), row.height, row.width, 3), np.uint8)

    def put(slot: int, frame: VideoFrame, rotation: int) -> tuple[int, int]:
        pixels = to_rgb(frame, rotation)
        if pixels.shape == out.shape[1:]:
            out[slot] = pixels
        return pixels.shape[0], pixels.shape[1]

    _read(row, wanted, put)
    return out if slots == list(range(len(wanted))) else out[slots]


def read_planes(row: ClipRow, indices: Sequence[int]) -> Planes:
    """The same frames as YUV 4:2:0, which spares a conversion where they are stored so.

    Frames of another layout, and storage "raw", are converted to it. Raises `ClipError` as `read_frames`.
    """
    wanted, slots = _slots(row, indices)
    out = Planes.empty(len(wanted), row.height, row.width)
    if row.storage == "raw":
        pixels = _pixels(row)
        for slot, index in enumerate(wanted):
            out.put(slot, VideoFrame.from_ndarray(pixels[index], format="rgb24"))
    else:
        _read(row, wanted, out.put)
    return out if slots == list(range(len(wanted))) else out[slots]


def _slots(row: ClipRow, indices: Sequence[int]) -> tuple[list[int], list[int]]:
    """The distinct indices in order, and where among them each of ``indices`` is."""
    wanted = sorted(set(indices))
    if not wanted or wanted[0] < 0 or wanted[-1] >= row.num_frames:
        raise ClipError(f"{row.clip_id}: frames {list(indices)} asked for, it has frames 0 to {row.num_frames - 1}")
    place = {index: slot for slot, index in enumerate(wanted)}
    return wanted, [place[index] for index in indices]


def _read(row: ClipRow, wanted: list[int], put_in: Callable[[int, VideoFrame, int], tuple[int, int]]) -> None:
    """Decode ``wanted``, and let ``put_in`` take slot, frame and rotation; it says the height and width it found."""
    place = {index: slot for slot, index in enumerate(wanted)}
    rotation = row.rotation if row.storage == "source" else 0

    def put(index: int, frame: VideoFrame) -> None:
        height, width = put_in(place[index], frame, rotation)
        if (height, width) != (row.height, row.width):
            raise ClipError(_changed(row, f"frames of {width} x {height}"))

    read = _read_packets if row.storage != "source" else _read_source if row.payload is None else _read_pictures
    try:
        read(row, wanted, put)
    except (av.FFmpegError, Refused) as error:
        raise ClipError(f"{row.clip_id} ({row.uri}): cannot be decoded: {explain(error)}") from None


def verify_row(row: ClipRow) -> None:
    """Compare the payload, the source file or its pictures with their sha256; `ClipError` where they differ."""
    if row.payload is None:
        _check_source(row)
        return
    if (digest := hashlib.sha256(row.payload).hexdigest()) != row.sha256:
        raise ClipError(f"{row.clip_id}: sha256 is {digest}, the table says {row.sha256}; prepare the table again")
    if row.storage == "source":
        for name, its_digest in unpack_pictures(row.payload):
            _sound_picture(row, name, its_digest)


def seeks_exactly(path: str | Path, found: Scan) -> bool:
    """Whether seeking in this file gives the frames of a sequential decode, tried around its keyframes and between.

    ``found`` must hold checksums. Recovery points of some encoders, and some containers, look like keyframes and are
    none.
    """
    count = len(found.times)
    row = _whole(path, found)
    near = {key + step for key in _spread(found.keyframes, 4) for step in (-1, 0, 1)}
    trial = sorted({number for number in near if 0 <= number < count} | set(_spread(range(count), 4)))
    got: dict[int, int] = {}
    with open_video(path) as (container, stream):
        for number in trial:
            missing = {number}
            try:
                _take_sought(
                    row, container, stream, [number], missing, lambda n, frame: got.update({n: checksum(frame)})
                )
            except av.FFmpegError:
                return False
    return all(got.get(number) == found.checksums[number] for number in trial)


def _spread(values: Sequence[int], count: int) -> list[int]:
    return [values[round(place)] for place in np.linspace(0, len(values) - 1, count)] if values else []


def _whole(path: str | Path, found: Scan) -> ClipRow:
    """A row that stands for all of a source."""
    return ClipRow(
        source_id=str(path),
        uri=str(path),
        start_s=found.times[0],
        end_s=found.end,
        timestamps=found.times,
        keyframes=[0, *(key for key in found.keyframes if key)],
        packet_lengths=None,
        storage="source",
        payload=None,
        fps=found.fps,
        width=found.width,
        height=found.height,
        rotation=found.rotation,
        label=None,
        label_name=None,
        split=None,
        sha256="",
    )


Put = Callable[[int, VideoFrame], None]


def _read_packets(row: ClipRow, wanted: list[int], put: Put) -> None:
    """Storages "h264" and "jpeg": decode the groups that hold wanted frames, each up to its last wanted frame."""
    assert row.payload is not None
    assert row.packet_lengths is not None
    assert row.keyframes is not None
    ends = np.cumsum(row.packet_lengths)
    context = av.CodecContext.create(_CODECS[row.storage], "r")
    assert isinstance(context, VideoCodecContext)
    context.thread_count = 1
    context.flags |= Flags.low_delay
    missing = set(wanted)

    def take(frames: list[VideoFrame]) -> None:
        for frame in frames:
            if frame.pts in missing:
                missing.remove(frame.pts)
                put(frame.pts, frame)

    position = 0
    for index in wanted:
        position = max(position, row.keyframes[bisect_right(row.keyframes, index) - 1])
        for number in range(position, index + 1):
            packet = Packet(row.payload[ends[number] - row.packet_lengths[number] : ends[number]])
            packet.pts = packet.dts = number
            take(context.decode(packet))
        position = index + 1
    take(context.decode(None))
    if missing:
        raise ClipError(f"{row.clip_id}: frames {sorted(missing)} do not decode; the payload is damaged")


def _pixels(row: ClipRow) -> Pixels:
    """Storage "raw": a view of all frames."""
    assert row.payload is not None
    shape = (row.num_frames, row.height, row.width, 3)
    if len(row.payload) != math.prod(shape):
        raise ClipError(f"{row.clip_id}: a payload of {len(row.payload)} bytes for frames {shape}; prepare it again")
    return np.frombuffer(row.payload, np.uint8).reshape(shape)


def _read_source(row: ClipRow, wanted: list[int], put: Put) -> None:
    """Storage "source": by seeking where that is exact, else from the start, by time or by counting."""
    _check_source(row)
    missing = set(wanted)
    if row.keyframes:
        with open_video(row.uri) as (container, stream):
            _take_sought(row, container, stream, wanted, missing, put)
    if missing:
        with open_video(row.uri) as (container, stream):
            take = _take_counted if row.keyframes is None else _take_timed
            take(row, stream, container.decode(stream), missing, put)
    if missing:
        raise ClipError(_changed(row, f"no frames at {[round(row.timestamps[i], 3) for i in sorted(missing)]} s"))


def _check_source(row: ClipRow) -> None:
    """Size and hash of the file; the hash once in a process, as long as the file's time stays what it was."""
    try:
        status = Path(row.uri).stat()
        if row.packet_lengths is not None and status.st_size != sum(row.packet_lengths):
            raise ClipError(_changed(row, f"a file of {status.st_size} bytes instead of {sum(row.packet_lengths)}"))
        digest = _digest(row.uri, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise ClipError(_changed(row, f"no readable file ({error.strerror})")) from None
    if digest != row.sha256:
        raise ClipError(_changed(row, f"other bytes (sha256 {digest} instead of {row.sha256})"))


@lru_cache(maxsize=_REMEMBERED)
def _digest(path: str, size: int, changed_ns: int) -> str:
    """The sha256 of a file; its size and time of change only tell one state of it from another."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_pictures(row: ClipRow, wanted: list[int], put: Put) -> None:
    """Storage "source" of a folder: the pictures asked for, and no other."""
    assert row.payload is not None
    pictures = unpack_pictures(row.payload)
    for index in wanted:
        name, digest = pictures[index]
        put(index, decode_picture(_sound_picture(row, name, digest)))


def _sound_picture(row: ClipRow, name: str, digest: str) -> bytes:
    try:
        data = read_picture(Path(row.uri, name))
    except (Refused, OSError) as error:
        reason = error.reason if isinstance(error, Refused) else error.strerror
        raise ClipError(_changed(row, f"{name}: {reason}")) from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ClipError(_changed(row, f"{name}: other bytes"))
    return data


def _changed(row: ClipRow, found: str) -> str:
    what = "has changed since the table was prepared" if row.storage == "source" else "does not match its row"
    return f"{row.clip_id}: {row.uri} {what}: found {found}; put the file back or prepare the table again"


def _take_counted(row: ClipRow, stream: VideoStream, frames: Iterator[VideoFrame], missing: set[int], put: Put) -> None:
    rate = frame_rate(stream)
    numbers = {round(row.timestamps[index] * rate): index for index in missing}
    for number, frame in enumerate(frames):
        if number in numbers:
            missing.discard(numbers[number])
            put(numbers[number], frame)
        if not missing:
            return


def _take_timed(row: ClipRow, stream: VideoStream, frames: Iterator[VideoFrame], missing: set[int], put: Put) -> None:
    times = {row.timestamps[index]: index for index in missing}
    for frame in frames:
        index = times.get(frame_time(frame) or 0.0)
        if index in missing:
            missing.discard(index)
            put(index, frame)
        if not missing:
            return


def _take_sought(
    row: ClipRow, container: InputContainer, stream: VideoStream, wanted: list[int], missing: set[int], put: Put
) -> None:
    """Take ``wanted`` by seeking; what stays in ``missing`` is where the container led past the frame asked for."""
    for group in _groups(row, wanted):
        _seek(stream, row.timestamps[group[0]], container)
        times = {row.timestamps[index] for index in group}
        _take_timed(row, stream, _needed(container, stream, times), missing, put)


def _groups(row: ClipRow, wanted: list[int]) -> list[list[int]]:
    """Runs of wanted frames that are read with one seek: a new one where a keyframe lies far enough ahead."""
    assert row.keyframes is not None
    groups = [[wanted[0]]]
    for index in wanted[1:]:
        at = bisect_right(row.keyframes, index) - 1
        if at >= 0 and row.keyframes[at] - groups[-1][-1] > _SEEK_FRAMES:
            groups.append([])
        groups[-1].append(index)
    return groups


def _seek(stream: VideoStream, seconds: float, container: InputContainer) -> None:
    assert stream.time_base is not None
    container.seek(round(seconds / stream.time_base), stream=stream, backward=True)


def _needed(container: InputContainer, stream: VideoStream, times: set[float]) -> Iterator[VideoFrame]:
    """Decode up to the last of ``times``, leaving out frames that are neither wanted nor referred to by others."""
    last = max(times)
    context = stream.codec_context
    can_skip = context.name in _SKIPPING
    for packet in container.demux(stream):
        shown = None if packet.pts is None else float(packet.pts * packet.time_base)
        if can_skip:
            context.skip_frame = "DEFAULT" if shown is None or shown in times else "NONREF"
        for frame in packet.decode():
            yield frame
            if (frame_time(frame) or 0.0) >= last:
                return
