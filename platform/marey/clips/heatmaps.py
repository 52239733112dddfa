"""Joints as heatmaps, the input of PoseConv3D (Duan et al. 2022; MMAction2's ``GeneratePoseTarget``)."""

import numpy as np
import numpy.typing as npt

_LEAST_SCORE = 1e-4  # MMAction2 draws nothing for a joint of a lower score
_REACH = 3.0  # standard deviations up to which a joint is drawn


def pose_heatmaps(
    joints: npt.NDArray[np.floating], height: int, width: int, sigma: float = 0.6
) -> npt.NDArray[np.float32]:
    """A Gaussian around each joint, times its score; where people overlap, the largest value.

    ``joints``: float [T, P, K, 3] (x, y, score) in pixels of the heatmap (scale them first), as `read_joints` gives
    them; NaN: none. ``sigma``: standard deviation in pixels. Returns float32 [T, K, height, width], 0 further than
    3 sigma from a joint. Raises `ValueError` for another shape.
    """
    if joints.ndim != 4 or joints.shape[-1] != 3:
        raise ValueError(f"joints of shape {list(joints.shape)}; expected [frames, people, joints, 3] (x, y, score)")
    frames, people, num_joints, _ = joints.shape
    maps = np.zeros((frames, num_joints, height, width), np.float32)
    known = np.isfinite(joints).all(-1) & (joints[..., 2] >= _LEAST_SCORE)
    x, y, score = np.where(known[..., None], joints, 0).astype(np.float32).transpose(3, 1, 0, 2)
    score = score * known.transpose(1, 0, 2)
    for person in range(people):  # one at a time: [T, K, H, W] is large enough
        columns = _bell(x[person], width, sigma)
        rows = _bell(y[person], height, sigma) * score[person][..., None]
        np.maximum(maps, rows[..., :, None] * columns[..., None, :], out=maps)
    return maps


def _bell(centres: npt.NDArray[np.float32], size: int, sigma: float) -> npt.NDArray[np.float32]:
    """exp(-d^2 / 2 sigma^2) at the pixels of a line, [T, K] -> [T, K, size]."""
    pixels = np.arange(size, dtype=np.float32)
    low = np.trunc(centres - _REACH * sigma)[..., None]
    high = np.trunc(centres + _REACH * sigma)[..., None]
    bell = np.exp(-((pixels - centres[..., None]) ** 2) / (2 * sigma**2))
    return np.where((pixels >= low) & (pixels <= high), bell, 0).astype(np.float32)
