"""Our models against the published ones: parameters, names, outputs and what lies between, operations."""

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import marey
from golden.records import FOLDER, RECORDS, read, runs
from golden.rule import difference, draw_input, fill, to_mask
from marey.backbones.zoo import family_of

TOLERANCE = 1e-4  # of the output's largest value
RUNNING = [record for record in RECORDS if runs(record)]
MASKED = [record for record in RUNNING if "pretrain" in record]  # VideoMAE's


def on_meta(record: str) -> nn.Module:
    name, overrides = RECORDS[record]
    with torch.device("meta"):
        return marey.create_model(name, **overrides)


@pytest.fixture(scope="module", autouse=True)
def _memory():
    yield
    published.cache_clear()


@lru_cache(maxsize=3)
def published(name: str, overrides: tuple) -> dict[str, Tensor]:
    """The state dict of a record's model under the authors' names; two records of one model have the same."""
    record = next(key for key, call in RECORDS.items() if call == (name, dict(overrides)) and runs(key))
    return {key: fill(key, value["shape"]) for key, value in read(record)["state_dict"].items()}


def loaded(record: str, **more: Any) -> nn.Module:
    name, overrides = RECORDS[record]
    model = marey.create_model(name, **overrides, **more).eval()
    report = marey.load_published(model, published(name, tuple(overrides.items())))
    assert report == ([], [])
    return model


def masks_of(content: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    if "keep_mask" in content:  # Hiera says which units are kept
        return ~to_mask(content["keep_mask"]), None
    if "mask" in content:  # VideoMAE decodes what is masked
        return to_mask(content["mask"]), None
    return to_mask(content["encoder_mask"]), to_mask(content["decoder_mask"])


@torch.no_grad()
def outputs(model: nn.Module, content: dict[str, Any]) -> dict[str, Tensor]:
    clip = draw_input("clip", content["inputs"]["clip"])
    if "logits" in content["outputs"]:
        return classified(model, clip, content["outputs"])
    found = model(clip, *masks_of(content))
    if "pred" in content["outputs"]:
        return {"loss": found.loss, "pred": found.reconstruction[0], "label": found.targets[0]}
    return found._asdict()


def classified(model: nn.Module, clip: Tensor, wanted: dict[str, Any]) -> dict[str, Tensor]:
    """Hiera's records hold probabilities and the maps of the stages, [B, (T,) H, W, C], too."""
    logits = model(clip)
    found = {"logits": logits}
    if "probabilities" in wanted:
        found["probabilities"] = logits.softmax(1)
    if "stage1" in wanted:
        for number, (tokens, grid) in enumerate(model.pyramid(clip), 1):
            found[f"stage{number}"] = tokens.unflatten(1, [size for size in grid if size > 1])
    return found


def test_every_record_file_is_used():
    parts = {"videomae_v2_masks", "hiera_unroll_2d", "hiera_unroll_3d"}
    assert {path.stem for path in FOLDER.glob("*.json")} == {*RECORDS, *parts}


@pytest.mark.parametrize("record", RECORDS)
def test_parameters(record: str):
    assert sum(p.numel() for p in on_meta(record).parameters()) == read(record)["parameters"]


@pytest.mark.parametrize("record", RECORDS)
def test_published_names_and_shapes_all_fit(record: str):
    state = {
        name: torch.empty(value["shape"], dtype=getattr(torch, value["dtype"]), device="meta")
        for name, value in read(record)["state_dict"].items()
    }
    assert marey.load_published(on_meta(record), state) == ([], [])


@pytest.mark.parametrize("record", RUNNING)
def test_outputs_and_probes(record: str):
    content, model, probes = read(record), loaded(record), {}
    for name in content["probes"]:
        model.get_submodule(family_of(model).rename(name)).register_forward_hook(
            lambda module, inputs, output, name=name: probes.update({name: output.clone()})
        )
    found = outputs(model, content)
    assert found.keys() == content["outputs"].keys()
    for name, expected in content["outputs"].items():
        assert difference(found[name], expected, content["output_absmax"][name]) < TOLERANCE, name
    for name, expected in content["probes"].items():
        assert difference(probes[name], expected) < TOLERANCE, name


@pytest.mark.parametrize("record", MASKED)
def test_embedding_visible_tubelets_alone_gives_the_same(record: str):
    content, model = read(record), loaded(record, embed="visible")
    embedded = []
    model.encoder.patch_embed.register_forward_hook(lambda module, inputs, output: embedded.append(output.shape[1]))
    found = outputs(model, content)
    assert embedded == [content["visible_tokens"]]
    for name, expected in content["outputs"].items():
        assert difference(found[name], expected, content["output_absmax"][name]) < TOLERANCE, name


@pytest.mark.parametrize("record", RECORDS)
def test_multiply_adds(record: str):
    content, model = read(record), on_meta(record)
    clip = torch.empty(content["inputs"]["clip"], device="meta")
    arguments = []
    if "pretrain" in RECORDS[record][0]:
        both = record.startswith("videomae_v2")
        ratio = 0.6 if record == "mae_hiera_base_224" else 0.9
        drawn = model.draw_masks(np.random.RandomState(0), ratio, 0.5 if both else 0.0)
        arguments = [None if mask is None else mask[None] for mask in drawn]
    # The counter knows no operations of the CPU's fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(clip, *arguments)
    assert counter.get_total_flops() / 2e9 == pytest.approx(content["flops"]["giga"], rel=0.01)
