"""A cluster sees in a table what one process sees."""

import pytest

from marey.clips.looks import look
from marey.fleet import looks as fleet_looks

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("ray_cluster")
def test_rows_looked_at_on_a_cluster_are_those_of_one_process(table, monkeypatch):
    monkeypatch.setattr(fleet_looks, "_ROWS_PER_TASK", 2)
    found = dict(fleet_looks.looks(table))
    assert found == {number: look(row) for number, row in enumerate(table.read(range(len(table))))}
