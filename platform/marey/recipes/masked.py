"""Masked pre-training: hide most of a clip, reconstruct what is hidden."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from marey.backbones.base import BackboneConfig, Maskable
from marey.clips.batch import Batch
from marey.clips.plan import MASK_STREAM, rng_of
from marey.errors import ConfigError
from marey.nn.droppath import set_keys
from marey.nn.pixels import denormalise, normalise
from marey.recipes.base import Mode, Recipe, RecipeConfig, Step


class MaskedConfig(RecipeConfig):
    """Ratios of the masks; the defaults are VideoMAE V2's."""

    kind: Literal["masked"] = "masked"
    """Masked pre-training."""
    pictures: ClassVar[bool] = True
    mask_ratio: float = Field(0.9, gt=0, lt=1)
    """Share of the tokens that are hidden from the encoder."""
    decoder_mask_ratio: float = Field(0.5, ge=0, lt=1)
    """Share of the positions that the decoder skips; 0 reconstructs all that is hidden (VideoMAE)."""

    def build(self, backbone: BackboneConfig, repeats: int = 1) -> "Masked":
        """The recipe around a fresh model; `ConfigError` if the backbone cannot skip tokens."""
        model = backbone.build()
        if not isinstance(model, Maskable):
            raise ConfigError(
                f"backbone {backbone.name!r} cannot be pre-trained by masking: it does not skip hidden tokens; "
                "choose one that does (marey models '*_pretrain')"
            )
        return Masked(self, model)


class Masked(Recipe):
    """Draws each clip's masks from its own key, so that they do not depend on how the batch is spread."""

    def __init__(self, config: MaskedConfig, model: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.model = model

    def forward(self, batch: Batch, mode: Mode = "train") -> Step:
        """mode "train": loss. mode "picture": original, masked and reconstructed frames of the first clip."""
        mask, decode_mask = self._masks(batch.key)
        clip = normalise(batch.clip)
        if mode == "picture":
            return self._picture(clip, mask, decode_mask)
        set_keys(self.model, batch.key)
        output = self.model(clip, mask, decode_mask)
        return Step(output.loss, {})

    @property
    def _maskable(self) -> Maskable:
        assert isinstance(self.model, Maskable)
        return self.model

    def _masks(self, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        ratios = self.config.mask_ratio, self.config.decoder_mask_ratio
        drawn = [self._maskable.draw_masks(rng_of(key, MASK_STREAM), *ratios) for key in keys.tolist()]
        skip = [second for _, second in drawn if second is not None]
        return torch.stack([first for first, _ in drawn]), torch.stack(skip) if skip else None

    def _picture(self, clip: Tensor, mask: Tensor, decode_mask: Tensor | None) -> Step:
        """All hidden tokens are reconstructed, also those that the decoder skips in training: nothing stays grey."""
        output, masked, reconstructed = self._maskable.reconstruct(clip[:1], mask[:1], None)
        original = denormalise(clip[:1]).movedim(1, -1)
        names = ("original", "masked", "reconstructed")
        images = {name: _to_uint8(x[0]) for name, x in zip(names, (original, masked, reconstructed), strict=True)}
        return Step(output.loss, images)


def _to_uint8(pixels: Tensor) -> Tensor:
    return pixels.clamp(0, 1).mul(255).round().byte()
