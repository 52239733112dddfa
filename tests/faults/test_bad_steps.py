"""Bad steps on two workers, under every strategy: all decide alike, and the run is as if the batch had not been."""

import json
from pathlib import Path

import pytest

import worker_group

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KINDS = ["torch1", "deepspeed0", "deepspeed1", "deepspeed2", "deepspeed3"]


@pytest.fixture(scope="module")
def told(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad_steps")
    worker_group.run(Path(__file__).with_name("bad_steps.py"), 2, folder, table.path, 30)
    return json.loads((folder / "told.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_is_bad_on_one_rank_is_skipped_on_all_as_if_it_had_not_been(told, kind):
    found = told[f"skipped {kind}"]
    assert found["left out"] == [[2, 3, 7]] * 2
    assert found["unlike"] == []
    assert found["losses"][0] == found["losses"][1]
    assert set(found["losses"][0]) == {"1", "4", "5", "6", "8"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumed_after_a_skip_is_the_unbroken_one(told, kind):
    assert told[f"skipped {kind}"]["unlike, resumed"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_back_twice_ends_as_if_the_batches_had_not_been(told, kind):
    found = told[f"rolled back {kind}"]
    assert found["computed"] == [1, 2, 3, 4, 5, 6, 5, 5]
    assert found["left out"] == [[6, 7, 6, 7, 8]] * 2
    assert found["unlike"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_computed_and_dropped_leaves_no_trace_in_batch_norms_and_averages(told, kind):
    assert told[f"discarded {kind}"] == []


def test_thirty_bad_steps_on_random_ranks_are_all_skipped_on_both(told):
    found = told["many"]
    assert len(found["asked"]) == 30
    assert found["left out"] == [found["asked"]] * 2
    assert found["unlike"] == []
