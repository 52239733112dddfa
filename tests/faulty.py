"""A recipe that breaks its worker, once each, at chosen samples."""

import ctypes
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Literal

import torch
from torch import distributed, nn

from marey.backbones.base import BackboneConfig
from marey.clips.batch import Batch
from marey.recipes.base import Mode, Step
from marey.recipes.masked import Masked, MaskedConfig


def kill(directory: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_save(directory: Path) -> None:
    """Killed as soon as a checkpoint is being written."""

    def watch() -> None:
        while not list(directory.glob(".writing-*")):
            time.sleep(0.0002)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def abort(directory: Path) -> None:
    os.abort()


def segfault(directory: Path) -> None:
    ctypes.string_at(0)


def stop(directory: Path) -> None:
    """Let go for its stacks it stays here: it could come to the next fault, which would then count as done."""
    os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        time.sleep(3600)


def hold_lock(directory: Path) -> None:
    """The interpreter's lock is held; a signal ends only one sleep."""
    while True:
        ctypes.PyDLL(None).sleep(3600)


def skip_collective(directory: Path) -> None:
    """One worker waits for a message that nobody sends, the others for it in the next collective."""
    distributed.recv(torch.zeros(1), src=1 - distributed.get_rank(), tag=7)


FAULTS = {one.__name__: one for one in (kill, kill_in_save, abort, segfault, stop, hold_lock, skip_collective)}


class FaultyConfig(MaskedConfig):
    """Which faults happen at which samples."""

    kind: Literal["faulty"] = "faulty"
    faults: dict[str, str] = {}
    """Key of the first sample of a worker's pass, to the fault."""
    marks: str = ""
    """Folder in which a fault that has happened leaves a mark."""
    checkpoints: str = ""
    poison: int = -1
    """Key of a sample whose pass always has a loss that is not a number."""

    def build(self, backbone: BackboneConfig, repeats: int = 1) -> "Faulty":
        return Faulty(self, backbone.build())


class Faulty(Masked):
    def __init__(self, config: FaultyConfig, model: nn.Module) -> None:
        super().__init__(config, model)
        self.faulty = config

    def forward(self, batch: Batch, mode: Mode = "train") -> Step:
        key = str(int(batch.key[0]))
        fault = self.faulty.faults.get(key) if mode == "train" else None
        if fault is not None and not (mark := Path(self.faulty.marks, f"{fault}-{key}")).exists():
            mark.touch()
            FAULTS[fault](Path(self.faulty.checkpoints))
        step, bad = super().forward(batch, mode), mode == "train" and key == str(self.faulty.poison)
        return step._replace(loss=step.loss * math.nan) if bad else step
