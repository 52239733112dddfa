"""fp16: a scale that follows the gradients, loses no batch, and is part of what is saved."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from marey.backbones.zoo import configure
from marey.clips.batch import Batch
from marey.engine.optim import OptimConfig
from marey.engine.precision import LossScale
from marey.engine.strategy import EngineConfig, TorchStrategy, build
from marey.recipes.masked import MaskedConfig
from marey.recipes.supervised import SupervisedConfig

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
HERE = Path(__file__).resolve().parent
TINY = {"frames": 4, "crop": 32, "depth": 2, "width": 48, "decoder_width": 48, "decoder_depth": 1, "drop_path": 0.2}
NETWORK = {"frames": 4, "crop": 32, "width": 8, "depths": (1, 1, 1, 1), "num_classes": 5}


def batches(step: int, passes: int = 2) -> list[Batch]:
    pixels = torch.randint(0, 256, (8, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(step))
    keys, labels = torch.arange(8) * 104729 + step, torch.arange(8) % 5
    return [
        Batch(pixels[part], keys[part], ("clip",) * (8 // passes), labels[part])
        for part in (slice(8 * one // passes, 8 * (one + 1) // passes) for one in range(passes))
    ]


def masked(**engine) -> TorchStrategy:
    torch.manual_seed(0)
    recipe = MaskedConfig(mask_ratio=0.5).build(configure("videomae_v2_tiny_pretrain", **TINY))
    return build(recipe, OptimConfig(base_lr=1e-3, clip_grad=0.5, ema=0.9), EngineConfig(device="cpu", **engine), CPU)


def network(**engine) -> TorchStrategy:
    torch.manual_seed(0)
    recipe = SupervisedConfig().build(configure("r3d_18", **NETWORK))
    optim = OptimConfig(kind="sgd", base_lr=1e-2)
    return build(recipe, optim, EngineConfig(device="cpu", **engine), CPU)


def losses(strategy: TorchStrategy, first: int = 0, last: int = 6) -> list[float]:
    return [strategy.step(batches(number), 1e-3).loss for number in range(first, last)]


def weights(strategy: TorchStrategy) -> dict[str, torch.Tensor]:
    return strategy.state().weights


@pytest.mark.parametrize("make", [masked, network])
def test_sixteen_bits_train_alike(make):
    exact = losses(make())
    assert losses(make(precision="fp16")) == pytest.approx(exact, rel=2e-3)
    assert losses(make(precision="bf16")) == pytest.approx(exact, rel=2e-2)


@pytest.mark.parametrize("make", [masked, network])
def test_a_step_that_overflows_is_computed_again_and_no_batch_is_lost(make):
    usual, high = make(precision="fp16"), make(precision="fp16")
    usual.scale.value, high.scale.value = 2.0**8, 2.0**24
    assert losses(high, 0, 3) == pytest.approx(losses(usual, 0, 3), rel=1e-4)
    assert high.scale.value < 2.0**24
    counted = {name: tensor for name, tensor in weights(high).items() if name.endswith("num_batches_tracked")}
    assert {int(tensor) for tensor in counted.values()} <= {6}  # two passes a step, those computed again left out


def test_a_saved_run_goes_on_bit_for_bit_with_its_scale():
    unbroken, first, second = (masked(precision="fp16") for _ in range(3))
    first.scale.value = unbroken.scale.value = 2.0**24
    whole = losses(unbroken)
    begun = losses(first, 0, 3)
    second.load(first.state())
    assert second.scale.value == first.scale.value < 2.0**24
    assert begun + losses(second, 3) == whole
    assert all(torch.equal(weights(unbroken)[name], tensor) for name, tensor in weights(second).items())
    other = masked(precision="bf16")
    other.load(first.state())
    assert other.scale.value == 1.0


def test_the_scale_grows_when_all_goes_well_and_stops_at_its_limits():
    scale = LossScale("fp16")
    for _ in range(LossScale.PATIENCE):
        scale.stepped()
    assert (scale.value, scale.steps) == (2 * LossScale.START, 0)
    scale.load(LossScale.MOST, LossScale.PATIENCE - 1)
    scale.stepped()
    assert scale.value == LossScale.MOST
    assert scale.overflowed([1.0], math.inf)
    assert scale.value == LossScale.MOST / 2
    scale.load(1.0, 0)
    assert not scale.overflowed([1.0], math.inf)  # not the scale's fault: the step is a bad one


def test_a_loss_that_is_not_finite_is_not_the_scales_fault():
    scale = LossScale("fp16")
    assert not scale.overflowed([math.nan, 1.0], math.nan)
    assert scale.value == LossScale.START


def test_channels_last_computes_the_same():
    usual, laid = network(), network(channels_last=True)
    convolution = next(one for one in laid.recipe.modules() if isinstance(one, torch.nn.Conv3d))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert losses(laid) == pytest.approx(losses(usual), rel=1e-4)
    laid.load(usual.state())
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert set(weights(laid)) == set(weights(usual))


COMPILED = """
import json, sys
import test_precision as this
compiled, whole = this.masked(compile=True), this.masked(compile=True, activation_checkpointing="blocks")
found = [this.losses(one, 0, 3) for one in (this.masked(), compiled, whole)]
assert set(this.weights(compiled)) == set(this.weights(this.masked()))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_compiled_blocks_compute_the_same():
    """In a process of its own, where annotations of shapes are not checked: the compiler cannot trace the checks."""
    path = os.pathsep.join([str(HERE.parent.parent / "platform"), str(HERE)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    usual, *others = json.loads(done.stdout.splitlines()[-1])
    assert others == [pytest.approx(usual, rel=1e-4)] * 2


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match=r"engine.precision=fp16 needs engine.zero=1"):
        EngineConfig(strategy="deepspeed", zero=0, precision="fp16")
    with pytest.raises(ValueError, match=r"engine.compile=true needs engine.zero=2"):
        EngineConfig(strategy="deepspeed", zero=3, compile=True)
