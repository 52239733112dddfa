"""What `marey.bench.gpu` compares: models and tasks with the papers' settings, and each row made ready to step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from marey.backbones.base import BackboneConfig
from marey.backbones.hiera import HieraConfig
from marey.backbones.hiera_pretrain import HieraPretrainConfig
from marey.backbones.videomae import DECODER_MASK_RATIO, VideoMAEConfig, VideoMAEPretrainConfig
from marey.backbones.zoo import configure
from marey.bench import flop_parts
from marey.bench.published import PublishedClassifier, PublishedVideoMAE
from marey.bench.published_hiera import PublishedHiera, PublishedHieraPretrain
from marey.bench.published_loop import mix_batch, plain_step, soft_cross_entropy, soft_targets
from marey.bench.rows import draw_masks
from marey.bench.turns import Ready, make_moments
from marey.clips.batch import Batch
from marey.clips.erase import EraseConfig
from marey.clips.mix import MixConfig
from marey.clips.randaugment import RandAugmentConfig
from marey.engine.optim import OptimConfig, parameter_groups
from marey.engine.strategy import EngineConfig, TorchStrategy
from marey.errors import ConfigError
from marey.nn.block import set_checkpointing
from marey.nn.pixels import normalise
from marey.recipes.base import Recipe, RecipeConfig
from marey.recipes.masked import MaskedConfig
from marey.recipes.supervised import SupervisedConfig

Model = Literal[
    "videomae_v2_tiny", "videomae_v2_small", "videomae_v2_base", "videomae_v2_large", "videomae_v2_huge",
    "videomae_v2_giant", "hiera_tiny", "hiera_small", "hiera_base", "hiera_base_plus", "hiera_large", "hiera_huge",
]  # fmt: skip
Task = Literal["pretrain", "finetune"]
Precision = Literal["fp32", "bf16"]

_LR = 1e-5  # small, so that the loss of random clips stays finite
_SMOOTHING = 0.1
_MIX = MixConfig(mixup=0.8, cutmix=1.0)


@dataclass(frozen=True)
class Preset:
    """What the papers set for one model and task, and how many clips to try first."""

    clips: int = 32
    """Clips of a step that about fill 141 GB under bf16; where they do not fit they are halved."""
    drop_path: float = 0.0
    layer_decay: float = 1.0
    clip_grad: float | None = None


PRESETS: dict[tuple[Model, Task], Preset] = {
    ("videomae_v2_base", "pretrain"): Preset(256),
    ("videomae_v2_large", "pretrain"): Preset(128),
    ("videomae_v2_huge", "pretrain"): Preset(128),
    ("videomae_v2_giant", "pretrain"): Preset(64, clip_grad=0.02),
    ("hiera_large", "pretrain"): Preset(128, drop_path=0.2),
    ("hiera_huge", "pretrain"): Preset(64, drop_path=0.3),
    ("videomae_v2_base", "finetune"): Preset(64, drop_path=0.1, layer_decay=0.75),
    ("videomae_v2_large", "finetune"): Preset(32, drop_path=0.2, layer_decay=0.75),
    ("videomae_v2_huge", "finetune"): Preset(16, drop_path=0.2, layer_decay=0.8),
    ("videomae_v2_giant", "finetune"): Preset(16, drop_path=0.3, layer_decay=0.9, clip_grad=5.0),
    ("hiera_large", "finetune"): Preset(32, drop_path=0.5, layer_decay=0.875),
    ("hiera_huge", "finetune"): Preset(16, drop_path=0.8, layer_decay=0.9),
}
"""The papers' settings, as the jobs of this repository take them; other models have none."""


@dataclass(frozen=True)
class Row:
    """One way to compute the step."""

    name: str
    code: Literal["marey", "published"]
    compiled: bool = False


MAREY = Row("as Marey trains", "marey")
PUBLISHED = Row("published choices", "published")
MAREY_COMPILED = Row("as Marey trains, compiled", "marey", compiled=True)
PUBLISHED_COMPILED = Row("published choices, compiled", "published", compiled=True)
BESIDE = {MAREY.name: PUBLISHED.name, MAREY_COMPILED.name: PUBLISHED_COMPILED.name}
"""Each of Marey's rows, and the row that it is to outrun."""


@dataclass(frozen=True)
class Case:
    """What all rows of one table share."""

    model: Model
    task: Task
    device: torch.device
    precision: Precision
    frames: int = 16
    crop: int = 224
    checkpointing: bool = False
    augment: bool = False

    @property
    def preset(self) -> Preset:
        """The papers' settings."""
        return PRESETS.get((self.model, self.task), Preset())

    def rows(self, compiled: bool) -> list[Row]:
        """The rows to measure. The published fine-tuning is not compiled, nor is Hiera, which has no training code."""
        more = [MAREY_COMPILED] if compiled else []
        published = compiled and self.task == "pretrain" and self.model.startswith("videomae")
        return [MAREY, PUBLISHED, *more, *([PUBLISHED_COMPILED] if published else [])]

    def config(self) -> BackboneConfig:
        """The model, fitted to frames and crop; `ConfigError` where masks would leave nothing to see."""
        overrides: dict[str, object] = {"frames": self.frames, "crop": self.crop, "drop_path": self.preset.drop_path}
        if self.task == "finetune":
            return configure(f"{self.model}_16x224", **overrides)
        if self.model.startswith("videomae"):
            config = configure(f"{self.model}_pretrain", embed="visible", **overrides)
        else:
            config = configure(f"{self.model}_16x224_pretrain", **overrides)
        assert isinstance(config, (VideoMAEPretrainConfig, HieraPretrainConfig))
        if flop_parts.visible(config) == 0:
            raise ConfigError(f"frames={self.frames} crop={self.crop}: {self.model}'s mask leaves nothing to see; more")
        return config

    def recipe(self) -> RecipeConfig:
        """Marey's recipe of the task."""
        if self.task == "pretrain":
            return MaskedConfig(decoder_mask_ratio=DECODER_MASK_RATIO if self.model.startswith("videomae") else 0.0)
        randaugment = RandAugmentConfig(ops=4 if self.augment else 0)
        erase = EraseConfig(probability=0.25 if self.augment else 0.0)
        return SupervisedConfig(label_smoothing=_SMOOTHING, mix=_MIX, randaugment=randaugment, erase=erase)

    def optim(self) -> OptimConfig:
        """The optimiser of the task."""
        betas = (0.9, 0.95) if self.task == "pretrain" else (0.9, 0.999)
        preset = self.preset
        return OptimConfig(base_lr=_LR, betas=betas, layer_decay=preset.layer_decay, clip_grad=preset.clip_grad)

    def batch(self, clips: int) -> Batch:
        """Random clips, the same in every row."""
        shape = (clips, 3, self.frames, self.crop, self.crop)
        pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        batch = Batch(pixels, torch.arange(clips), tuple(map(str, range(clips))), torch.arange(clips) % 10)
        return batch.to(self.device)


def prepare(row: Row, case: Case, clips: int) -> Ready:
    """Build the row's model and optimiser on the case's device, with AdamW's moments in place."""
    torch.manual_seed(0)
    ready = (_marey if row.code == "marey" else _published)(row, case, clips)
    make_moments(ready)
    return ready


def _marey(row: Row, case: Case, clips: int) -> Ready:
    with case.device:
        recipe = case.recipe().build(case.config())
    engine = EngineConfig(
        precision=case.precision,
        activation_checkpointing="blocks" if case.checkpointing else "off",
        compile=row.compiled,
    )
    strategy = TorchStrategy(recipe, case.optim(), engine, case.device)
    batch = case.batch(clips)
    return Ready(lambda: strategy.step([batch], _LR).loss, recipe, strategy.optimizer)


def _published(row: Row, case: Case, clips: int) -> Ready:
    config, optim = case.config(), case.optim()
    with case.device:
        model = published_model(config).train()
    set_checkpointing(model, case.checkpointing)
    run = cast(nn.Module, torch.compile(model)) if row.compiled else model
    make_loss = _pretraining_loss if case.task == "pretrain" else _fine_tuning_loss
    loss = make_loss(run, config, case.batch(clips))
    optimizer = _published_adamw(model, case, config)
    step = plain_step(loss, model, optimizer, case.device, case.precision == "bf16", optim.clip_grad)
    return Ready(step, model, optimizer)


def published_model(config: BackboneConfig) -> nn.Module:
    """The plain re-implementation of what ``config`` builds; their state dicts fit each other."""
    match config:
        case VideoMAEPretrainConfig():
            return PublishedVideoMAE(config)
        case VideoMAEConfig():
            return PublishedClassifier(config)
        case HieraPretrainConfig():
            return PublishedHieraPretrain(config)
        case HieraConfig():
            return PublishedHiera(config)
    raise ConfigError(f"{type(config).__name__} has no plain re-implementation; VideoMAE and Hiera have one")


def _pretraining_loss(model: nn.Module, config: BackboneConfig, batch: Batch) -> Callable[[], Tensor]:
    """VideoMAE V2's masks come from the loader, Hiera's are drawn by the model."""
    drawn: tuple[Tensor, ...] = ()
    if isinstance(config, VideoMAEPretrainConfig):
        drawn = tuple(mask.to(batch.clip.device) for mask in draw_masks(config, batch.key))
    return lambda: model(normalise(batch.clip), *drawn)


def _fine_tuning_loss(
    model: nn.Module, config: BackboneConfig, batch: Batch, smoothing: float = _SMOOTHING, mix: MixConfig = _MIX
) -> Callable[[], Tensor]:
    rng = np.random.default_rng(0)
    labels, classes = batch.label, config.classes
    assert labels is not None, "drawn with the batch"
    assert classes is not None, "a classifier has classes"

    def loss() -> Tensor:
        clip, targets = mix_batch(normalise(batch.clip), soft_targets(labels, classes, smoothing), mix, rng)
        return soft_cross_entropy(model(clip), targets)

    return loss


def _published_adamw(model: nn.Module, case: Case, config: BackboneConfig) -> torch.optim.AdamW:
    """Groups by layer and decay as Marey's, under PyTorch's own choice of loops."""
    optim, recipe = case.optim(), meta_recipe(case, config)
    never = frozenset(name.removeprefix("model.") for name in recipe.no_weight_decay)
    groups = parameter_groups(
        model, optim.weight_decay, never, lambda name: recipe.lr_scale(f"model.{name}", optim.layer_decay)
    )
    for group in groups:
        group["lr"] = _LR * cast(float, group["lr_scale"])
    return torch.optim.AdamW(groups, lr=_LR, betas=optim.betas, eps=optim.eps)


def meta_recipe(case: Case, config: BackboneConfig) -> Recipe:
    """Marey's recipe without values; it mixes nothing, so that one clip is enough."""
    with torch.device("meta"):
        recipe = case.recipe() if case.task == "pretrain" else SupervisedConfig(label_smoothing=_SMOOTHING)
        return recipe.build(config)
