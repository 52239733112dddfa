"""Names, overrides and weights of others."""

import pytest
import torch

import marey
from marey.backbones.base import Classifier
from marey.backbones.weights import read_weights
from marey.backbones.zoo import VARIANTS, create_model, start_from
from marey.errors import ConfigError, WeightsError
from marey.nn.droppath import set_keys

PARAMETERS = {
    "videomae_v2_small_16x224": 22_033_936,
    "videomae_v2_base_16x224": 86_534_800,
    "videomae_v2_large_16x224": 304_270_736,
    "videomae_v2_huge_16x224": 632_119_440,
    "videomae_v2_giant_16x224": 1_012_174_352,
    "hiera_tiny_224": 27_910_216,
    "hiera_small_224": 35_008_072,
    "hiera_base_224": 51_524_968,
    "hiera_base_plus_224": 69_896_616,
    "hiera_large_224": 213_739_912,
    "hiera_huge_224": 672_779_752,
    "hiera_base_16x224": 51_092_560,
    "hiera_base_plus_16x224": 69_392_240,
    "hiera_large_16x224": 213_091_600,
    "hiera_huge_16x224": 671_627_664,
    "hiera_base_16x224_pretrain": 79_367_104,
    "hiera_large_16x224_pretrain": 243_621_760,
    "hiera_huge_16x224_pretrain": 710_861_568,
    "r3d_18": 33_371_472,
    "mc3_18": 11_695_440,
    "r2plus1d_18": 31_505_325,
    "videomae_v2_small_pretrain": 24_029_376,
    "videomae_v2_base_pretrain": 94_210_944,
    "videomae_v2_large_pretrain": 317_782_016,
    "videomae_v2_huge_pretrain": 645_659_392,
    "videomae_v2_giant_pretrain": 1_026_306_560,
}
TINY = {"depth": 1, "width": 48, "frames": 4, "crop": 32}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameters(name: str, parameters: int):
    with torch.device("meta"):
        assert sum(p.numel() for p in create_model(name).parameters()) == parameters


def test_names_are_listed_by_pattern():
    assert marey.list_models("videomae_v2_*_pretrain") == [
        f"videomae_v2_{s}_pretrain" for s in ("tiny", "small", "base", "large", "huge", "giant")
    ]
    assert set(marey.list_models()) == set(VARIANTS)


def test_a_wrong_name_or_field_or_value_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="videomae_v2_base_16x224"):
        create_model("videomae_v2_bse_16x224")
    with pytest.raises(ConfigError, match="did you mean 'num_classes'"):
        create_model("videomae_v2_base_16x224", num_clases=3)
    with pytest.raises(ConfigError, match="not a multiple of the tubelet"):
        create_model("videomae_v2_base_16x224", crop=100)
    with pytest.raises(ConfigError, match="not a multiple of num_heads"):
        create_model("videomae_v2_base_16x224", num_heads=7)


def test_published_files_load_under_their_wrappers_and_prefixes():
    source, target = (create_model("videomae_v2_tiny_16x224", **TINY) for _ in range(2))
    state = {f"module.backbone.{name}": tensor for name, tensor in source.state_dict().items()}
    report = marey.load_published(target, {"model": {**state, "steps": torch.tensor(3)}})
    assert report == ([], [])
    assert all(torch.equal(one, other) for one, other in zip(source.parameters(), target.parameters(), strict=True))


def test_what_is_left_over_is_an_error_or_a_report():
    model = create_model("videomae_v2_tiny_16x224", **TINY)
    state = {**model.state_dict(), "decoder.strange": torch.zeros(2)}
    del state["head.bias"]
    with pytest.raises(WeightsError, match=r"head\.bias(.|\n)*decoder\.strange"):
        marey.load_published(model, state)
    assert marey.load_published(model, state, strict=False) == (["head.bias"], ["decoder.strange"])


def test_another_number_of_classes_is_told_with_both_shapes():
    model, other = (
        create_model("videomae_v2_tiny_16x224", **TINY),
        create_model("videomae_v2_tiny_16x224", **TINY, num_classes=3),
    )
    with pytest.raises(WeightsError, match=r"head\.weight: file \[3, 48\], model \[400, 48\](.|\n)*num_classes"):
        marey.load_published(model, other.state_dict())


class Payload:
    def __reduce__(self):
        return (print, ("this code must not run",))


def test_files_with_code_in_them_are_not_opened(tmp_path, capsys):
    path = tmp_path / "hostile.pth"
    torch.save({"model": Payload()}, path)
    with pytest.raises(WeightsError, match="holds more than weights"):
        read_weights(str(path))
    assert "must not run" not in capsys.readouterr().out


SMALL = {
    "videomae_v2_tiny_16x224": {**TINY, "depth": 2},
    "hiera_tiny_16x224": {"depths": (1, 1, 1, 1), "width": 16, "frames": 4, "crop": 32},
    "hiera_tiny_224": {"depths": (1, 1, 1, 1), "width": 16, "crop": 32},
    "r3d_18": {"depths": (1, 1, 1, 1), "width": 8, "frames": 4, "crop": 32},
    "mc3_18": {"depths": (1, 1, 1, 1), "width": 8, "frames": 4, "crop": 32},
    "r2plus1d_18": {"depths": (1, 1, 1, 1), "width": 8, "frames": 4, "crop": 32},
}


@pytest.mark.parametrize("name", SMALL)
def test_every_family_keeps_the_contract_of_a_classifier(name: str):
    model = create_model(name, **SMALL[name], num_classes=7, in_channels=2, drop_path=0.5).eval()
    config = model.config
    assert isinstance(model, Classifier)
    clip = torch.randn(2, 2, config.frames, 32, 32)
    assert model(clip).shape == (2, 7)
    tokens, grid = model.features(clip)
    assert tokens.shape[:2] == (2, grid.tokens)
    layers = {parameter: model.layer_of(parameter) for parameter, _ in model.named_parameters()}
    assert set(layers.values()) == set(range(model.num_layers + 2))
    head = {layer for parameter, layer in layers.items() if parameter.startswith(("head", "fc."))}
    assert head == {model.num_layers + 1}
    set_keys(model.train(), torch.tensor([1, 2]))
    model(clip).sum().backward()
    other = create_model(name, **SMALL[name], num_classes=3, in_channels=2)
    fresh = start_from(other, model.state_dict()).missing
    assert fresh
    assert all(other.layer_of(parameter) == other.num_layers + 1 for parameter in fresh)
