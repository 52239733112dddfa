"""Weights of others: what is copied, what is left over, what is refused."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from marey.backbones import videomae
from marey.backbones.weights import load_renamed, read_weights
from marey.errors import WeightsError


def same_name(name: str) -> str:
    return name


def model() -> nn.Module:
    """A weight, a bias, and an integer buffer that is computed (`num_batches_tracked`)."""
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def tensors() -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, 7) for name, tensor in model().state_dict().items()}


def test_every_tensor_is_copied():
    target = model()
    assert load_renamed(target, tensors(), same_name) == ([], [])
    assert all((tensor == 7).all() for tensor in target.state_dict().values())


@pytest.mark.parametrize("key", ["model", "module", "state_dict"])
def test_files_hold_the_tensors_under_a_key(key: str):
    assert load_renamed(model(), {key: tensors(), "epoch": 3}, same_name) == ([], [])


def test_what_is_no_tensor_is_passed_over():
    assert load_renamed(model(), {**tensors(), "epoch": 3}, same_name) == ([], [])


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "backbone.", "_orig_mod.", "module.model.", "module.backbone."]
)
def test_wrappers_prefixes_are_dropped(prefix: str):
    assert videomae.rename(f"{prefix}blocks.0.attn.q_bias") == "blocks.0.attn.q_bias"


def test_integer_buffers_are_neither_missing_nor_unexpected():
    state = {**tensors(), "relative_position_index": torch.zeros(4, dtype=torch.int64)}
    del state["1.num_batches_tracked"]
    assert load_renamed(model(), state, same_name) == ([], [])


def test_left_overs_are_reported_and_the_rest_is_loaded():
    target, state = model(), {**tensors(), "strange": torch.zeros(1)}
    del state["0.bias"]
    assert load_renamed(target, state, same_name, strict=False) == (["0.bias"], ["strange"])
    assert (target[0].weight == 7).all()


def test_strict_refuses_left_overs_and_changes_nothing():
    target, state = model(), {**tensors(), "strange": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"strange.*strict=False"):
        load_renamed(target, state, same_name)
    assert not (target[0].weight == 7).any()


@pytest.mark.parametrize("strict", [True, False])
def test_another_shape_is_refused_with_both(strict: bool):
    state = {**tensors(), "0.weight": torch.zeros(3, 5)}
    with pytest.raises(WeightsError, match=r"0\.weight: file \[3, 5\], model \[3, 2\]"):
        load_renamed(model(), state, same_name, strict)


def test_long_lists_are_cut():
    state = {f"strange{number}": torch.zeros(1) for number in range(12)}
    with pytest.raises(WeightsError, match="strange4, … 7 more"):
        load_renamed(nn.Identity(), state, same_name)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "wrapped.pth"])
def test_files_of_both_kinds_are_read(tmp_path, name: str):
    path = tmp_path / name
    state = tensors()
    if name.endswith("pth"):
        torch.save({"model": state, "epoch": 3} if name == "wrapped.pth" else state, path)
    else:
        save_file(state, path)
    found = read_weights(str(path))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


class Payload:
    def __reduce__(self):
        return (open, ("ran.txt", "w"))


def test_a_file_with_code_in_it_is_refused_and_the_code_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": tensors(), "extra": Payload()}, "hostile.pth")
    with pytest.raises(WeightsError, match="holds more than weights"):
        read_weights("hostile.pth")
    assert not (tmp_path / "ran.txt").exists()
