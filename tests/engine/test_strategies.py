"""PyTorch and DeepSpeed ZeRO 0 to 3, at one and two workers, compute the same; what one saves any other loads."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import worker_group

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
HERE = Path(__file__).resolve().parent
KINDS = ["torch1", "deepspeed0", "deepspeed1", "deepspeed2", "deepspeed3"]
ROUNDING = 2e-5  # of a loss or a gradient norm, after twenty steps in fp32


def run(world: int, folder: Path) -> dict[str, list[list[float]]]:
    """Run `strategies.py` in ``world`` processes; what it told."""
    worker_group.run(HERE / "strategies.py", world, folder)
    return json.loads((folder / f"told{world}.json").read_text())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[float]]]:
    """Loss and gradient norm by step of every run; one worker also takes up what two have saved."""
    folder = tmp_path_factory.mktemp("strategies")
    with ThreadPoolExecutor(2) as beside:  # two workers wait for each other: there is time for the one
        two, one = beside.submit(run, 2, folder), beside.submit(run, 1, folder)
    return two.result() | one.result()


def worst(one: list[list[float]], other: list[list[float]]) -> float:
    """Largest relative difference."""
    assert len(one) == len(other) > 0
    return max(abs(a - b) / abs(b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_steps_have_the_same_losses_and_gradient_norms(told, kind, world):
    reference = told["torch1x1"]
    assert len(reference) == 20
    assert max(norm for _, norm in reference) > 0.15, "the limit on the gradient must have bitten"
    assert worst(told[f"{kind}x{world}"], reference) < ROUNDING


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saved", ["deepspeed3x2", "deepspeed2x2", "deepspeed0x2"])
def test_what_two_workers_saved_goes_on_under_any_strategy(told, saved, kind, world):
    assert worst(told[f"{saved} as {kind}x{world}"], told["torch1x1"][12:]) < ROUNDING


@pytest.mark.parametrize("saved", KINDS)
def test_what_one_worker_saved_goes_on_under_zero3(told, saved):
    assert worst(told[f"{saved}x1 as deepspeed3x1"], told["torch1x1"][12:]) < ROUNDING


CROSSINGS = ["deepspeed3 as torch1", "deepspeed2 as deepspeed3", "torch1 as deepspeed1"]


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_fine_tuning_with_layer_decay_and_a_moving_average_is_the_same(told, optimiser, kind, world):
    reference = told[f"{optimiser} torch1x1"]
    averaged = [row[2] for row in reference]
    assert len(set(averaged)) == len(averaged) == 8, "the average must move"
    assert worst(told[f"{optimiser} {kind}x{world}"], reference) < ROUNDING


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("crossing", CROSSINGS)
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_moments_and_the_moving_average_go_on_under_another_strategy(told, optimiser, crossing, world):
    assert worst(told[f"{optimiser} {crossing}x{world}"], told[f"{optimiser} torch1x1"][4:]) < ROUNDING


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_synchronised_batch_norm_sees_all_workers_clips(told, kind, world):
    assert worst(told[f"synchronised {kind}x{world}"], told["synchronised torch1x1"]) < ROUNDING


def test_the_private_names_of_deepspeed_that_are_relied_on_exist():
    check = (
        "import deepspeed.ops, inspect; from deepspeed.runtime.zero import stage_1_and_2 as z, stage3;"
        "assert 'deepspeed_shm_comm' in deepspeed.ops.__compatible_ops__;"
        "assert '_hp_optimizer_states_linked' in inspect.getsource(z);"
        "assert 'single_partition_of_fp32_groups' in inspect.getsource(z);"
        "assert 'fp32_partitioned_groups_flat' in inspect.getsource(stage3)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)
