"""Pictures to look at while training: what the model was given, what was hidden from it, what it made of that."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROWS = ("original", "masked", "reconstructed")

_SHORTEST_FRAME = 112  # frames smaller than this (pixels) are enlarged
_GAP = 4
_BETWEEN_ROWS = 8
_MARGIN = 12
_FONT_PIXELS = 15
_BACKGROUND = (255, 255, 255)
_INK = (60, 64, 72)


def reconstruction_strip(
    original: np.ndarray, masked: np.ndarray, reconstructed: np.ndarray, num_frames: int = 8
) -> np.ndarray:
    """Three captioned rows of evenly spaced frames, one below the other: uint8 [H, W, 3] RGB.

    The inputs are clips of one shape [T, h, w, C] with C = 1 or 3, float in 0..1 (what is outside is cut off, not
    finite is black) or uint8. Small frames are enlarged by a whole factor, without smoothing, so that every pixel of
    the model's input stays visible.
    """
    clips = [_to_pixels(clip) for clip in (original, masked, reconstructed)]
    assert len({clip.shape for clip in clips}) == 1, f"clips of different shapes: {[clip.shape for clip in clips]}"
    which = evenly_spaced(len(clips[0]), num_frames)
    return _captioned([_row(clip[which]) for clip in clips], ROWS)


def evenly_spaced(total: int, wanted: int) -> list[int]:
    """Up to ``wanted`` of ``total`` indices, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, total - 1, min(wanted, total))})


def _to_pixels(clip: np.ndarray) -> np.ndarray:
    """uint8 [T, h, w, 3]."""
    assert (clip.ndim, clip.shape[-1]) in ((4, 1), (4, 3)), f"expected [T, H, W, 1 or 3], got {clip.shape}"
    if clip.dtype != np.uint8:
        clip = np.nan_to_num(clip.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
        clip = (clip * 255).round().astype(np.uint8)
    return np.broadcast_to(clip, (*clip.shape[:-1], 3))


def _row(frames: np.ndarray) -> np.ndarray:
    """Frames [N, h, w, 3] side by side with thin gaps."""
    factor = -(-_SHORTEST_FRAME // min(frames.shape[1:3]))
    frames = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    number, height, width, _ = frames.shape
    row = np.full((height, number * (width + _GAP) - _GAP, 3), _BACKGROUND, np.uint8)
    for place, frame in enumerate(frames):
        left = place * (width + _GAP)
        row[:, left : left + width] = frame
    return row


def _captioned(rows: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Rows of equal size one below the other, each with its caption at the left."""
    height, width, _ = rows[0].shape
    column = round(max(_font().getlength(caption) for caption in captions)) + _MARGIN
    size = (_MARGIN + column + width + _MARGIN, 2 * _MARGIN + len(rows) * (height + _BETWEEN_ROWS) - _BETWEEN_ROWS)
    picture = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for place, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top = _MARGIN + place * (height + _BETWEEN_ROWS)
        picture.paste(Image.fromarray(row), (_MARGIN + column, top))
        draw.text((column, top + height / 2), caption, _INK, _font(), anchor="rm")
    return np.asarray(picture).copy()


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_PIXELS)
