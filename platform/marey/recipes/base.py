"""What a recipe is."""

from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from marey.backbones.base import BackboneConfig, Classifier
from marey.clips.batch import Batch
from marey.config import Config
from marey.errors import ConfigError

Mode = Literal["train", "picture", "predict"]


class Step(NamedTuple):
    """What one forward pass gives. A NamedTuple, because ZeRO-3's hooks see the tensors in one, not in a dataclass."""

    loss: Tensor
    """Scalar; the mean over the batch's clips."""
    metrics: dict[str, Tensor]
    """Mode "train": scalars, means over the batch. "picture": images uint8 [T, H, W, C]. "predict": "scores" [B, K]."""


class RecipeConfig(Config):
    """Base of the recipes' settings. Each has a ``kind``, by which `marey.recipes.registry` finds it."""

    kind: str
    """Which recipe these settings are of."""
    labelled: ClassVar[bool] = False
    """Whether it needs a table with labels, which then give the backbone its number of classes."""
    pictures: ClassVar[bool] = False
    """Whether mode "picture" shows a clip, its mask and its reconstruction."""

    def together(self, repeats: int) -> int:
        """How many neighbouring samples must be in one pass."""
        return 1

    def build(self, backbone: BackboneConfig, repeats: int = 1) -> "Recipe":
        """The recipe around a fresh model; `ConfigError` if the backbone lacks an ability that it needs.

        ``repeats``: how many neighbouring samples are of one clip (repeated augmentation).
        """
        raise TypeError(f"{type(self).__name__} does not say what it builds")


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

    def lr_scale(self, name: str, layer_decay: float) -> float:
        """The rate of parameter ``name`` as a multiple of the schedule's; `ConfigError` where layers have no order."""
        if layer_decay == 1.0:
            return 1.0
        if not isinstance(self.model, Classifier):
            raise ConfigError(
                f"optim.layer_decay={layer_decay}: {type(self.model).__name__} has no order of layers; "
                "only classifiers are trained with layer-wise decay"
            )
        return layer_decay ** (self.model.num_layers + 1 - self.model.layer_of(name.removeprefix("model.")))
