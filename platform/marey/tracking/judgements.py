"""Pictures of what a classifier got wrong: the confusion matrix, and the clips that it mistook."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from marey.tracking.pictures import evenly_spaced

_BACKGROUND = (255, 255, 255)
_INK = (60, 64, 72)
_FAINT = (150, 154, 162)
_WRONG = (190, 60, 50)
_FULL = np.array((21, 76, 121))  # of a cell that holds its whole row
_MARGIN = 12
_MATRIX_PIXELS = 640
_MOST_COUNTS = 20  # classes up to which counts are written into the cells
_MOST_NAMES = 60  # classes up to which names are written
_LONGEST_NAME = 24  # letters
_FRAME_PIXELS = 112
_FRAMES = 6
_CAPTION_PIXELS = 220


def confusion_picture(confusion: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """A confusion matrix int [K, K] (row: true class) as uint8 [H, W, 3]: the darker, the larger a row's share.

    Names and counts are written as far as there is room for them.
    """
    classes = len(confusion)
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    cell = max(1, _MATRIX_PIXELS // classes)
    named = classes <= _MOST_NAMES
    font = _font(max(9, min(15, cell - 2)))
    labels = [_short(name) for name in names] if named else []
    left = _MARGIN + round(max((font.getlength(label) for label in labels), default=40)) + 8
    top = left if named else _MARGIN + 24
    picture = Image.new("RGB", (left + cell * classes + _MARGIN, top + cell * classes + 40), _BACKGROUND)
    colours = (255 + shares[..., None] * (_FULL - 255)).round().astype(np.uint8)
    picture.paste(Image.fromarray(colours.repeat(cell, 0).repeat(cell, 1)), (left, top))
    draw = ImageDraw.Draw(picture)
    side = cell * classes
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=_FAINT)
    for place, label in enumerate(labels):
        middle = cell * place + cell / 2
        draw.text((left - 6, top + middle), label, _INK, font, anchor="rm")
        _write_upwards(picture, label, round(left + middle), top - 6, font)
    if classes <= _MOST_COUNTS:
        _write_counts(draw, confusion, shares, left, top, cell)
    right = int(confusion.diagonal().sum())
    said = f"rows: true class, columns: predicted; {right} of {int(confusion.sum())} right"
    draw.text((left, top + side + 12), said, _INK, _font(13))
    return np.asarray(picture).copy()


def mistakes_picture(clips: Sequence[np.ndarray], captions: Sequence[tuple[str, str]]) -> np.ndarray:
    """One row a clip uint8 [T, h, w, 3]: what it is, what it was taken for, and frames of it; uint8 [H, W, 3]."""
    rows = [_frames(clip) for clip in clips]
    height = sum(row.height for row in rows) + 8 * (len(rows) - 1) + 2 * _MARGIN
    width = _MARGIN + _CAPTION_PIXELS + max(row.width for row in rows) + _MARGIN
    picture = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    top = _MARGIN
    for row, (true, predicted) in zip(rows, captions, strict=True):
        picture.paste(row, (_MARGIN + _CAPTION_PIXELS, top))
        edge, middle = _MARGIN + _CAPTION_PIXELS - 10, top + row.height / 2
        draw.text((edge, middle - 10), _short(true), _INK, _font(15), anchor="rm")
        draw.text((edge, middle + 10), f"taken for {_short(predicted)}", _WRONG, _font(13), anchor="rm")
        top += row.height + 8
    return np.asarray(picture).copy()


def _frames(clip: np.ndarray) -> Image.Image:
    """Evenly spaced frames side by side, each `_FRAME_PIXELS` high."""
    chosen = [Image.fromarray(np.ascontiguousarray(clip[place])) for place in evenly_spaced(len(clip), _FRAMES)]
    width = round(chosen[0].width * _FRAME_PIXELS / chosen[0].height)
    row = Image.new("RGB", (len(chosen) * (width + 4) - 4, _FRAME_PIXELS), _BACKGROUND)
    for place, frame in enumerate(chosen):
        row.paste(frame.resize((width, _FRAME_PIXELS), Image.Resampling.BILINEAR), (place * (width + 4), 0))
    return row


def _write_counts(
    draw: ImageDraw.ImageDraw, confusion: np.ndarray, shares: np.ndarray, left: int, top: int, cell: int
) -> None:
    font = _font(max(9, min(15, cell // 3)))
    for row, column in zip(*np.nonzero(confusion), strict=True):
        ink = _BACKGROUND if shares[row, column] > 0.5 else _INK
        middle = (left + cell * (column + 0.5), top + cell * (row + 0.5))
        draw.text(middle, str(confusion[row, column]), ink, font, anchor="mm")


def _write_upwards(picture: Image.Image, text: str, x: int, bottom: int, font: ImageFont.FreeTypeFont) -> None:
    """Text turned by a quarter, ending above ``bottom``."""
    width, height = round(font.getlength(text)) + 2, round(font.size) + 4
    strip = Image.new("RGB", (width, height), _BACKGROUND)
    ImageDraw.Draw(strip).text((0, height / 2), text, _INK, font, anchor="lm")
    turned = strip.rotate(90, expand=True)
    picture.paste(turned, (x - turned.width // 2, bottom - turned.height))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


@cache
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(pixels)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow without FreeType cannot scale letters"
    return font
