"""Computing in 16 bits: which operations do, and how gradients are kept from vanishing."""

import math
from typing import Literal

import torch
from torch import nn

from marey.clips.batch import Batch
from marey.recipes.base import Mode, Recipe, Step

Precision = Literal["fp32", "bf16", "fp16"]
TYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Autocast(nn.Module):
    """Runs the recipe under autocast; inside, so that data-parallel wrappers and DeepSpeed both keep it."""

    def __init__(self, recipe: Recipe, device: torch.device, precision: Precision) -> None:
        super().__init__()
        self.recipe = recipe
        self.device_type = device.type
        self.dtype = TYPES.get(precision)

    def forward(self, batch: Batch, mode: Mode = "train") -> Step:
        """See `Recipe.forward`."""
        with torch.autocast(self.device_type, self.dtype, enabled=self.dtype is not None):
            return self.recipe(batch, mode=mode)


class LossScale:
    """By how much the loss is multiplied before, and the gradients divided after, the backward pass under fp16.

    Gradients below 6e-8 would be 0 in fp16. The scale doubles after every ``PATIENCE`` steps, and is halved where
    gradients overflow; the step is then computed again, so that no batch is lost (Micikevicius et al. 2018 leave it
    out). A power of two changes no digit. It is part of the state: a run that resumes goes on with it.
    """

    START, MOST, PATIENCE = 2.0**16, 2.0**24, 2000

    def __init__(self, precision: Precision) -> None:
        self.on = precision == "fp16"
        self.value = self.START if self.on else 1.0
        self.steps = 0
        """Since it was changed last."""

    def overflowed(self, losses: list[float], grad_norm: float) -> bool:
        """Whether gradients are not finite because of the scale; then it is halved, and the step can be tried again."""
        if not self.on or self.value <= 1.0 or math.isfinite(grad_norm) or not all(map(math.isfinite, losses)):
            return False
        self.value, self.steps = self.value / 2, 0
        return True

    def stepped(self) -> None:
        """Take note of a step that went well."""
        if not self.on:
            return
        self.steps += 1
        if self.steps == self.PATIENCE and self.value < self.MOST:
            self.value, self.steps = self.value * 2, 0

    def load(self, value: float, steps: int) -> None:
        """Go on as saved; from the start where the saved run had none."""
        if self.on and value > 0:
            self.value, self.steps = value, steps
