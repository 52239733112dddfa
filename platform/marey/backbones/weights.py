"""Published weights into our models: names changed by the family, everything that did not fit reported."""

import pickle
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from marey.backbones.base import Classifier
from marey.errors import WeightsError

_HINT = "; strict=False loads the rest and reports these"


class LoadReport(NamedTuple):
    """What a load left over: our names that got nothing, their names that found no place."""

    missing: list[str]
    unexpected: list[str]


def load_renamed(
    model: nn.Module, state_dict: Mapping[str, Any], rename: Callable[[str], str], strict: bool = True
) -> LoadReport:
    """Copy ``state_dict``, or the one under its key ``model``, into ``model``, each name through ``rename``.

    Integer buffers that a model computes itself are neither missing nor unexpected. Raises `WeightsError` where a
    shape differs, and with ``strict`` where anything is missing or unexpected.
    """
    ours = model.state_dict()
    found: dict[str, Tensor] = {}
    unexpected: list[str] = []
    for name, tensor in _unwrap(state_dict).items():
        target = rename(name)
        if target in ours:
            found[target] = tensor
        elif tensor.is_floating_point():
            unexpected.append(name)
    missing = [name for name, tensor in ours.items() if name not in found and tensor.is_floating_point()]
    _check_shapes(ours, found)
    if strict and (missing or unexpected):
        raise WeightsError(_leftovers(model, missing, unexpected))
    model.load_state_dict(found, strict=False)
    return LoadReport(missing, unexpected)


def load_start(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    rename: Callable[[str], str],
    encoder_name: Callable[[str], str | None],
) -> LoadReport:
    """Weights to start from: see `marey.backbones.zoo.start_from`. The report lists what stayed as initialised."""
    ours = model.state_dict()
    given = {rename(name): tensor for name, tensor in _unwrap(state_dict).items()}
    encoder = {inner: tensor for name, tensor in given.items() if (inner := encoder_name(name)) is not None}
    chosen = encoder if _hits(encoder, ours) > _hits(given, ours) else given
    head = {name for name in ours if isinstance(model, Classifier) and model.layer_of(name) > model.num_layers}
    found = {
        name: tensor
        for name, tensor in chosen.items()
        if name in ours and not (name in head and tensor.shape != ours[name].shape)
    }
    _check_shapes(ours, found)
    missing = [name for name, tensor in ours.items() if name not in found and tensor.is_floating_point()]
    if lost := [name for name in missing if name not in head]:
        raise WeightsError(f"not a start for this model: {_leftovers(model, lost, [])}".removesuffix(_HINT))
    model.load_state_dict(found, strict=False)
    return LoadReport(missing, [name for name in chosen if name not in ours])


def _hits(tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> int:
    return sum(name in ours for name in tensors)


def _unwrap(state_dict: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The tensors themselves: published files hold them under ``model``, ``module`` or ``state_dict``."""
    for key in ("model", "module", "state_dict", "model_state"):
        inner = state_dict.get(key)
        if isinstance(inner, Mapping):
            return inner
    return {name: value for name, value in state_dict.items() if isinstance(value, Tensor)}


def _check_shapes(ours: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    wrong = [
        f"{name}: file {list(tensor.shape)}, model {list(ours[name].shape)}"
        for name, tensor in found.items()
        if tensor.shape != ours[name].shape
    ]
    if wrong:
        raise WeightsError(
            f"{len(wrong)} tensors differ in shape ({_some(wrong)}); create the model with the file's sizes, "
            "e.g. num_classes=, frames=, crop="
        )


def _leftovers(model: nn.Module, missing: list[str], unexpected: list[str]) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {type(model).__name__}'s tensors are not in the file ({_some(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} of the file's tensors have no place in it ({_some(unexpected)})")
    return "; ".join(parts) + _HINT


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f", … {len(names) - most} more" if len(names) > most else "")


def read_weights(path: str) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file, or of a PyTorch file read without unpickling code.

    Raises `WeightsError` for a file that holds anything else than tensors and plain values.
    """
    if path.endswith(".safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path}: is no whole safetensors file ({error})") from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"{path}: holds more than weights, or is no PyTorch file ({reason}); not opened") from None
    return dict(_unwrap(loaded))
