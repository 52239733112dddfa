"""The bench of GPU steps: the same mathematics in all rows, FLOPs explained, what does not fit is told."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from marey.backbones.zoo import configure
from marey.bench import flop_parts, flops, gpu, gpu_report, gpu_rows
from marey.bench.gpu import GpuBench, main, run
from marey.bench.gpu_rows import MAREY, PUBLISHED, Case
from marey.bench.published_loop import mix_batch, soft_targets
from marey.bench.turns import Ready
from marey.clips.batch import Batch
from marey.clips.mix import MixConfig
from marey.engine.optim import set_lr
from marey.errors import ConfigError, MareyError
from marey.recipes.supervised import SupervisedConfig

CPU = torch.device("cpu")
SMALL = {"frames": 4, "crop": 96}
NARROW = {
    "videomae_v2_tiny_16x224": {"width": 48, "depth": 3},
    "videomae_v2_tiny_pretrain": {"width": 48, "depth": 3, "decoder_depth": 2},
    "hiera_tiny_16x224": {"width": 16, "depths": (1, 2, 2, 1)},
    "hiera_tiny_16x224_pretrain": {
        "width": 16, "depths": (1, 2, 2, 1), "decoder_width": 32, "decoder_num_heads": 2, "decoder_depth": 2,
    },
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("one_thread")


def narrow(name, **overrides):
    """A model of the zoo, less wide."""
    return configure(name, **{**NARROW.get(name, {}), **overrides})


@pytest.fixture
def narrow_models(monkeypatch):
    """The bench's tiny models are narrow ones."""
    monkeypatch.setattr(gpu_rows, "configure", narrow)


def twins(name):
    """A narrow model of ours, and the plain one with the same weights, which are not those of a start."""
    config = narrow(name, **SMALL)
    torch.manual_seed(0)
    ours, plain = config.build(), gpu_rows.published_model(config)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    plain.load_state_dict(ours.state_dict())
    return config, ours, plain


def assert_same_gradients(ours, plain):
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_published_pretraining_of_hiera_is_the_same_mathematics():
    """VideoMAE's is in test_step."""
    _, ours, plain = twins("hiera_tiny_16x224_pretrain")
    clip = torch.randn(3, 3, 4, 96, 96)
    mask = torch.stack([ours.draw_masks(np.random.default_rng(seed), 0.9, 0.0)[0] for seed in range(3)])
    loss, theirs = ours(clip, mask).loss, plain(clip, mask)
    torch.testing.assert_close(theirs, loss, rtol=1e-5, atol=1e-5)
    loss.backward()
    theirs.backward()
    assert_same_gradients(ours, plain)


@pytest.mark.parametrize("name", ["videomae_v2_tiny_16x224", "hiera_tiny_16x224"])
def test_published_fine_tuning_is_the_same_mathematics(name):
    config, ours, plain = twins(name)
    pixels = torch.randint(256, (4, 3, 4, 96, 96), dtype=torch.uint8)
    batch = Batch(pixels, torch.arange(4), tuple("abcd"), torch.tensor([0, 3, 5, 19]))
    recipe = SupervisedConfig(label_smoothing=0.1).build(config)
    recipe.model = ours
    loss = recipe.train()(batch).loss
    theirs = gpu_rows._fine_tuning_loss(plain.train(), config, batch, 0.1, MixConfig())()
    torch.testing.assert_close(theirs, loss, rtol=1e-5, atol=1e-5)
    loss.backward()
    theirs.backward()
    assert_same_gradients(ours, plain)


def test_hiera_draws_as_many_units_as_ours():
    _, ours, plain = twins("hiera_tiny_16x224_pretrain")
    mask, _ = ours.draw_masks(np.random.default_rng(0), 0.9, 0.0)
    assert plain._draw(torch.zeros(2, 3, 4, 96, 96)).sum(1).tolist() == [int((~mask).sum())] * 2


@pytest.mark.parametrize("config", [MixConfig(mixup=0.8), MixConfig(cutmix=1.0)], ids=["mixup", "cutmix"])
def test_a_batch_is_mixed_with_its_reverse(config):
    values = torch.tensor([0.0, 1.0])
    clip, targets = values.view(2, 1, 1, 1, 1).expand(2, 3, 2, 64, 64).clone(), soft_targets(torch.arange(2), 2, 0.0)
    mixed, soft = mix_batch(clip, targets, config, np.random.default_rng(3))
    other = float(mixed[0].mean())  # what the first clip, all zeros, has got of the second
    assert 0 < other < 1
    assert float(mixed[1].mean()) == pytest.approx(1 - other, abs=1e-5)
    assert soft[0].tolist() == pytest.approx([1 - other, other], abs=1e-5)


def test_both_rows_train_each_parameter_alike(narrow_models, monkeypatch):
    case = Case("videomae_v2_tiny", "finetune", CPU, "fp32", **SMALL)
    base = gpu_rows.PRESETS["videomae_v2_base", "finetune"]
    monkeypatch.setitem(gpu_rows.PRESETS, ("videomae_v2_tiny", "finetune"), base)
    ours, plain = (gpu_rows.prepare(row, case, 2) for row in (MAREY, PUBLISHED))
    set_lr(ours.optimizer, gpu_rows._LR)
    alike = []
    for ready in (ours, plain):
        names = {id(p): name.removeprefix("model.") for name, p in ready.model.named_parameters()}
        groups = ready.optimizer.param_groups
        alike.append({names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]})
    assert alike[0] == alike[1]
    assert len({lr for lr, _ in alike[0].values()}) == 5  # patches, three blocks, head


@pytest.mark.parametrize("model", GpuBench().models)
@pytest.mark.parametrize("task", GpuBench().tasks)
def test_flops_are_explained(model, task):
    parts, operators = gpu.count(Case(model, task, CPU, "fp32"))
    assert flop_parts.total(parts) == pytest.approx(operators, rel=1e-4)


def test_a_count_that_the_operators_do_not_bear_out_is_loud(monkeypatch):
    monkeypatch.setattr(flops, "count", lambda *_: 500_000_000)
    with pytest.raises(MareyError, match="differ by more than 1%"):
        gpu.count(Case("videomae_v2_tiny", "pretrain", CPU, "fp32", **SMALL))


def test_other_models_are_not_explained():
    with pytest.raises(ConfigError, match="VideoMAE's and Hiera's are"):
        flop_parts.explain(configure("r3d_18"))


@pytest.mark.slow
def test_every_model_and_task_is_measured(narrow_models, tmp_path, capsys):
    lines = tmp_path / "gpu.jsonl"
    words = ["models=[videomae_v2_tiny,hiera_tiny]", "frames=4", "crop=96", "rounds=1", "steps=1", "device=cpu"]
    main([*words, "peak_tflops=1", f"jsonl={lines}"])
    printed = capsys.readouterr().out
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(record["model"], record["task"], record["row"]) for record in records] == [
        (model, task, row.name)
        for model in ("videomae_v2_tiny", "hiera_tiny")
        for task in ("pretrain", "finetune")
        for row in (MAREY, PUBLISHED)
    ]
    for record in records:
        assert record["failure"] is None
        assert record["ms_per_step"] > 0
        assert record["loss"] > 0
        assert record["clips"] == record["most_clips"] == 2
        flops_per_s = record["gflop_per_clip"] * 1e9 * record["clips_per_s"]
        assert record["mfu"] == pytest.approx(flops_per_s / 1e12)
        assert (record["speed_of_published"] is None) == (record["row"] == PUBLISHED.name)
    assert "All models" in printed
    assert printed.count("counted by operator") == 4
    assert "goal" not in printed  # they are a GPU's
    assert "…" not in printed


@pytest.fixture
def memory_for(narrow_models, monkeypatch):
    """Rows whose steps do nothing, and fit only up to so many clips."""

    def set_limits(limits, error=None):
        def prepare(row, case, clips):
            def step():
                if clips > limits[row.name]:
                    raise error or torch.OutOfMemoryError("too large")
                return 1.0

            model = nn.Linear(2, 2)
            return Ready(step, model, torch.optim.SGD(model.parameters()))

        monkeypatch.setattr(gpu_rows, "prepare", prepare)
        monkeypatch.setattr(gpu, "FIRST_CLIPS_ON_CPU", 8)

    return set_limits


TINY = GpuBench(models=("videomae_v2_tiny",), tasks=("finetune",), device="cpu", rounds=2, **SMALL)


def test_clips_are_halved_until_all_rows_fit(memory_for, capsys):
    memory_for({MAREY.name: 8, PUBLISHED.name: 5})
    ours, published, more = run(TINY, Console(width=120))
    assert (ours.clips, published.clips, more.clips) == (4, 4, 8)
    assert (ours.most_clips, published.most_clips, more.most_clips) == (8, 4, 8)
    assert ours.speed_of_published is not None
    assert more.speed_of_published is None
    assert "as Marey trains, 8 clips" in capsys.readouterr().out


def test_a_row_that_never_fits_is_told(memory_for, capsys):
    memory_for({MAREY.name: 8, PUBLISHED.name: 1}, RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"))
    ours, published = run(TINY, Console(width=120))
    assert (ours.clips, ours.failure, ours.speed_of_published) == (8, None, None)
    assert published.failure == "out of memory with 2 clips"
    assert "not measured: published choices: out of memory with 2 clips" in capsys.readouterr().out


def test_where_nothing_fits_all_rows_are_told(memory_for):
    memory_for({MAREY.name: 0, PUBLISHED.name: 0})
    rows = run(TINY.model_copy(update={"clips": 2}), Console(quiet=True))
    assert [row.failure for row in rows] == ["out of memory with 2 clips"] * 2


def test_clips_that_are_asked_for_are_not_halved(memory_for):
    memory_for({MAREY.name: 8, PUBLISHED.name: 2})
    ours, published = run(TINY.model_copy(update={"clips": 6}), Console(quiet=True))
    assert (ours.clips, ours.failure) == (6, None)
    assert published.failure == "out of memory with 6 clips"


def test_other_errors_are_not_taken_for_want_of_memory(memory_for):
    memory_for({MAREY.name: 0, PUBLISHED.name: 0}, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        run(TINY, Console(quiet=True))


def test_goals_are_judged_on_a_gpu(memory_for):
    memory_for({MAREY.name: 16, PUBLISHED.name: 16})
    ours, published = run(TINY, Console(quiet=True))
    giant = {"model": "videomae_v2_giant", "task": "pretrain", "precision": "bf16"}
    rows = [replace(ours, **giant, mfu=0.42, speed_of_published=1.5), replace(published, **giant, mfu=0.28)]
    speed, mfu = gpu_report.verdicts(rows, torch.device("cuda"))
    assert speed == "as Marey trains: 1.50 × the speed of published choices (goal ≥ 1.3 ×): ok"
    assert mfu == "highest MFU of Marey's rows: 42.0% (goal ≥ 50%): MISSED"


def test_an_unknown_gpu_asks_for_its_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    device = torch.device("cuda", 0)
    assert gpu._peak(GpuBench(), device) is None
    assert gpu._peak(GpuBench(peak_tflops=100), device) == 100
    assert gpu_report.no_peak(device).endswith("give peak_tflops=")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    assert gpu._peak(GpuBench(), device) == 989.4
    assert gpu._peak(GpuBench(precision="fp32"), device) is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["models=[hiera_tiny]", "frames=4", "crop=64"], "nothing to see"),
        (["models=[videomae_v2_tiny]", "clips=3"], "even number"),
        (["models=[vivit]"], "models"),
    ],
)
def test_wrong_words_exit_with_2(words, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*words, "device=cpu"])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
