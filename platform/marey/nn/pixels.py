"""Pixels as models see them: ImageNet's mean and standard deviation, which every family here is trained with."""

import torch
from jaxtyping import Float
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(clip: Tensor) -> Float[Tensor, "b c *size"]:
    """Pixels 0..255 [B, 3, ...], uint8 or float, to float32: (x / 255 - mean) / std in each channel."""
    mean, std = _statistics(clip, 1)
    # Floats first, one channel after the other, then one product and one difference in place: on processors a product
    # of bytes and floats takes ten times as long.
    pixels = clip.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return pixels.mul_(1 / (255 * std)).sub_(mean / std)


def denormalise(pixels: Float[Tensor, "*size"], channel: int = 1) -> Float[Tensor, "*size"]:
    """The inverse: float pixels in 0..1; ``channel`` is the axis of the channels."""
    mean, std = _statistics(pixels, channel)
    return pixels * std + mean


def _statistics(pixels: Tensor, channel: int) -> tuple[Tensor, Tensor]:
    channels = pixels.shape[channel]
    shape = [1] * pixels.ndim
    shape[channel] = channels
    known = (MEAN, STD) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
    mean, std = (torch.tensor(values, device=pixels.device).view(shape) for values in known)
    return mean, std
