"""The bench of plans: every order is measured, PyTorch's up to a number of rows."""

import pytest
from rich.console import Console

from marey.bench.plan import ORDERS, PlanBench, run


@pytest.mark.slow
def test_every_order_is_measured_and_memory_does_not_grow_with_the_rows():
    console = Console(record=True, width=120)
    found = run(PlanBench(rows=(1000, 2_000_000), torch_rows=1000, steps=2, batch=64), console)
    assert set(found) == {(name, rows) for name in ORDERS for rows in (1000, 2_000_000)} - {("torch", 2_000_000)}
    assert all(cost.step >= 0 for cost in found.values())
    assert found["every row once", 2_000_000].own < 4  # MiB
    assert found["balanced", 2_000_000].own < 12  # its rows alone take 16
    assert "2,000,000" in console.export_text()
