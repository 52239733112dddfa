"""VideoMAE V2: what the encoder sees, what the decoder sees, what the loss counts."""

import numpy as np
import pytest
import torch

import marey
from marey.nn.block import set_checkpointing
from marey.nn.droppath import set_keys
from marey.nn.pixels import denormalise

SMALL = {"frames": 8, "crop": 32, "depth": 2, "width": 48, "decoder_width": 48, "decoder_depth": 1}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return marey.create_model("videomae_v2_tiny_pretrain", **SMALL).eval()


@pytest.fixture
def clip():
    return torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))


def masks(model, seed: int = 0, clips: int = 2, ratio: float = 0.75):
    rng = np.random.default_rng(seed)
    pairs = [model.draw_masks(rng, ratio, 0.5) for _ in range(clips)]
    return tuple(torch.stack(kind) for kind in zip(*pairs, strict=True))


def test_base_decodes_160_visible_and_784_mask_tokens():
    with torch.device("meta"):
        model = marey.create_model("videomae_v2_base_pretrain")
    mask, skip = model.draw_masks(np.random.default_rng(0), 0.9, 0.5)
    assert int((~mask).sum()) == 160
    assert int((~skip).sum()) == 784
    assert int((mask & ~skip).sum()) == 704


def test_blocks_compute_visible_tokens_only_and_the_decoder_no_others(model, clip):
    seen = {}
    model.encoder.blocks[0].register_forward_hook(lambda _m, args, _o: seen.__setitem__("encoder", args[0].shape[1]))
    model.decoder.blocks[0].register_forward_hook(lambda _m, args, _o: seen.__setitem__("decoder", args[0].shape[1]))
    mask, skip = masks(model)
    model(clip, mask, skip)
    visible = int((~mask[0]).sum())
    assert seen == {"encoder": visible, "decoder": visible + int((~skip[0]).sum())}


def test_hidden_pixels_do_not_reach_the_reconstruction(model, clip):
    mask, skip = masks(model)
    hidden = model._assemble(mask[:, :, None, None].expand(-1, -1, 512, 3).float()).permute(0, 4, 1, 2, 3).bool()
    other = torch.where(hidden, torch.randn_like(clip), clip)
    assert torch.equal(model(clip, mask, skip).reconstruction, model(other, mask, skip).reconstruction)


def test_the_loss_is_the_error_at_tokens_decoded_and_hidden(model, clip):
    mask, skip = masks(model)
    output = model(clip, mask, skip)
    error = (output.reconstruction - output.targets).square().mean(-1)
    per_clip = [error[i][mask[i][~skip[i]]].mean() for i in range(2)]
    assert output.loss.item() == pytest.approx(sum(per_clip).item() / 2, rel=1e-5)


@pytest.mark.parametrize("counted", [True, False])
def test_predictions_elsewhere_do_not_count(model, clip, counted):
    mask, skip = masks(model)
    before = model(clip, mask, skip).loss
    hidden = torch.stack([mask[i][~skip[i]] for i in range(2)])  # of the decoded tokens, those that count
    other = torch.randn(hidden.shape)[:, :, None] * (hidden == counted)[:, :, None]
    model.decoder.head.register_forward_hook(lambda module, inputs, output: output + other)
    assert (model(clip, mask, skip).loss != before) == counted


def tubelet_of(clip, place: int):
    """Pixels [t·h·w, C] in 0..1 of one token of a clip [C, T, H, W], by slices."""
    slot, row, column = place // 4, place % 4 // 2, place % 2
    cube = clip[:, 2 * slot : 2 * slot + 2, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
    return denormalise(cube, channel=0).flatten(1).T


def test_targets_are_the_decoded_tubelets_pixels_normalised_by_themselves(model, clip):
    mask, skip = masks(model)
    targets = model(clip, mask, skip).targets
    for i in range(2):
        for found, place in zip(targets[i], (~skip[i]).nonzero().flatten().tolist(), strict=True):
            pixels = tubelet_of(clip[i], place)
            expected = (pixels - pixels.mean(0)) / (pixels.std(0) + 1e-6)
            assert torch.allclose(found, expected.flatten(), atol=1e-4)


def test_pictures_show_the_prediction_with_the_tubelets_own_mean_and_deviation(model, clip):
    mask, _ = masks(model)
    output, _, reconstructed = model.reconstruct(clip, mask)
    place = mask[0].nonzero().flatten().tolist()[3]
    pixels = tubelet_of(clip[0], place)
    expected = output.reconstruction[0, 3].view(512, 3) * (pixels.std(0) + 1e-6) + pixels.mean(0)
    slot, row, column = place // 4, place % 4 // 2, place % 2
    cube = reconstructed[0, 2 * slot : 2 * slot + 2, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
    assert torch.allclose(cube.reshape(512, 3), expected.clamp(0, 1), atol=1e-5)


def test_hidden_tokens_that_are_not_decoded_stay_grey(model, clip):
    mask, skip = masks(model)
    _, _, reconstructed = model.reconstruct(clip, mask, skip)
    grey = model._assemble((mask & skip)[:, :, None, None].expand(-1, -1, 512, 3).float()).bool()
    assert grey.any()
    assert (reconstructed[grey] == 0.5).all()


@pytest.mark.parametrize("embed", ["all", "visible"])
def test_tokens_of_the_visible_do_not_depend_on_the_hidden(clip, embed):
    encoder = marey.create_model("videomae_v2_tiny_pretrain", **SMALL, embed=embed).encoder.eval()
    visible = torch.tensor([[0, 5], [3, 15]])
    other = clip.clone()
    other[0, :, 2:4, :16, :16] = 9.0  # token 4 of the first clip
    assert torch.equal(encoder(clip, visible), encoder(other, visible))
    assert not torch.equal(encoder(clip, visible), encoder(other, torch.tensor([[0, 4], [3, 15]])))


def test_a_decode_mask_without_a_mask_is_refused(model, clip):
    _, skip = masks(model)
    with pytest.raises(ValueError, match="decode_mask"):
        model(clip, None, skip, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["videomae_v2_tiny_pretrain", "videomae_v2_tiny_16x224"])
def test_norms_have_the_published_epsilon(name):
    with torch.device("meta"):
        model = marey.create_model(name)
    found = [module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(found) > 24
    assert set(found) == {1e-6}


def test_fresh_weights_are_drawn_as_published():
    torch.manual_seed(0)
    classifier = marey.create_model("videomae_v2_tiny_16x224", depth=1)
    assert classifier.head.weight.std().item() == pytest.approx(0.02 * 0.001, rel=0.05)
    assert classifier.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    pretrain = marey.create_model("videomae_v2_tiny_pretrain", depth=1)
    largest = pretrain.encoder.blocks[0].mlp.fc1.weight.abs().max().item()  # Xavier's bound
    assert largest == pytest.approx((6 / (192 + 768)) ** 0.5, rel=0.01)
    assert not pretrain.encoder.blocks[0].mlp.fc1.bias.any()


def test_drop_path_follows_the_keys(clip):
    model = marey.create_model("videomae_v2_tiny_pretrain", **SMALL, drop_path=0.9).train()
    pair = masks(model)
    losses = []
    for keys in ([1, 2], [1, 2], [3, 4], [5, 6], [7, 8]):
        set_keys(model, torch.tensor(keys))
        losses.append(model(clip, *pair).loss.item())
    assert losses[0] == losses[1]
    assert len(set(losses)) > 1


def test_targets_have_no_mean_and_unit_deviation_in_each_tubelet_and_channel(model, clip):
    targets = model(clip, *masks(model)).targets.unflatten(-1, (512, 3))
    assert targets.mean(2).abs().max() < 1e-4
    assert (targets.std(2) - 1).abs().max() < 1e-3


def test_without_a_decode_mask_all_that_is_hidden_is_decoded(model, clip):
    mask, _ = masks(model)
    output = model(clip, mask)
    assert output.reconstruction.shape[1] == int(mask[0].sum())


@pytest.mark.parametrize("make", [lambda: torch.Generator().manual_seed(3), lambda: np.random.default_rng(3)])
def test_without_masks_they_are_drawn_from_the_generator(model, clip, make):
    first, second = (model(clip, generator=make()).loss for _ in range(2))
    assert first == second
    assert model(clip, generator=np.random.default_rng(4)).loss != first


def test_pictures_show_the_visible_as_it_is_and_the_hidden_grey_or_reconstructed(model, clip):
    mask, _ = masks(model)
    _, masked, reconstructed = model.reconstruct(clip, mask)
    original = denormalise(clip).movedim(1, -1)
    hidden = model._assemble(mask[:, :, None, None].expand(-1, -1, 512, 3).float()).bool()
    assert masked.shape == reconstructed.shape == (2, 8, 32, 32, 3)
    assert torch.allclose(masked[~hidden], original[~hidden], atol=1e-6)
    assert (masked[hidden] == 0.5).all()
    assert torch.allclose(reconstructed[~hidden], original[~hidden].clamp(0, 1))
    assert (reconstructed[hidden] != 0.5).any()


def test_clips_of_one_batch_must_have_equally_many_tokens(model, clip):
    mask, _ = masks(model)
    mask[0, int(torch.nonzero(mask[0])[0])] = False
    with pytest.raises(ValueError, match="equally many tokens"):
        model(clip, mask)


def test_a_clip_of_another_shape_is_refused_by_the_settings_to_change(model):
    with pytest.raises(ValueError, match="set frames= and crop="):
        model(torch.zeros(1, 3, 16, 32, 32))


@pytest.mark.parametrize(
    "overrides", [{"frames": 32}, {"crop": 112}, {"num_classes": 7}, {"depth": 1}, {"in_channels": 2}]
)
def test_overrides_of_the_classifier(overrides):
    model = marey.create_model("videomae_v2_tiny_16x224", **{"depth": 1, **overrides})
    c = model.config
    logits = model(torch.zeros(1, c.in_channels, c.frames, c.crop, c.crop))
    assert logits.shape == (1, c.num_classes)
    assert model.features(torch.zeros(1, c.in_channels, c.frames, c.crop, c.crop)).tokens.shape[1] == c.grid.tokens


def gradients(model, clip, checkpointing: bool):
    model.train()
    set_checkpointing(model, checkpointing)
    set_keys(model, torch.tensor([5, 6]))
    model.zero_grad()
    model(clip, *masks(model)).loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_activation_checkpointing_changes_no_gradient_with_drop_path_too(clip):
    model = marey.create_model("videomae_v2_tiny_pretrain", **SMALL, drop_path=0.5)
    plain, again = gradients(model, clip, False), gradients(model, clip, True)
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(plain, again, strict=True))
    assert any(one.abs().max() > 0 for one in plain)
