"""Joints and boxes that the user supplies: checked, cut to a row's frames, scaled to its size, and read back.

A file of joints is a NumPy array [frames, people, joints, 2 or 3] (x, y, score), one of boxes [frames, people, 4 or 5]
(x1, y1, x2, y2, score): one entry for each frame of the source, in display order, in pixels of its upright frames, the
top left corner of the picture being (0, 0); NaN where there is none. Without scores they are 1. ``.npy``, or ``.npz``
with one array or one of that name. Pickled content is never loaded.

The columns ``joints`` and ``boxes`` of a row hold float32 [T, people, joints, 3] and [T, people, 5] in pixels of the
stored frames, in NumPy's own format (.npy, which states shape and type).
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from marey.clips.row import ClipRow
from marey.clips.video import Refused, check_file
from marey.errors import ClipError

Kind = Literal["joints", "boxes"]
Numbers = npt.NDArray[np.float32]

_MAGIC = (b"\x93NUMPY", b"PK\x03\x04")
_COORDINATES = {"joints": 2, "boxes": 4}
_DIMENSIONS = {"joints": 4, "boxes": 3}
_SHAPES = {
    "joints": "[{}, people, joints, 2 or 3 (x, y, score)]",
    "boxes": "[{}, people, 4 or 5 (x1, y1, x2, y2, score)]",
}


def load_stream(kind: Kind, path: Path | str, frames: int) -> Numbers:
    """What a user's file says of a source of ``frames`` frames, as float32 [frames, people, ..., coordinates + 1].

    Raises `Refused` of stage ``kind`` that names the file, what it holds and what was expected.
    """
    expected = "float32 " + _SHAPES[kind].format(frames)
    try:
        check_file(Path(path))
        found = _array(kind, Path(path))
        _check(kind, found, frames)
    except Refused as refused:
        raise Refused(kind, f"{path}: {refused.reason}; expected {expected}") from None
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        what = "pickled objects" if "object" in str(error).lower() else f"no readable array ({error})"
        raise Refused(kind, f"{path}: holds {what}; expected {expected}") from None
    return _scored(kind, found.astype(np.float32))


def _array(kind: Kind, path: Path) -> npt.NDArray[Any]:
    with path.open("rb") as file:
        if not file.read(6).startswith(_MAGIC):
            raise Refused(kind, "is no NumPy file (.npy, .npz)")
    # Mapped: of an array in a file of its own nothing but the header is read before its shape is known to fit.
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded as archive:
        names = archive.files
        name = kind if kind in names else names[0] if len(names) == 1 else None
        if name is None:
            raise Refused(kind, f"holds the arrays {', '.join(names) or 'none'}, of which none is named {kind}")
        return np.asarray(archive[name])


def _check(kind: Kind, found: npt.NDArray[Any], frames: int) -> None:
    shape, least = list(found.shape), _COORDINATES[kind]
    if found.dtype.kind not in "fiu":
        raise Refused(kind, f"holds values of type {found.dtype}")
    if found.ndim != _DIMENSIONS[kind] or found.shape[-1] not in (least, least + 1):
        raise Refused(kind, f"has the shape {shape}")
    if len(found) != frames:
        raise Refused(kind, f"has {len(found)} frames, shape {shape}, for a video of {frames} frames")
    if np.isinf(found).any():
        raise Refused(kind, "holds infinite values (NaN means none)")
    if kind == "boxes":
        turned = (found[..., 2] < found[..., 0]) | (found[..., 3] < found[..., 1])
        if turned.any():
            frame, person = (int(place) for place in np.argwhere(turned)[0])
            box = [round(float(value), 1) for value in found[frame, person, :4]]
            raise Refused(kind, f"box {person} of frame {frame} is {box}, whose end lies before its start")


def _scored(kind: Kind, found: Numbers) -> Numbers:
    """With a last column of ones (NaN where there is none) where the file has no scores."""
    if found.shape[-1] > _COORDINATES[kind]:
        return found
    missing = np.isnan(found).any(-1, keepdims=True)
    return np.concatenate([found, np.where(missing, np.nan, 1).astype(np.float32)], -1)


def pack_stream(kind: Kind, found: Numbers, frames: Sequence[int], scale: tuple[float, float]) -> bytes:
    """The column of a row whose frames are ``frames`` of the source; ``scale``: stored size / source's, (x, y)."""
    taken = found[list(frames)]  # a copy
    taken[..., : _COORDINATES[kind]] *= np.tile(np.array(scale, np.float32), _COORDINATES[kind] // 2)
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(taken), allow_pickle=False)
    return file.getvalue()


def read_joints(row: ClipRow, indices: Sequence[int]) -> Numbers:
    """Joints of frames ``indices`` as float32 [T, P, K, 3] (x, y, score) in pixels of the stored frames; NaN: none.

    Raises `ClipError` naming the clip where it has none, where an index does not exist, or where they are damaged.
    """
    return _read("joints", row, row.joints, indices)


def read_boxes(row: ClipRow, indices: Sequence[int]) -> Numbers:
    """Boxes of frames ``indices`` as float32 [T, P, 5] (x1, y1, x2, y2, score), otherwise as `read_joints`."""
    return _read("boxes", row, row.boxes, indices)


def _read(kind: Kind, row: ClipRow, data: bytes | None, indices: Sequence[int]) -> Numbers:
    if data is None:
        raise ClipError(
            f"{row.clip_id}: no {kind}; prepare the table with a file of {kind} for this video, and read its rows with "
            f'streams=("{kind}",)'
        )
    if not indices or min(indices) < 0 or max(indices) >= row.num_frames:
        last = row.num_frames - 1
        raise ClipError(f"{row.clip_id}: {kind} of frames {list(indices)} asked for, it has frames 0 to {last}")
    try:
        found = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ClipError(f"{row.clip_id}: its {kind} are damaged ({error}); prepare the table again") from None
    fits = found.ndim == _DIMENSIONS[kind] and found.shape[-1] == _COORDINATES[kind] + 1
    if not fits or len(found) != row.num_frames or found.dtype != np.float32:
        raise ClipError(
            f"{row.clip_id}: its {kind} are damaged ({found.dtype} {list(found.shape)} for {row.num_frames} frames); "
            "prepare the table again"
        )
    chosen: Numbers = found[list(indices)]
    return chosen
