"""One strict pass over a whole video: is it sound, and at what time is each of its frames shown?

FFmpeg conceals most damage. `scan` lets the decoder raise on it, looks for frames marked corrupt, compares what came
out with what the container promises, and looks at what FFmpeg does not: checksums and lengths of the container, bytes
that a codec rules out. A video that breaks half-way is refused whole; the reason says how many frames could be read.
"""

import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from marey.clips.video import MAX_PIXELS, Refused, check_pixels, explain, open_video, rotation_of, witness_of

MIN_FRAMES = 2
# Less than this share of the promised duration is a truncated file; headers are often a frame or two out.
_COMPLETE = 0.9
# Codecs may hide reference frames in packets of their own, and interlaced fields take a packet each.
_DECODED = 0.45
# Within a slice of H.264 or HEVC these would be the start of a next unit.
_START_CODE = re.compile(rb"\x00\x00(?:[\x00-\x02]|\x03[^\x00-\x03])")
# These containers state no duration; FFmpeg guesses one from the bit rate.
_NO_PROMISE = {"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v", "obu"}
# Transport streams: the byte that begins a packet, lengths of packets, and how many are looked at at once.
_TS_SYNC = 0x47
_TS_LENGTHS = (188, 192, 204)
_TS_TRIAL, _TS_PACKETS = 8, 4096
_TS_HEAD = 204 * (_TS_TRIAL + 1)
# AVI: what names a chunk within the list of frames.
_AVI_CHUNK = re.compile(rb"[0-9A-Fa-f]{2}[ -~]{2}|ix[0-9A-Fa-f]{2}|JUNK|LIST|rec |idx1")
# Matroska: ids of elements, and the first two bytes of a checksum.
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_CRC = b"\xbf\x84"
_ANYWHERE = {0xBF, 0xEC}
_TOP = frozenset({0x114D9B74, 0x1549A966, 0x1654AE6B, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367})
_TOP |= _ANYWHERE
_IN_CLUSTER = frozenset({0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0x5854, 0xAF} | _ANYWHERE)


@dataclass(frozen=True)
class Scan:
    """What a full decode of a video found.

    ``times``: seconds at which each frame is shown, in display order, strictly increasing, on the source's own clock;
    ``counted``: whether the source's timestamps lie or are missing, so that ``times`` are frame number / rate;
    ``keyframes``: indices of frames marked as such; ``width``, ``height``: pixels of an upright frame;
    ``rotation``: degrees clockwise from stored to upright; ``fps``: mean frames a second;
    ``checksums``: crc32 of each frame's first plane (empty unless asked for).
    """

    times: list[float]
    counted: bool
    keyframes: list[int]
    fps: float
    width: int
    height: int
    rotation: int
    checksums: list[int]

    @property
    def end(self) -> float:
        """Seconds at which the last frame ends, taking it to last as long as the average one."""
        return self.times[-1] + 1 / self.fps


@dataclass
class _Tally:
    """What has been seen so far during a scan."""

    packets: int = 0
    times: list[float | None] = field(default_factory=list)
    keyframes: list[int] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)
    shape: tuple[int, int, int] | None = None  # width, height, rotation as stored


def frame_time(frame: VideoFrame) -> float | None:
    """Seconds on the source's own clock at which ``frame`` is shown, None where the source does not say."""
    return None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)


def frame_rate(stream: VideoStream) -> float:
    """Frames a second by which frames are counted where timestamps cannot be trusted."""
    for rate in (stream.guessed_rate, stream.average_rate):
        if rate and 0 < rate <= 300:
            return float(rate)
    return 25.0


def scan(path: str | Path, *, max_pixels: int = MAX_PIXELS, checksums: bool = False) -> Scan:
    """Decode all of ``path`` once, strictly. Raises `Refused` (stage "probe" or "decode") with the reason."""
    with open_video(path, strict=True, max_pixels=max_pixels) as (container, stream):
        tally = _Tally()
        try:
            for frame in _frames(container, stream, tally):
                _note(frame, tally, max_pixels, checksums)
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError) as error:
            raise Refused("decode", f"damaged: {len(tally.times)} frames readable, then {explain(error)}") from None
        return _conclude(container, stream, tally)


def _frames(container: InputContainer, stream: VideoStream, tally: _Tally) -> Iterator[VideoFrame]:
    witness, forbidden = witness_of(stream), _forbidden(stream)
    for packet in container.demux(stream):
        tally.packets += packet.size > 0 and not packet.is_discard
        if forbidden is not None and forbidden(bytes(packet)):
            raise Refused("decode", f"damaged: {len(tally.times)} frames readable, then bytes that no encoder writes")
        yield from packet.decode()
        if witness is not None and packet.size:
            witness.decode(packet)


def _forbidden(stream: VideoStream) -> Callable[[bytes], bool] | None:
    """Whether a packet of H.264 or HEVC holds, within a slice, bytes that would read as the start of a next unit.

    Encoders put a 3 between; runs of zeros and exchanged blocks bring them in, and decoders do not look.
    """
    codec, extra = stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b""
    at = {"h264": 4, "hevc": 21}.get(codec)
    if at is None:
        return None
    length = (extra[at] & 3) + 1 if len(extra) > at and extra[0] == 1 else 0

    def found(packet: bytes) -> bool:
        units = _prefixed(packet, length) if length else packet.split(b"\0\0\1")[1:]
        return any(_is_slice(unit, codec) and _START_CODE.search(unit.rstrip(b"\0")) for unit in units)

    return found


def _prefixed(packet: bytes, length: int) -> Iterator[bytes]:
    position = 0
    while position + length < len(packet):
        start = position + length
        position = start + int.from_bytes(packet[position:start])
        yield packet[start:position]


def _is_slice(unit: bytes, codec: str) -> bool:
    if not unit:
        return False
    return unit[0] & 31 in (1, 5) if codec == "h264" else unit[0] >> 1 & 63 < 32


def _note(frame: VideoFrame, tally: _Tally, max_pixels: int, checksums: bool) -> None:
    number = len(tally.times)
    if frame.is_corrupt:
        raise Refused("decode", f"damaged: {number} frames readable, then a corrupt one")
    check_pixels(frame.width, frame.height, max_pixels)
    shape = (frame.width, frame.height, rotation_of(frame))
    if tally.shape not in (None, shape):
        raise Refused("decode", f"frame size changes from {_size(tally.shape)} to {_size(shape)} after {number} frames")
    tally.shape = shape
    tally.times.append(frame_time(frame))
    if frame.key_frame:
        tally.keyframes.append(number)
    if checksums:
        tally.checksums.append(checksum(frame))


def _size(shape: tuple[int, int, int] | None) -> str:
    return "{} x {} (turned by {})".format(*shape) if shape else "none"


def checksum(frame: VideoFrame) -> int:
    """crc32 of the first plane of ``frame``, padding of its lines left out."""
    first = frame.planes[0]
    line = first.line_size
    used = min(line, first.width * (first.buffer_size // max(1, line * first.height)) or line)
    data = memoryview(first)
    value = 0
    for row in range(first.height):
        value = zlib.crc32(data[row * line : row * line + used], value)
    return value


def _conclude(container: InputContainer, stream: VideoStream, tally: _Tally) -> Scan:
    count = len(tally.times)
    if tally.shape is None:
        raise Refused("decode", "no frame can be read from its video stream")
    if count < MIN_FRAMES:
        raise Refused("probe", f"holds {count} frame; a clip needs at least {MIN_FRAMES}")
    if count < _DECODED * tally.packets:
        raise Refused("decode", f"damaged: only {count} of {tally.packets} coded frames can be decoded")
    times, counted = _clock(tally.times, frame_rate(stream))
    fps = frame_rate(stream) if counted else (count - 1) / (times[-1] - times[0])
    latest = max(time for time in [times[-1], *tally.times] if time is not None)
    _check_promise(container, stream, count, latest + 1 / fps, latest + 1 / fps - times[0])
    _check_container(container, stream)
    width, height, rotation = tally.shape
    if rotation in (90, 270):
        width, height = height, width
    return Scan(times, counted, tally.keyframes, fps, width, height, rotation, tally.checksums)


def _clock(times: list[float | None], rate: float) -> tuple[list[float], bool]:
    """Real times where every frame has one and they increase, else frame number / rate; and whether counted."""
    real = [time for time in times if time is not None]
    if len(real) == len(times) and all(a < b for a, b in pairwise(real)):
        return real, False
    return [number / rate for number in range(len(times))], True


def _check_promise(container: InputContainer, stream: VideoStream, count: int, end: float, length: float) -> None:
    """``end``: seconds at which the last frame ends; ``length``: from the first frame on. Headers mean either."""
    promised = _promised_seconds(container, stream)
    if promised is not None and max(end, length) < _COMPLETE * promised:
        raise Refused(
            "decode", f"truncated: {count} frames readable ({length:.2f} s) of the {promised:.2f} s it promises"
        )


def _promised_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    if container.format.name in _NO_PROMISE:
        return None
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION", "").split(":")
    if len(tag) == 3:
        try:
            return int(tag[0]) * 3600 + int(tag[1]) * 60 + float(tag[2])
        except ValueError:
            return None
    only_video = all(other.type == "video" for other in container.streams)
    return container.duration / 1e6 if only_video and container.duration else None


def _check_container(container: InputContainer, stream: VideoStream) -> None:
    """Raise `Refused` where the file contradicts itself: FFmpeg passes over it, and looks at no checksum."""
    finder = {"avi": _avi_damage, "matroska,webm": _matroska_damage, "mpegts": _mpegts_damage}.get(
        container.format.name
    )
    if finder is None:
        return
    with Path(container.name.removeprefix("file:")).open("rb") as file:
        if damage := finder(file, os.fstat(file.fileno()).st_size, stream):
            raise Refused("decode", f"damaged: {damage}")


def _avi_damage(file: BinaryIO, size: int, stream: VideoStream) -> str | None:
    """Chunks fill the list of frames exactly. The file may end before the list does: cameras lose power."""
    position = 0
    while chunk := _avi_chunk(file, position):
        name, kind, end = chunk
        if (name, kind) == (b"LIST", b"movi") and (damage := _avi_list_damage(file, position + 12, end)):
            return damage
        position = position + 12 if name == b"RIFF" else end
    return None


def _avi_list_damage(file: BinaryIO, position: int, end: int) -> str | None:
    while position + 8 <= end and (chunk := _avi_chunk(file, position)):
        name, _, stop = chunk
        if not _AVI_CHUNK.fullmatch(name) or stop > end + 1:
            return f"no sound chunk of AVI at byte {position}"
        position = stop
    return None


def _avi_chunk(file: BinaryIO, position: int) -> tuple[bytes, bytes, int] | None:
    """Name, kind (of a list) and end of the chunk at ``position``, an even number of bytes from its start."""
    file.seek(position)
    head = file.read(12)
    length = int.from_bytes(head[4:8], "little")
    return (head[:4], head[8:], position + 8 + length + length % 2) if len(head) >= 8 else None


def _mpegts_damage(file: BinaryIO, size: int, stream: VideoStream) -> str | None:
    """Packets of a transport stream have one length, and each begins with the same byte."""
    head = file.read(_TS_HEAD)
    strides = ((start, stride) for stride in _TS_LENGTHS for start in range(stride))
    regular = ((start, stride) for start, stride in strides if _in_step(head[start::stride][:_TS_TRIAL]))
    start, stride = next(regular, (0, 0))
    if stride == 0:
        return None
    file.seek(start)
    last = None
    for position in range(start, size, stride * _TS_PACKETS):
        piece = file.read(stride * _TS_PACKETS)
        if not _in_step(piece[::stride]):
            return f"packets of the transport stream out of step after byte {position}"
        whole = np.frombuffer(piece, np.uint8, len(piece) // stride * stride).reshape(-1, stride)
        broken, last = _breaks(whole, stream.id, last)
        if broken:
            return f"packets of the transport stream missing after byte {position}"
    return None


def _breaks(packets: npt.NDArray[np.uint8], stream: int, last: int | None) -> tuple[bool, int | None]:
    """Whether the count that packets of one stream carry jumps within a frame; and the last count seen.

    It may jump where a frame begins or a packet says so: there recordings are joined.
    """
    ids = (packets[:, 1].astype(int) & 0x1F) << 8 | packets[:, 2]
    own = packets[(ids == stream) & (packets[:, 3] & 0x10 > 0)].astype(int)
    if not len(own):
        return False, last
    counts = own[:, 3] & 15
    steps = np.diff(counts, prepend=counts[0] - 1 if last is None else last) % 16
    begins = own[:, 1] & 0x40 > 0
    announced = (own[:, 3] & 0x20 > 0) & (own[:, 4] > 0) & (own[:, 5] & 0x80 > 0)
    jumps = (steps > 1) & ~begins & ~announced  # 0: a packet may be sent twice
    return bool(jumps.any()), int(counts[-1])


def _in_step(firsts: bytes) -> bool:
    return firsts.count(_TS_SYNC) == len(firsts) > 0


def _matroska_damage(file: BinaryIO, size: int, stream: VideoStream) -> str | None:
    """Elements fill their parent exactly, and may begin with a CRC-32 of the rest: FFmpeg writes one in each."""
    head = _element(file, 0)
    segment = _element(file, head[1] + (head[2] or 0)) if head else None
    if segment is None or segment[0] != _SEGMENT:
        return None
    _, start, length = segment
    return _children_damage(file, start, size if length is None else start + length, _TOP, recorded=length is None)


def _children_damage(file: BinaryIO, position: int, end: int, known: frozenset[int], recorded: bool) -> str | None:
    """``recorded``: written while it was filmed, without a length; such a file may end anywhere."""
    while position < end:
        found = _element(file, position)
        if found is None or found[0] not in known:
            return f"no element of Matroska at byte {position}"
        kind, start, length = found
        if length is None:  # lasts until a next one of its kind: its children are looked at like neighbours
            known, position = known | _IN_CLUSTER, start
            continue
        position = start + length
        if position > end:
            return None if recorded else f"the element of Matroska at byte {start} ends too late"
        holds = _crc_holds(file, start, length) if kind in _TOP else None
        if holds is False:
            return f"bytes {start} to {position} do not match their checksum"
        if kind == _CLUSTER and not holds:
            damage = _children_damage(file, start, position, _IN_CLUSTER, recorded=False)
            if damage:
                return damage
    return None


def _element(file: BinaryIO, position: int) -> tuple[int, int, int | None] | None:
    """Id, first byte and length of the content of the element at ``position``; no length where it is not known."""
    file.seek(position)
    head = file.read(12)
    id_bytes = 9 - head[0].bit_length() if head else 9
    if id_bytes > 4 or len(head) <= id_bytes:
        return None
    size_bytes = 9 - head[id_bytes].bit_length()
    if size_bytes > 8 or len(head) < id_bytes + size_bytes:
        return None
    unknown = (1 << 7 * size_bytes) - 1
    length = int.from_bytes(head[id_bytes : id_bytes + size_bytes]) & unknown
    start = position + id_bytes + size_bytes
    return int.from_bytes(head[:id_bytes]), start, None if length == unknown else length


def _crc_holds(file: BinaryIO, start: int, length: int) -> bool | None:
    """Whether an element matches the checksum at its start; None where it has none."""
    file.seek(start)
    head = file.read(6)
    if length < 6 or head[:2] != _CRC:
        return None
    value, left = 0, length - 6
    while left > 0 and (piece := file.read(min(left, 1 << 20))):
        value = zlib.crc32(piece, value)
        left -= len(piece)
    return value == int.from_bytes(head[2:], "little")
