"""What the table of the pre-training step compares: each row as data, and how it is made ready to step."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from marey.backbones.videomae import DECODER_MASK_RATIO, MASK_RATIO, VideoMAEPretrain, VideoMAEPretrainConfig
from marey.backbones.zoo import configure
from marey.bench.published import PublishedVideoMAE, all_targets, plain_adamw
from marey.bench.published_loop import plain_step
from marey.bench.turns import Ready, make_moments
from marey.clips.batch import Batch
from marey.engine.optim import OptimConfig
from marey.engine.strategy import EngineConfig, TorchStrategy
from marey.nn import masks
from marey.nn.pixels import normalise
from marey.recipes.base import Mode, Recipe, Step
from marey.recipes.masked import Masked, MaskedConfig

Precision = Literal["fp32", "bf16"]
OPTIM = OptimConfig()


@dataclass(frozen=True)
class Row:
    """One way to compute the step."""

    name: str
    code: Literal["marey", "published", "huggingface"] = "marey"
    hidden: Literal["nothing", "encoder", "dual"] = "dual"
    """nothing: the encoder sees and the decoder decodes all tokens; encoder: VideoMAE; dual: VideoMAE V2."""
    embed: Literal["all", "visible"] = "all"
    adamw: Literal["plain", "fused"] = "plain"
    """plain: from parameter to parameter; fused: the engine's."""
    checkpointing: bool = False
    precision: Precision | None = None
    """None: that of the whole table."""
    compiled: bool = False


ALL = Row("all tokens", hidden="nothing")
ENCODER = Row("encoder masking", hidden="encoder")
DUAL = Row("dual masking")
VISIBLE = Row("dual + visible embedding", embed="visible")
FUSED = Row("dual + fused AdamW", adamw="fused")
BOTH = Row("dual + both (as trained)", embed="visible", adamw="fused")
CHECKPOINTED = Row("  as trained, checkpointing", embed="visible", adamw="fused", checkpointing=True)
BF16 = Row("  as trained, bf16", embed="visible", adamw="fused", precision="bf16")
COMPILED = Row("  as trained, compiled", embed="visible", adamw="fused", compiled=True)
PUBLISHED = Row("published choices", code="published")
HUGGING_FACE = Row("Hugging Face, encoder masking", code="huggingface", hidden="encoder")

BESIDE = (
    (ENCODER, ALL), (DUAL, ENCODER), (VISIBLE, DUAL), (FUSED, DUAL), (BOTH, DUAL),
    (DUAL, PUBLISHED), (BOTH, PUBLISHED), (ENCODER, HUGGING_FACE), (BF16, BOTH), (COMPILED, BOTH),
)  # fmt: skip
"""(row, what it may not be slower than)."""


@dataclass(frozen=True)
class Case:
    """What all rows of one table share."""

    size: str
    device: torch.device
    precision: Precision
    batch: Batch

    def backbone(self, row: Row) -> VideoMAEPretrainConfig:
        """The row's model, fitted to the batch's frames and crop."""
        frames, crop = self.batch.clip.shape[2], self.batch.clip.shape[-1]
        name = f"videomae_v2_{self.size}_pretrain"
        return cast(VideoMAEPretrainConfig, configure(name, embed=row.embed, frames=frames, crop=crop))

    def precision_of(self, row: Row) -> Precision:
        """The precision that the row computes in."""
        return row.precision or self.precision


class AllTokens(Masked):
    """No masks: the encoder sees every token, the decoder reconstructs every position, all count in the loss."""

    def forward(self, batch: Batch, mode: Mode = "train") -> Step:
        """Loss over all tokens."""
        model = cast(VideoMAEPretrain, self.model)
        clip = normalise(batch.clip)
        tokens = model.encoder_to_decoder(model.encoder(clip))
        prediction = model.decoder(tokens + model.position.to(tokens.dtype), tokens.shape[1])
        return Step((prediction.float() - all_targets(clip, model.config.tubelet)).square().mean(), {})


def choose(device: torch.device, compiled: bool) -> tuple[list[Row], list[str]]:
    """The rows that this machine can run, and why it does not run the others."""
    rows = [ALL, ENCODER, DUAL, VISIBLE, FUSED, BOTH, CHECKPOINTED]
    skipped = []
    if device.type == "cpu" and has_bf16_units():
        rows.append(BF16)
    elif device.type == "cpu":
        skipped.append("bf16: this CPU has no bf16 units (AVX512_BF16 or AMX), where it would be many times slower")
    rows += [COMPILED] if compiled else []
    rows.append(PUBLISHED)
    missing = why_no_transformers()
    rows += [HUGGING_FACE] if missing is None else []
    skipped += [f"Hugging Face: {missing}"] if missing is not None else []
    return rows, skipped


def why_no_transformers() -> str | None:
    """Why Hugging Face's VideoMAE cannot be run here; None if it can."""
    if importlib.util.find_spec("transformers") is None:
        return "the package transformers is not installed"
    try:
        importlib.import_module("transformers.models.videomae.modeling_videomae")
    except ImportError as error:
        return f"the installed package transformers cannot be imported ({error})"
    return None


def has_bf16_units() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


def recipe_of(row: Row, backbone: VideoMAEPretrainConfig) -> Recipe:
    """Marey's recipe with the row's masks."""
    if row.hidden == "nothing":
        return AllTokens(MaskedConfig(), backbone.build())
    return MaskedConfig(decoder_mask_ratio=DECODER_MASK_RATIO if row.hidden == "dual" else 0.0).build(backbone)


def prepare(row: Row, case: Case) -> Ready:
    """Build the row's model and optimiser on the case's device, with AdamW's moments in place."""
    torch.manual_seed(0)
    ready = {"marey": _marey, "published": _published, "huggingface": _hugging_face}[row.code](row, case)
    make_moments(ready)
    return ready


def _marey(row: Row, case: Case) -> Ready:
    with case.device:
        recipe = recipe_of(row, case.backbone(row))
    if row.compiled:
        recipe.model.get_submodule("encoder").compile()
        recipe.model.get_submodule("decoder").compile()
    engine = EngineConfig(
        precision=case.precision_of(row), activation_checkpointing="blocks" if row.checkpointing else "off"
    )
    strategy = TorchStrategy(recipe, OPTIM, engine, case.device)
    if row.adamw == "plain":
        strategy.optimizer = _plain(recipe)
    return Ready(lambda: strategy.step([case.batch], OPTIM.base_lr).loss, recipe, strategy.optimizer)


def _published(row: Row, case: Case) -> Ready:
    config = case.backbone(row)
    with case.device:
        model = PublishedVideoMAE(config)
    mask, decode_mask = draw_masks(config, case.batch.key)

    def loss() -> Tensor:
        clip = normalise(case.batch.clip)
        return model(clip, mask.to(clip.device), decode_mask.to(clip.device))

    return _plain_loop(loss, model, row, case)


def _hugging_face(row: Row, case: Case) -> Ready:
    import transformers

    config = case.backbone(row)
    theirs = transformers.VideoMAEConfig(
        image_size=config.crop, patch_size=config.tubelet[1], num_frames=config.frames, tubelet_size=config.tubelet[0],
        hidden_size=config.width, num_hidden_layers=config.depth, num_attention_heads=config.num_heads,
        intermediate_size=int(config.width * config.mlp_ratio), layer_norm_eps=1e-6,
        decoder_hidden_size=config.decoder_width, decoder_num_hidden_layers=config.decoder_depth,
        decoder_num_attention_heads=config.decoder_num_heads,
        decoder_intermediate_size=int(config.decoder_width * config.mlp_ratio),
    )  # fmt: skip
    model = transformers.VideoMAEForPreTraining(theirs).to(case.device)
    mask, _ = draw_masks(config, case.batch.key)

    def loss() -> Tensor:
        clip = normalise(case.batch.clip).transpose(1, 2)
        return model(clip, bool_masked_pos=mask.to(clip.device)).loss

    return _plain_loop(loss, model, row, case)


def _plain_loop(loss: Callable[[], Tensor], model: nn.Module, row: Row, case: Case) -> Ready:
    optimizer = _plain(model)
    return Ready(plain_step(loss, model, optimizer, case.device, case.precision_of(row) == "bf16"), model, optimizer)


def draw_masks(config: VideoMAEPretrainConfig, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Masks of VideoMAE V2 that hide and that skip, bool [B, N], drawn beforehand as the published loader does."""
    rngs = [masks.as_rng(key) for key in keys.tolist()]
    hide = [torch.from_numpy(masks.tube(config.grid, MASK_RATIO, rng)) for rng in rngs]
    skip = [torch.from_numpy(masks.running_cell(config.grid, DECODER_MASK_RATIO, rng)) for rng in rngs]
    return torch.stack(hide), torch.stack(skip)


def _plain(model: nn.Module) -> torch.optim.AdamW:
    return plain_adamw(model, OPTIM.weight_decay, OPTIM.base_lr, OPTIM.betas)
