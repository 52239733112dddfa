"""The bench of checkpoints: every way to save is measured on the same state, and what Marey wrote is whole."""

from rich.console import Console

from marey.bench import checkpoint
from marey.bench.checkpoint import CheckpointBench, run


def test_every_way_to_save_is_measured(tmp_path):
    console = Console(record=True, width=120)
    rows = run(CheckpointBench(backbone="videomae_v2_tiny_16x224", rounds=1, folder=tmp_path, device="cpu"), console)
    assert list(rows) == [checkpoint.WAITING, checkpoint.MAREY, checkpoint.TORCH, checkpoint.DCP, checkpoint.DCP_ASYNC]
    assert all(len(row.waits) == len(row.cpu) == len(row.totals) == 2 for row in rows.values())
    assert all(0 < wait <= total for row in rows.values() for wait, total in zip(row.waits, row.totals, strict=True))
    assert "a save beside training makes it wait" in console.export_text()
    assert not list(tmp_path.iterdir())
