"""Saving a checkpoint, side by side: how long training waits for it, and how long it takes until it is on the disk.

    marey, waiting        checkpoint.wait=true: copied, hashed, written and flushed before training goes on
    marey                 as trainings save: training waits for the copy, the rest happens beside it
    torch.save            the state dicts in one file; neither hashed nor flushed
    dcp.save              torch.distributed.checkpoint, waiting; flushed
    dcp.async_save        the same, writing beside training

The state is a model's weights, AdamW's moments and a moving average. Rows take turns. The first save of a row is shown
apart: memory that is copied into may be touched for the first time then; Marey touches it beside the first steps, and
keeps it. Wait CPU is processor time of all threads while training waits, which other work on the machine disturbs
less. Checked: what Marey wrote is read back whole, at the rate shown (read and hashed, then loaded).
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from rich.console import Console
from rich.table import Table
from torch import Tensor, distributed

from marey.backbones import zoo
from marey.bench import report, words
from marey.bench.machine import OtherWork, cpu_name
from marey.config import Config
from marey.engine import checkpoint
from marey.engine.checkpoint_config import CheckpointConfig
from marey.engine.events import Clock
from marey.engine.keeper import Keeper
from marey.engine.optim import OptimConfig
from marey.engine.staging import Staging
from marey.engine.strategy import EngineConfig, TorchStrategy, device_of
from marey.recipes.supervised import SupervisedConfig

WAITING, MAREY, TORCH, DCP, DCP_ASYNC = "marey, waiting", "marey", "torch.save", "dcp.save", "dcp.async_save"
GOAL = 0.1
"""Most of a waiting save that a save beside training may make it wait."""


class CheckpointBench(Config):
    """What to measure."""

    backbone: str = "videomae_v2_base_16x224"
    """The model; its state is four times its weights."""
    rounds: int = Field(5, gt=0)
    """Saves of each row, after a first one."""
    folder: Path | None = None
    """Where to write. Default: the folder for temporary files."""
    device: str = "auto"
    """Where the state is: auto, cpu or cuda."""


@dataclass
class Row:
    """One way to save: seconds of each save, the first one first."""

    name: str
    waits: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)


Save = Callable[[int], Callable[[], object]]
"""Saves under a number; returns when training could go on, with what to call to wait for the rest."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line's words ask for and print it."""
    words.launch(CheckpointBench(), __doc__ or "", run, report.open_console(), arguments)


def run(bench: CheckpointBench, console: Console) -> dict[str, Row]:
    """Measure every row, print the table, return the rows by name."""
    others = OtherWork()
    strategy = _trained(bench)
    size = checkpoint.size_of(strategy.state())
    strategy.staging = Staging()
    console.print(f"{cpu_name()}, {torch.get_num_threads()} threads; {size / 2**20:,.0f} MiB on {strategy.device}")
    rows = {name: Row(name) for name in (WAITING, MAREY, TORCH, DCP, DCP_ASYNC)}
    with tempfile.TemporaryDirectory(prefix="marey-", dir=bench.folder) as text:
        folder = Path(text)
        keepers = {name: _keeper(folder / name, strategy, name == WAITING) for name in (WAITING, MAREY)}
        saves: dict[str, Save] = {name: _marey(keeper) for name, keeper in keepers.items()} | _peers(folder, strategy)
        with closing(keepers[WAITING]), closing(keepers[MAREY]):
            for number in range(1, bench.rounds + 2):
                for name, save in saves.items():
                    _measure(rows[name], save, number)
                    shutil.rmtree(folder / "peer", ignore_errors=True)
        rates = _read_back(folder / MAREY, size)
    _show(rows, size, rates, console)
    if warning := others.warning():
        console.print(warning, highlight=False)
    return rows


def _trained(bench: CheckpointBench) -> TorchStrategy:
    """A model after a step, whose gradients are zero."""
    config = EngineConfig.model_validate({"device": bench.device})
    recipe = SupervisedConfig().build(zoo.configure(bench.backbone))
    strategy = TorchStrategy(recipe, OptimConfig(ema=0.999), config, device_of(config))
    for parameter in strategy.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    strategy.optimizer.step()
    strategy.optimizer.zero_grad()
    return strategy


def _keeper(folder: Path, strategy: TorchStrategy, wait: bool) -> Keeper:
    keeper = Keeper(folder, CheckpointConfig(wait=wait, keep_last=1, keep_best="none"), strategy, None)
    assert keeper.reserved is not None
    keeper.reserved.result()  # as beside the first steps of a training
    return keeper


def _marey(keeper: Keeper) -> Save:
    def save(number: int) -> Callable[[], object]:
        keeper.save(Clock(number, number + 1, 1, 1), {"step": number})
        return keeper.finish

    return save


def _peers(folder: Path, strategy: TorchStrategy) -> dict[str, Save]:
    from torch.distributed import checkpoint as dcp

    if not distributed.is_initialized():  # async_save wants a group
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    assert strategy.ema is not None
    averages: dict[str, Tensor] = strategy.ema.averages

    def tree() -> dict[str, Any]:
        return {"model": strategy.recipe.state_dict(), "optimizer": strategy.optimizer.state_dict(), "ema": averages}

    def torch_save(number: int) -> Callable[[], object]:
        (folder / "peer").mkdir()
        torch.save(tree(), folder / "peer" / "state.pt")
        return lambda: None

    def dcp_save(number: int) -> Callable[[], object]:
        dcp.save(tree(), checkpoint_id=folder / "peer")
        return lambda: None

    def dcp_async(number: int) -> Callable[[], object]:
        pending: Any = dcp.async_save(tree(), checkpoint_id=folder / "peer")
        return pending.result

    return {TORCH: torch_save, DCP: dcp_save, DCP_ASYNC: dcp_async}


def _measure(row: Row, save: Save, number: int) -> None:
    os.sync()  # what others left to be written is not this row's
    began, cpu = time.perf_counter(), time.process_time()
    rest = save(number)
    row.waits.append(time.perf_counter() - began)
    row.cpu.append(time.process_time() - cpu)
    rest()
    row.totals.append(time.perf_counter() - began)


def _read_back(folder: Path, size: int) -> dict[str, tuple[float, float]]:
    """GB of wall and of processor time a second with which a checkpoint is verified, and loaded."""
    rates = {}
    began, cpu = time.perf_counter(), time.process_time()
    saved = checkpoint.newest(folder)
    assert saved is not None, "what was written must be whole"
    rates["verify"] = size / (time.perf_counter() - began) / 1e9, size / (time.process_time() - cpu) / 1e9
    began, cpu = time.perf_counter(), time.process_time()
    state = checkpoint.read(saved)
    assert checkpoint.size_of(state) == size
    rates["load"] = size / (time.perf_counter() - began) / 1e9, size / (time.process_time() - cpu) / 1e9
    return rates


def _show(rows: dict[str, Row], size: int, rates: dict[str, tuple[float, float]], console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("row", "wait s", "of waiting", "wait CPU s", "of waiting", "until written s", "first wait s"):
        table.add_column(title, justify="left" if title == "row" else "right")
    whole, whole_cpu = (statistics.median(column[1:]) for column in (rows[WAITING].waits, rows[WAITING].cpu))
    for row in rows.values():
        wait, cpu, total = (statistics.median(column[1:]) for column in (row.waits, row.cpu, row.totals))
        shown = (wait, wait / whole, cpu, cpu / whole_cpu, total, row.waits[0])
        table.add_row(row.name, *(f"{value:.3f}" for value in shown))
    console.print(table)
    share = statistics.median(rows[MAREY].waits[1:]) / whole
    verdict = "reached" if share <= GOAL else "missed"
    console.print(f"a save beside training makes it wait {share:.3f} of a waiting one; goal {GOAL}: {verdict}")
    for name, (wall, cpu) in rates.items():
        console.print(f"{name}: {wall:.2f} GB/s, {cpu:.2f} GB for each second of processor time", highlight=False)
