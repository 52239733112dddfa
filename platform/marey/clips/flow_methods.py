"""Computing optical flow, with OpenCV: an optional dependency that is imported here alone, and when flow is asked for.

`dis`: Dense Inverse Search (Kroeger et al. 2016), OpenCV's preset MEDIUM. `tvl1`: Dual TV-L1 (Zach et al. 2007), which
two-stream papers use, of its contributed modules, with their defaults; a hundred times slower. Both on grey pictures
of the size that is stored, between the frames that are kept, before these are encoded.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from marey.clips.flow import Picture, encode_flow, pack_flow, quantised
from marey.clips.row import FlowMethod
from marey.clips.video import Pixels, Refused
from marey.errors import ConfigError

OPENCV = "opencv-contrib-python-headless>=4.10,<6"

# Seconds a pixel that a video may take longer for its flow: fifteen to thirty times what it took an AMD EPYC.
_SECONDS = {"dis": 5e-6, "tvl1": 4e-4}

Estimate = Callable[[Pixels, Pixels], npt.NDArray[np.float32]]


def opencv() -> Any:
    """The module ``cv2``, held to one thread: videos are prepared side by side, and the sandbox forks."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


def require_opencv(method: FlowMethod) -> None:
    """Raise `ConfigError` that says how to install OpenCV where ``method`` needs it and it is not there."""
    if method == "none":
        return
    try:
        found = opencv()
        lacks = method == "tvl1" and not hasattr(found, "optflow")
        missing = "has no contributed modules (cv2.optflow)" if lacks else ""
    except ImportError as error:
        missing = f"cannot be imported ({error})"
    if missing:
        raise ConfigError(
            f"clips.flow={method}: needs OpenCV, which {missing}; install it where videos are prepared: "
            f'pip install "{OPENCV}"'
        )


def allowance(method: FlowMethod, frames: int, pixels: int) -> float:
    """Seconds that a video of ``frames`` frames of ``pixels`` pixels may take beyond ``clips.limits.seconds``."""
    return _SECONDS.get(method, 0.0) * frames * pixels


def estimator(method: Literal["dis", "tvl1"]) -> Estimate:
    """What gives flow in pixels, float32 [H, W, 2] (x, y), from one grey picture to another, both uint8 [H, W]."""
    cv2 = opencv()
    if method == "dis":
        made = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    else:
        made = cv2.optflow.DualTVL1OpticalFlow_create()

    def estimate(first: Pixels, second: Pixels) -> npt.NDArray[np.float32]:
        try:
            flow: npt.NDArray[np.float32] = made.calc(first, second, None)
        except cv2.error as error:
            raise Refused("flow", f"OpenCV cannot compute it: {error.err or error}") from None
        return flow

    return estimate


def grey(pixels: Pixels) -> Pixels:
    """Luma of RGB pixels, uint8 [H, W, 3] -> [H, W], by the weights of BT.601."""
    cv2 = opencv()
    luma: Pixels = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    return luma


def segment_flows(
    frames: Iterator[Pixels], lengths: Sequence[int], method: Literal["dis", "tvl1"], bound: float
) -> Iterator[bytes]:
    """The column ``flow`` of consecutive segments of ``lengths`` frames; ``frames``: all their frames, RGB [H, W, 3].

    Holds two frames at a time. Raises `Refused` where OpenCV fails, or the frames are fewer than ``lengths`` say.
    """
    estimate = estimator(method)
    luma = (grey(frame) for frame in frames)
    current = next(luma)
    height, width = current.shape
    last = encode_flow(quantised(np.zeros((height, width, 2)), bound))
    left = sum(lengths)
    for length in lengths:
        pictures: list[Picture] = []
        for _ in range(length):
            left -= 1
            if left:
                if (following := next(luma, None)) is None:
                    raise Refused("flow", f"{left} frames fewer than at the first reading")
                last = encode_flow(quantised(estimate(current, following), bound))
                current = following
            pictures.append(last)
        yield pack_flow(pictures, width, height, bound)
