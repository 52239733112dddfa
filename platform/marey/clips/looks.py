"""What a row looks like, in a few bytes: what survives re-encoding and scaling, and a thumbnail."""

import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from PIL import Image

from marey.clips.decode import read_frames
from marey.clips.row import ClipRow

FRAMES = 3  # of a row that are looked at
BITS = 64 * FRAMES
_BAND_BITS = 16
MOST_DIFFERENT_BITS = BITS // _BAND_BITS - 1  # of which all near pairs are found: they agree in a whole band
_FLAT = 4.0  # grey levels of deviation below which a frame has nothing to compare
_THUMBNAIL_PIXELS = 96
_SIDE = 32  # pixels of the small grey frames
_MOST_DIFFERENT = 0.1  # of the contrast within a frame
_MOST_MOVED = 0.25  # of the change from frame to frame
_STILL = 1.0  # grey levels of change below which nothing moves
_MOST_ALIKE = 50  # rows of one band that are compared with each other; more of them are alike already


@dataclass(frozen=True)
class Look:
    """One row's."""

    hashes: tuple[int, ...]
    """A 64-bit difference hash (Krawetz 2013) of each of three frames; empty where a frame is flat."""
    grey: bytes
    """The three frames at 32 × 32 pixels, one byte a pixel."""
    thumbnail: bytes
    """The middle one of them as JPEG, its longer side 96 pixels."""


def look(row: ClipRow) -> Look:
    """Decode three frames of a row, at a tenth, the middle and nine tenths. Raises `ClipError` as `read_frames`."""
    last = row.num_frames - 1
    pictures = [Image.fromarray(frame) for frame in read_frames(row, [last // 10, last // 2, last - last // 10])]
    hashes = tuple(found for picture in pictures if (found := _difference_hash(picture)) is not None)
    grey = b"".join(picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX).tobytes() for picture in pictures)
    small = pictures[FRAMES // 2]
    small.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return Look(hashes if len(hashes) == FRAMES else (), grey, file.getvalue())


def _difference_hash(picture: Image.Image) -> int | None:
    """Whether each of 8 × 8 places is brighter than its right neighbour; None for a picture without contrast."""
    pixels = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    if pixels.std() < _FLAT:
        return None
    return int.from_bytes(np.packbits(pixels[:, :-1] > pixels[:, 1:]).tobytes(), "big")


def near_duplicates(looks: Sequence[Look], sources: Sequence[str]) -> list[list[int]]:
    """Groups of rows of different sources that look alike, each row like another of its group.

    Alike: at most 11 of 192 bits differ, and so little of the pixels that it can be the same film encoded again. Rows
    that agree in one of twelve bands of bits are compared, so no such pair is missed and few are tried.
    """
    leader = list(range(len(looks)))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    words = [_bits(one.hashes) for one in looks]
    for one, other in _candidates(words):
        if sources[one] == sources[other] or find(one) == find(other):
            continue
        near = (words[one] ^ words[other]).bit_count() <= MOST_DIFFERENT_BITS
        if near and _alike(looks[one], looks[other]):
            leader[find(one)] = find(other)
    groups: dict[int, list[int]] = defaultdict(list)
    for row in range(len(looks)):
        groups[find(row)].append(row)
    return sorted(group for group in groups.values() if len(group) > 1)


def _alike(one: Look, other: Look) -> bool:
    """Whether two rows show the same picture and the same motion, as far as small grey frames tell.

    Films encoded again at 96 pixels instead of 256 differed by up to 0.05 and 0.21 (one nearly still film by 0.47, and
    is missed); different takes before one still camera from 0.02 on, but then by 0.22 and more: so both are asked.
    """
    first, second = (np.frombuffer(look.grey, np.uint8).reshape(FRAMES, -1).astype(np.float32) for look in (one, other))
    contrast = max(float(np.abs(first - first.mean(1, keepdims=True)).mean()), 1.0)
    moved, other_moved = first - first.mean(0), second - second.mean(0)
    motion = max(float(np.abs(moved).mean()), float(np.abs(other_moved).mean()), _STILL)
    return (
        float(np.abs(first - second).mean()) < _MOST_DIFFERENT * contrast
        and float(np.abs(moved - other_moved).mean()) < _MOST_MOVED * motion
    )


def _bits(hashes: tuple[int, ...]) -> int:
    return sum(one << 64 * place for place, one in enumerate(hashes))


def _candidates(words: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs that share a band; of a band that very many share, each with some of the others."""
    for shift in range(0, BITS, _BAND_BITS):
        bands: dict[int, list[int]] = defaultdict(list)
        for row, word in enumerate(words):
            if word:
                bands[word >> shift & (1 << _BAND_BITS) - 1].append(row)
        for rows in bands.values():
            yield from combinations(rows[:_MOST_ALIKE], 2)
            yield from ((first, row) for row in rows[_MOST_ALIKE:] for first in rows[:_MOST_ALIKE])
