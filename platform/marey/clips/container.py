"""What a container's own bytes say of damage: AVI's and Matroska's lengths and checksums, a transport stream's steps.

FFmpeg passes over all of it: it looks for the next thing that it knows and goes on.
"""

import os
import re
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.stream import VideoStream

from marey.clips.video import Refused

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


def check_container(container: InputContainer, stream: VideoStream) -> None:
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
