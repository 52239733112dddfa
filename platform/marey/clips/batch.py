"""What the feed hands to a recipe: clips and what belongs to them, for one forward pass."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from marey.clips.yuv import to_pixels


@dataclass(frozen=True)
class Batch:
    """Clips with their keys; tensors on one device, except `key`, which stays on the CPU."""

    clip: UInt8[Tensor, "b c t h w"]
    """Pixels 0..255, RGB; until `to`, where clips.pixels=yuv420, planes as `marey.clips.yuv.cut_planes` packs them."""
    key: Int64[Tensor, " b"]
    """The sample's key (see `marey.clips.plan.Sample`): seeds its masks and its drop path."""
    clip_ids: tuple[str, ...]
    """Source and start of each clip, for messages and pictures."""
    label: Int64[Tensor, " b"] | None = None
    """Class index, where the table has labels."""
    to_rgb: Float[Tensor, "b t 3 4"] | None = None
    """What turns planes into RGB; None where the clips are RGB."""
    decode_seconds: float = 0.0
    """Processor time that decoding and cropping took."""

    def __len__(self) -> int:
        return self.clip.shape[0]

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its pixels, as RGB, and its labels on ``device``."""
        if self.clip.device == device and self.to_rgb is None:
            return self
        label = None if self.label is None else self.label.to(device, non_blocking=True)
        clip = self.clip.to(device, non_blocking=True)
        if self.to_rgb is not None:
            clip = to_pixels(clip, self.to_rgb.to(device, non_blocking=True))
        return replace(self, clip=clip, label=label, to_rgb=None)
