"""Supervised training: clips and their class labels, from scratch or from pre-trained weights."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from marey.backbones.base import BackboneConfig, Classifier
from marey.clips import erase, mix, operations, randaugment
from marey.clips.batch import Batch
from marey.clips.erase import EraseConfig
from marey.clips.jitter import JitterConfig, jitter
from marey.clips.mix import MixConfig
from marey.clips.plan import RANDAUGMENT_STREAM, rng_of
from marey.clips.randaugment import RandAugmentConfig
from marey.errors import ConfigError
from marey.nn.droppath import set_keys
from marey.nn.pixels import normalise
from marey.recipes.base import Mode, Recipe, RecipeConfig, Step


class SupervisedConfig(RecipeConfig):
    """Cross-entropy with what the papers add to it; the defaults add nothing."""

    kind: Literal["supervised"] = "supervised"
    """Classification."""
    labelled: ClassVar[bool] = True

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread evenly over all classes (Szegedy et al. 2016)."""
    mix: MixConfig = MixConfig()
    """Mixup and CutMix."""
    randaugment: RandAugmentConfig = RandAugmentConfig()
    """RandAugment."""
    jitter: JitterConfig = JitterConfig()
    """Colour jitter."""
    erase: EraseConfig = EraseConfig()
    """Random erasing."""

    def together(self, repeats: int) -> int:
        """See `RecipeConfig.together`: clips that are mixed are partners in one pass."""
        return 2 * repeats if self.mix.mixup or self.mix.cutmix else 1

    def build(self, backbone: BackboneConfig, repeats: int = 1) -> "Supervised":
        """See `RecipeConfig.build`."""
        model = backbone.build()
        if not isinstance(model, Classifier):
            raise ConfigError(
                f"backbone {backbone.name!r} has no head for classes: it is made for {backbone.purpose}; choose the "
                "classifier of its family (`marey models`) and give init= to start from a pre-training run"
            )
        return Supervised(self, model, backbone.classes or 0, repeats)


class Supervised(Recipe):
    """Augments on the device with parameters drawn from each clip's own key, then cross-entropy."""

    def __init__(self, config: SupervisedConfig, model: nn.Module, num_classes: int, repeats: int = 1) -> None:
        super().__init__()
        self.config = config
        self.model = model
        self.num_classes = num_classes
        self.repeats = repeats

    def forward(self, batch: Batch, mode: Mode = "train") -> Step:
        """mode "train": loss and accuracy. mode "predict": probabilities float32 [B, K]; no labels are needed."""
        if mode == "predict":
            logits = self.model(normalise(batch.clip))
            return Step(logits.new_zeros(()), {"scores": logits.float().softmax(1)})
        assert batch.label is not None, "the table was checked for labels"
        clip = self._augmented(batch)
        targets = functional.one_hot(batch.label, self.num_classes).float()
        clip, targets = mix.mix(clip, targets, batch.key, self.config.mix, self.repeats)
        set_keys(self.model, batch.key)
        logits = self.model(clip).float()
        right = (logits.argmax(1) == targets.argmax(1)).float().mean()
        return Step(self._loss(logits, targets), {"top1": right.detach()})

    def _augmented(self, batch: Batch) -> Tensor:
        """Pixels 0..255 to normalised and augmented floats."""
        clip, config = batch.clip, self.config
        if config.randaugment.ops:
            keys = batch.key.tolist()
            draws = [randaugment.draw(config.randaugment, rng_of(key, RANDAUGMENT_STREAM)) for key in keys]
            clip = operations.apply(clip, draws)
        clip = jitter(clip, batch.key, config.jitter)
        return erase.erase(normalise(clip), batch.key, config.erase)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        targets = targets * (1 - smoothing) + smoothing / targets.shape[1]
        return -(targets * logits.log_softmax(1)).sum(1).mean()
