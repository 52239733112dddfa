"""The other side of `marey.bench.augment`: other projects' augmentation, in a process and an environment of their own.

Run as a file by another interpreter, which has the peers and not Marey's dependencies. The first line of standard
input says where the frames are and what is wanted of them, ``{"frames": FILE.npy, "crop": 224, "mean": [...], "std":
[...]}``; each further one is a list of clips, ``{"start": 0, "count": 16, "box": [top, left, height, width, flip],
"operations": [[name, level] ...]}``. Each list is answered with the processor seconds that it took, and what tells one
result from another (`quarters`).
"""

import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

PILLOW = "PIL"
TORCHVISION = "torchvision v2"
Augment = Callable[..., Any]


def pillow() -> Augment:
    """Frame by frame (`marey.bench.augment_pillow`)."""
    found: Augment = importlib.import_module("augment_pillow").augment
    return found


def torchvision() -> Augment:
    """The documented transforms for videos, on all frames of a clip at once, uint8 until they are normalised."""
    torch = importlib.import_module("torch")
    _declare_operators(torch)
    functional = importlib.import_module("torchvision.transforms.v2.functional")

    def augment(
        frames: Any,
        box: Sequence[int],
        operations: Sequence[tuple[str, float]],
        crop: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> Any:
        # As torchcodec gives its frames: [T, C, H, W] with the channels last in memory, which is resized fastest.
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
        *place, flip = box
        clip = functional.resized_crop(clip, *place, [crop, crop], antialias=True)
        if flip:
            clip = functional.horizontal_flip(clip)
        for name, level in operations:
            clip = _operation(functional, clip, name, level)
        clip = functional.to_dtype(clip, torch.float32, scale=True)
        return functional.normalize(clip, mean, std).transpose(0, 1)

    return augment


def _declare_operators(torch: Any) -> None:
    """The operators that `import torchvision` describes to PyTorch, where its compiled library cannot be loaded.

    That is so where it was built for another PyTorch, with CUDA or without; transforms use none of them.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    kept.append(library)  # what it declares lives as long as it does


kept: list[Any] = []


def _operation(functional: Any, clip: Any, name: str, level: float) -> Any:
    """As `torchvision.transforms.v2.RandAugment` calls it, bilinear; solarize_add, which it has not, in one sum."""
    height, width = clip.shape[-2:]
    if name == "solarize_add":
        return clip + (clip < 128).to(clip.dtype) * int(level)  # at most 127 + 110
    if name == "rotate":
        return functional.rotate(clip, level, interpolation=_BILINEAR, fill=[128.0])
    if name in _PLAIN:
        return getattr(functional, name)(clip)
    if name in _FACTORS:
        return getattr(functional, _FACTORS[name])(clip, level)
    if name in ("posterize", "solarize"):
        return getattr(functional, name)(clip, int(level))
    angle = math.degrees(math.atan(level))
    shear = {"shear_x": [angle, 0.0], "shear_y": [0.0, angle]}.get(name, [0.0, 0.0])
    moved = {"translate_x": [-int(level * width), 0], "translate_y": [0, -int(level * height)]}.get(name, [0, 0])
    return functional.affine(
        clip, angle=0.0, translate=moved, scale=1.0, shear=shear, interpolation=_BILINEAR, fill=[128.0]
    )


_BILINEAR = "bilinear"
_PLAIN = ("autocontrast", "equalize", "invert")
_FACTORS = {
    "color": "adjust_saturation",
    "contrast": "adjust_contrast",
    "brightness": "adjust_brightness",
    "sharpness": "adjust_sharpness",
}
PEERS: dict[str, Callable[[], Augment]] = {TORCHVISION: torchvision, PILLOW: pillow}


def quarters(clip: Any) -> list[float]:
    """The means of a clip's four quarters [C, T, H, W], in each channel: another crop, flip or operation shows."""
    down, right = (size // 2 for size in clip.shape[-2:])
    halves = (slice(None, down), slice(down, None)), (slice(None, right), slice(right, None))
    return [float(one[..., rows, columns].mean()) for one in clip for rows in halves[0] for columns in halves[1]]


def main() -> None:
    """Answer until standard input ends."""
    numpy, torch = (importlib.import_module(name) for name in ("numpy", "torch"))
    torch.set_num_threads(1)
    augment = PEERS[sys.argv[1]]()
    first = sys.stdin.readline()
    if not first:
        return
    wanted = json.loads(first)
    frames = numpy.load(wanted.pop("frames"))
    for line in sys.stdin:
        seconds, means = 0.0, []
        for one in json.loads(line):
            start = time.process_time()
            clip = augment(frames[one["start"] :][: one["count"]], one["box"], one["operations"], **wanted)
            seconds += time.process_time() - start
            means.append(quarters(clip))
        print(json.dumps({"seconds": seconds, "quarters": means}), flush=True)


if __name__ == "__main__":
    main()
