"""The bench of the pre-training step: the plain re-implementation is the same mathematics, the table can be read."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from marey.backbones.zoo import configure
from marey.bench import machine, memory, rows
from marey.bench.published import PublishedVideoMAE
from marey.bench.step import StepBench, main, run
from marey.errors import ConfigError

ROOT = Path(__file__).parents[2]
TINY = {"sizes": ("tiny",), "frames": 4, "crop": 64, "rounds": 1, "device": "cpu", "threads": 1}


@pytest.fixture(autouse=True)
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("embed", ["all", "visible"])
def test_published_choices_are_the_same_mathematics(embed):
    config = configure("videomae_v2_tiny_pretrain", depth=3, decoder_depth=2, frames=8, crop=96, embed=embed)
    torch.manual_seed(0)
    ours, published = config.build(), PublishedVideoMAE(config)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    published.load_state_dict(ours.state_dict())
    clip = torch.randn(3, 3, 8, 96, 96)
    mask, decode_mask = rows.draw_masks(config, torch.arange(3))
    loss, theirs = ours(clip, mask, decode_mask).loss, published(clip, mask, decode_mask)
    torch.testing.assert_close(theirs, loss, rtol=1e-5, atol=1e-5)
    loss.backward()
    theirs.backward()
    gradients = {name: parameter.grad for name, parameter in published.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
def test_table(tmp_path):
    lines, text = tmp_path / "steps.jsonl", tmp_path / "table.txt"
    with text.open("w") as file:
        (measured,) = run(StepBench(**TINY, jsonl=lines), Console(file=file, width=120))
    printed = text.read_text()
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["row"] for record in records] == [one.row.name.strip() for one in measured]
    by_row = {record["row"]: record for record in records}
    assert {"all tokens", "encoder masking", "dual masking", "published choices"} <= set(by_row)
    for name, record in by_row.items():
        assert record["ms_per_clip"] > 0, name
        assert record["loss"] > 0, name
        assert name in printed
    assert by_row["all tokens"]["relative_time"] == 1
    assert by_row["dual masking"]["gflop_per_clip"] < by_row["encoder masking"]["gflop_per_clip"]
    assert by_row["dual masking"]["goal"] == 1.15
    assert by_row["published choices"]["goal"] is None
    assert "dual + both (as trained) takes" in printed
    assert max(map(len, printed.splitlines())) <= 120
    assert "…" not in printed


@pytest.mark.slow
def test_same_table_where_rows_are_built_anew_each_turn(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: 0)
    (measured,) = run(StepBench(**TINY), Console(quiet=True))
    assert all(len(one.seconds) == 1 for one in measured)


@pytest.mark.slow
def test_a_row_out_of_memory_is_told_and_leaves_the_others(monkeypatch, capsys):
    prepare = rows.prepare

    def refuse(row, case):
        if row == rows.ENCODER:
            raise torch.OutOfMemoryError("too large")
        return prepare(row, case)

    monkeypatch.setattr(rows, "prepare", refuse)
    run(StepBench(**TINY), Console(width=120))
    assert "out of memory" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets a process's peak")
def test_memory_added_on_a_cpu():
    # Three buffers at once, 192 MiB; written, since untouched pages are not resident.
    added = memory.added(lambda: sum(torch.ones(3, 16 * 2**20).unbind()), torch.device("cpu"))
    assert 180 * 2**20 < added < 420 * 2**20


def test_other_work_is_told(monkeypatch):
    worked = iter([100.0, 103.0])
    monkeypatch.setattr(machine, "_machine_seconds", lambda: next(worked))
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    assert "other work took 1." in machine.OtherWork().warning()


def test_wrong_words_exit_with_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["size=small"])
    assert stopped.value.code == 2
    assert "sizes" in capsys.readouterr().err


def test_clock_of_the_cpu_does_not_time_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with pytest.raises(ConfigError, match="clock=cpu"):
        run(StepBench(device="cuda", clock="cpu"), Console(quiet=True))


def test_job_helps_and_holds_nothing_else():
    job = ROOT / "jobs" / "bench_pretrain_step.py"
    done = subprocess.run([sys.executable, job, "--help"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "sizes" in done.stdout
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.If)
    assert all(isinstance(node, allowed) for node in ast.parse(job.read_text()).body)
