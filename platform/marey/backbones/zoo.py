"""Every variant by name: the one dict, built from the families' tables, and how to find, list and create them."""

import difflib
import fnmatch
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from marey.backbones import hiera, hiera_pretrain, resnet3d, videomae
from marey.backbones.base import BackboneConfig
from marey.backbones.weights import LoadReport, load_renamed, load_start
from marey.config import validate
from marey.errors import ConfigError

FAMILIES: tuple[ModuleType, ...] = (videomae, hiera, hiera_pretrain, resnet3d)


def variants() -> dict[str, BackboneConfig]:
    """Every family's variants, each with its name."""
    found = {name: config for family in FAMILIES for name, config in family.VARIANTS.items()}
    return {name: config.model_copy(update={"name": name}) for name, config in found.items()}


VARIANTS: dict[str, BackboneConfig] = variants()


def find(name: str) -> BackboneConfig:
    """The configuration of a variant; `ConfigError` with the nearest names where there is none."""
    if name in VARIANTS:
        return VARIANTS[name]
    near = difflib.get_close_matches(name, VARIANTS, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`marey models` lists them"
    raise ConfigError(f"backbone {name!r} does not exist; {hint}")


def configure(name: str, **overrides: Any) -> BackboneConfig:
    """A variant's configuration with fields overridden; `ConfigError` names the nearest field for a misspelt one."""
    config = find(name)
    try:
        return validate(type(config), {**config.model_dump(), **overrides})
    except ConfigError as error:
        raise ConfigError(f"backbone {name}: {error}") from None


def from_setting(value: Any) -> Any:
    """A setting (a name, or a mapping with ``name`` and overrides) as a configuration; anything else unchanged."""
    if isinstance(value, str):
        return find(value)
    if isinstance(value, Mapping) and value.get("name"):
        variant = find(str(value["name"]))
        own = {key: given for key, given in value.items() if key != "name"}
        return configure(variant.name, **own)
    return value


def create_model(name: str, **overrides: Any) -> nn.Module:
    """A freshly initialised model: the paper's configuration, keywords override its fields.

    The fields that every family spells alike where they apply: num_classes, frames, crop, in_channels, drop_path;
    plain transformers depth, width, num_heads. Raises `ConfigError` for an unknown name, field or value.
    """
    return configure(name, **overrides).build()


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern (``"videomae_v2_*_pretrain"``), in the families' order."""
    return [name for name in VARIANTS if fnmatch.fnmatch(name, pattern)]


def load_published(model: nn.Module, state_dict: Mapping[str, Any], strict: bool = True) -> LoadReport:
    """Load a state dict under the authors' names; the report lists what was missing and unexpected.

    Raises `WeightsError` where a shape differs and, unless ``strict=False``, where anything is left over.
    """
    return load_renamed(model, state_dict, family_of(model).rename, strict)


def start_from(model: nn.Module, state_dict: Mapping[str, Any]) -> LoadReport:
    """Start a training from weights of the same family: of the model itself, or of its pre-training model.

    A head for other classes is left as it was initialised. Raises `WeightsError` where anything below the head is
    missing or of another shape.
    """
    family = family_of(model)
    return load_start(model, state_dict, family.rename, family.encoder_name)


def family_of(model: nn.Module) -> ModuleType:
    """The module of the model's family; `ConfigError` for a model that is not of `create_model`."""
    config = getattr(model, "config", None)
    for family in FAMILIES:
        if any(type(config) is type(variant) for variant in family.VARIANTS.values()):
            return family
    raise ConfigError(f"{type(model).__name__} is not a model of create_model: its family is not known")
