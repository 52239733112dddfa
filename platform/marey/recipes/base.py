"""What a recipe is."""

from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from marey.clips.batch import Batch
from marey.config import Config

Mode = Literal["train", "picture"]


class Step(NamedTuple):
    """What one forward pass gives. A NamedTuple, because ZeRO-3's hooks see the tensors in one, not in a dataclass."""

    loss: Tensor
    """Scalar; the mean over the batch's clips."""
    metrics: dict[str, Tensor]
    """Scalars (mean over the batch) in mode "train"; images uint8 [T, H, W, C] in mode "picture"."""


class RecipeConfig(Config):
    """Base of the recipes' settings."""

    kind: ClassVar[str]


class Recipe(nn.Module):
    """A module that holds the backbone and whatever else is trained or consulted, and computes a step.

    Everything goes through `forward`, pictures too: ZeRO-3 gathers parameters only there. A recipe knows nothing of
    workers, engines or tracking.
    """

    model: nn.Module

    def forward(self, batch: Batch, mode: Mode = "train") -> Step:
        """Loss and metrics of one batch."""
        raise TypeError(f"{type(self).__name__} does not say how to compute a step")

    @property
    def no_weight_decay(self) -> frozenset[str]:
        """Names of parameters that are never decayed, beyond biases and norms."""
        return frozenset(f"model.{name}" for name in getattr(self.model, "no_weight_decay", ()))
