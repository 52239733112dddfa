"""Plain PyTorch and DeepSpeed's stages are the same training, at any number of workers, and take up one another."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.ranks import CLIP, HALF, STEPS, STRATEGIES, TAKEN_UP

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parent.parent
SCRIPT = Path(__file__).with_name("ranks.py")


def launch(world: int, folder: Path) -> None:
    path = os.pathsep.join([str(TESTS.parent / "platform"), str(TESTS)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(world), str(folder)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        texts = [one.communicate(timeout=200)[0] for one in started]
    finally:
        for one in started:
            one.kill()
    assert all(one.returncode == 0 for one in started), "\n".join(texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Both numbers of workers, one process each: the single worker takes up what two have saved."""
    folder = tmp_path_factory.mktemp("strategies")
    launch(2, folder)
    launch(1, folder)
    return folder


@pytest.fixture(scope="module")
def curves(folder: Path) -> dict[int, dict[str, list[tuple[float, float]]]]:
    return {world: json.loads((folder / f"world{world}.json").read_text()) for world in (1, 2)}


@pytest.fixture(scope="module")
def plain(curves) -> list[tuple[float, float]]:
    return curves[1]["torch"]


def test_the_gradients_are_clipped_and_the_loss_falls(plain):
    assert len(plain) == STEPS
    assert max(norm for _, norm in plain) > CLIP
    assert plain[-1][0] < plain[0][0] - 0.01


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("name", STRATEGIES)
def test_losses_and_norms_are_those_of_plain_torch(curves, plain, name: str, world: int):
    found = curves[world][name]
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in plain], rel=1e-6)
    assert [norm for _, norm in found] == pytest.approx([norm for _, norm in plain], rel=1e-5)


@pytest.mark.parametrize(("world", "name"), [(w, name) for w, (_, names) in TAKEN_UP.items() for name in names])
def test_a_state_is_taken_up_by_another_strategy_and_number_of_workers(curves, plain, world: int, name: str):
    found = curves[world][f"{name} after {TAKEN_UP[world][0]}"]
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in plain[HALF:]], rel=1e-6)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("name", STRATEGIES)
def test_states_are_alike_whoever_saved_them(folder: Path, name: str, world: int):
    found, expected = (torch.load(folder / f"{one}.pt") for one in (f"{name}@{world}", "torch@1"))
    assert found["optimizer_steps"] == expected["optimizer_steps"] == HALF
    for kind in ("weights", "moments"):
        torch.testing.assert_close(found[kind], expected[kind], rtol=1e-3, atol=1e-6)


def test_deepspeed_has_the_private_parts_that_we_touch():
    import deepspeed.ops
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    assert isinstance(deepspeed.ops.__compatible_ops__, dict)
    source = Path(sys.modules[DeepSpeedZeroOptimizer.__module__].__file__).read_text()
    assert "self._hp_optimizer_states_linked = " in source
    assert hasattr(DeepSpeedZeroOptimizer, "_lazy_init_hp_params_optimizer_state")
