"""What the feed hands to a recipe: clips and what belongs to them, for one forward pass."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Clips with their keys; tensors on one device, except `key`, which stays on the CPU."""

    clip: UInt8[Tensor, "b c t h w"]
    """Pixels 0..255, RGB."""
    key: Int64[Tensor, " b"]
    """The sample's key (see `marey.clips.plan.Sample`): seeds its masks and its drop path."""
    clip_ids: tuple[str, ...]
    """Source and start of each clip, for messages and pictures."""
    label: Int64[Tensor, " b"] | None = None
    """Class index, where the table has labels."""
    decode_seconds: float = 0.0
    """Processor time that decoding and cropping took."""

    def __len__(self) -> int:
        return self.clip.shape[0]

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its pixels and labels on ``device``."""
        if self.clip.device == device:
            return self
        label = None if self.label is None else self.label.to(device, non_blocking=True)
        return replace(self, clip=self.clip.to(device, non_blocking=True), label=label)
