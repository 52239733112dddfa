"""Opening trained weights by whatever name a user has for them."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from marey.backbones import zoo
from marey.backbones.base import BackboneConfig
from marey.backbones.weights import read_weights
from marey.engine import checkpoint
from marey.errors import CheckpointError, ConfigError
from marey.inference.exported import read_header

Which = Literal["best", "last"]
FILES = (".safetensors", ".pth", ".pt", ".pyth", ".bin", ".ckpt")


@dataclass(frozen=True)
class Opened:
    """Weights, and what is known of where they come from."""

    path: Path
    """The checkpoint or the file."""
    weights: Mapping[str, Tensor]
    """Under the model's own names, or the authors' in a published file."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the run, nested; of an exported file its model's and its clips', of another one none."""
    classes: tuple[str, ...] = ()
    """Names of the classes, by index."""
    step: int | None = None
    """The checkpoint's step."""

    @property
    def backbone(self) -> BackboneConfig | None:
        """The model that was trained; None for a file that does not say."""
        tree = self.settings.get("backbone")
        return None if tree is None else zoo.from_setting(tree)

    def model(self, backbone: BackboneConfig | None = None) -> nn.Module:
        """The model with these weights, all of them; ``backbone`` where a file does not say which model it is."""
        chosen = self.backbone or backbone
        if chosen is None:
            raise ConfigError(f"{self.path}: weights without settings; say which model they are of: backbone=NAME")
        model = chosen.build()
        zoo.load_published(model, self.weights)
        return model


def open_weights(where: str, results: Path, which: Which = "best") -> Opened:
    """Open ``where``: a file of weights, a checkpoint's folder, a run's folder, or a run's name under ``results``.

    Of a run, ``which`` checkpoint: the best of its validations (or training loss), or the last. Raises
    `CheckpointError` naming what was looked for and the nearest runs.
    """
    path = Path(where).expanduser()
    if path.suffix in FILES:
        if not path.is_file():
            raise CheckpointError(f"{where}: no such file")
        weights = _of_model(read_weights(str(path)))
        told = read_header(path) if path.suffix == ".safetensors" else {}
        return Opened(path, weights, told.get("settings", {}), tuple(told.get("classes", ())), told.get("step"))
    if (path / checkpoint.MANIFEST).is_file():
        return _opened(checkpoint.verify(path))
    run = path if (path / "checkpoints").is_dir() else results / "runs" / where
    if not run.is_dir():
        raise CheckpointError(f"{where}: not a run, a checkpoint or a file of weights{_near(where, results)}")
    return _opened(_of_run(run, which))


def _of_run(run: Path, which: Which) -> checkpoint.Saved:
    """The run's best or last whole checkpoint."""
    saved = checkpoint.newest(run / "checkpoints")
    if saved is None:
        raise CheckpointError(f"{run}: this run has no whole checkpoint yet")
    best = saved.state.get("best_step")
    if which == "best" and best is not None and best != saved.step:
        return checkpoint.verify(run / "checkpoints" / f"{best:012d}")
    return saved


def _opened(saved: checkpoint.Saved) -> Opened:
    lineage = saved.state["lineage"]
    return Opened(
        saved.path,
        _of_model(checkpoint.weights(saved)),
        lineage["settings"],
        tuple(lineage.get("classes", ())),
        saved.step,
    )


def _of_model(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Of a recipe's weights, as a checkpoint and its files hold them, the model's; others as they are."""
    prefix = "model."
    return {name.removeprefix(prefix): one for name, one in weights.items() if name.startswith(prefix)} or weights


def _near(where: str, results: Path) -> str:
    runs = [path.name for path in (results / "runs").glob("*") if path.is_dir()]
    near = difflib.get_close_matches(where, runs, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; runs are looked for in {results / 'runs'}" + (f", which has {len(runs)}" if runs else ", which has none")
