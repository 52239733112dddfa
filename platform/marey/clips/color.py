"""Colours of clips, batched on any device: what RandAugment and colour jitter do to them.

Pixels are floats 0..255, [B, C, T, H, W]; a level is a tensor that broadcasts against them, and 1 changes nothing.
"""

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow converts to grey


def grey(clip: Tensor) -> Tensor:
    """Luma [B, 1, T, H, W]; the mean of the channels where they are not RGB."""
    if clip.shape[1] != 3:
        return clip.mean(1, keepdim=True)
    red, green, blue = (weight * channel for weight, channel in zip(LUMA, clip.split(1, 1), strict=True))
    return red + green + blue


def blend(other: Tensor, clip: Tensor, level: Tensor) -> Tensor:
    """``other`` at level 0, the clip at 1, and on beyond."""
    return (other + level * (clip - other)).clamp(0, 255)


def hue(clip: Tensor, turn: Tensor) -> Tensor:
    """RGB with its hue moved by ``turn`` of the colour circle (-0.5..0.5; 0 changes nothing), as HSV defines it."""
    if clip.shape[1] != 3:
        return clip
    value, low = clip.amax(1), clip.amin(1)
    chroma = value - low
    red, green, blue = clip.unbind(1)
    safe = chroma.clamp(min=1e-6)
    sixth = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixth = sixth + 6 * turn.squeeze(1)
    # Each channel falls off from the value where the hue is far from its own (Smith 1978, without branches).
    channels = []
    for offset in (5.0, 3.0, 1.0):
        place = sixth + offset
        place = place - 6 * (place / 6).floor()  # a remainder, at a third of its time on a processor
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, 1)
