"""Every recipe by its kind."""

from collections.abc import Mapping
from typing import Any

from marey.config import suggestion, validate
from marey.errors import ConfigError
from marey.recipes.base import RecipeConfig
from marey.recipes.masked import MaskedConfig
from marey.recipes.supervised import SupervisedConfig

RECIPES: tuple[type[RecipeConfig], ...] = (MaskedConfig, SupervisedConfig)


def kinds() -> dict[str, type[RecipeConfig]]:
    """Settings class by kind."""
    return {recipe.model_fields["kind"].default: recipe for recipe in RECIPES}


def from_setting(value: Any) -> Any:
    """A setting (a kind, or a mapping; without a ``kind`` it is masked) as settings; anything else unchanged."""
    value = {"kind": value} if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        return value
    known, kind = kinds(), value.get("kind", "masked")
    if kind not in known:
        raise ConfigError(f"recipe.kind={kind!r}: no such recipe{suggestion(str(kind), known)}")
    return validate(known[kind], value)
