"""What every family gives: a typed configuration that builds a model, features, and abilities as protocols."""

from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from marey.config import Config
from marey.nn.masks import Rng
from marey.nn.tubelet import Grid


class Features(NamedTuple):
    """A backbone's tokens before its head, [B, N, D] in (t, h, w) order over ``grid``."""

    tokens: Tensor
    grid: Grid


class MaskedOutput(NamedTuple):
    """What masked pre-training gives for one batch.

    loss: scalar. reconstruction, targets: [B, n, p], the normalised pixels of each decoded token, in (t, h, w)
    order; p runs over (t, h, w, c) within the tubelet.
    """

    loss: Tensor
    reconstruction: Tensor
    targets: Tensor


class BackboneConfig(Config):
    """Fields that every family has. A variant is a row of values; a keyword of `create_model` overrides one."""

    purpose: ClassVar[str] = "classification"

    name: str = ""
    """Variant of the zoo that the other fields start from (`marey models` lists them)."""
    frames: int = Field(16, gt=0)
    """Frames of a clip."""
    crop: int = Field(224, gt=0)
    """Height and width of a clip in pixels."""
    in_channels: int = Field(3, gt=0)
    """Channels of the input."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth: rate at the last block, growing linearly from 0 at the first."""

    @property
    def classes(self) -> int | None:
        """Classes of the head; None for models without one."""
        return getattr(self, "num_classes", None)

    def build(self) -> nn.Module:
        """The model, freshly initialised from torch's generator; works under ``torch.device("meta")``."""
        raise TypeError(f"{type(self).__name__} is not a family of its own")


def check_heads(width: int, num_heads: int, prefix: str = "") -> None:
    """``ValueError`` unless the heads divide the width; ``prefix``: of the fields' names."""
    if width % num_heads:
        raise ValueError(f"{prefix}width={width} is not a multiple of {prefix}num_heads={num_heads}")


@runtime_checkable
class Pyramid(Protocol):
    """A model whose stages have different resolutions."""

    def pyramid(self, clip: Float[Tensor, "b c t h w"]) -> list[Features]:
        """Tokens at the end of each stage, from fine to coarse."""


@runtime_checkable
class Maskable(Protocol):
    """A model that can be pre-trained by masking: it computes what is visible and reconstructs what is not."""

    def draw_masks(
        self, rng: Rng, ratio: float, decoder_ratio: float
    ) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"] | None]:
        """One clip's (mask, decode_mask); True = hidden from the encoder, and not decoded; None = decode the masked."""

    def reconstruct(
        self,
        clip: Float[Tensor, "b c t h w"],
        mask: Bool[Tensor, "b n"],
        decode_mask: Bool[Tensor, "b n"] | None,
    ) -> tuple[MaskedOutput, Float[Tensor, "b t h w c"], Float[Tensor, "b t h w c"]]:
        """(output, masked, reconstructed): the last two are pixels in 0..1 to look at, see the family."""


@runtime_checkable
class Classifier(Protocol):
    """A model with a head: clip [B, C, T, H, W] to logits [B, K], also its features and the order of its layers."""

    num_layers: int
    """Layers that layer-wise decay tells apart between the stem (0) and the head (``num_layers`` + 1)."""

    def layer_of(self, parameter: str) -> int:
        """The layer of a parameter by its dotted name: 0 stem and positions, 1 to ``num_layers`` blocks, then head."""

    def features(self, clip: Float[Tensor, "b c t h w"]) -> Features:
        """Tokens before the head."""

    def __call__(self, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b k"]:
        """Logits (never probabilities, in training and in evaluation alike)."""
