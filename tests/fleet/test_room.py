"""With how many workers a run can go on, and that it waits for room rather than for ever in silence."""

import pytest

from marey.engine.events import Stop, nobody_asks
from marey.errors import ConfigError
from marey.fleet import room
from tiny_training import tiny


def sizes(batch: int, **fleet: int) -> list[int]:
    return room.sizes(tiny().replace(batch=batch, fleet=fleet))


def test_numbers_of_workers_that_do_not_share_the_batch_evenly_are_not_used():
    assert sizes(12, workers=6, min_workers=1) == [1, 2, 3, 4, 6]
    assert sizes(8, workers=8, min_workers=3) == [4, 8]
    assert sizes(8, workers=4) == [4]


def test_the_job_says_which_numbers_are_used():
    told = room.elastic_note(tiny().replace(batch=12, fleet={"workers": 6, "min_workers": 3}))
    assert told == "; goes on with 3 or 4 or 6 (not 5: batch=12 cannot be shared evenly)"
    assert room.elastic_note(tiny().replace(fleet={"workers": 2})) == ""


def test_more_workers_at_least_than_at_most_are_refused():
    with pytest.raises(ConfigError, match=r"fleet\.min_workers=3 is more than fleet\.workers=2"):
        tiny().replace(fleet={"workers": 2, "min_workers": 3})


@pytest.mark.slow
def test_the_most_workers_for_which_there_is_room(ray_cluster, monkeypatch):
    monkeypatch.setattr(room, "REPLACEMENT_S", 1.0)
    assert room.wait_for_room([1, 2], {"CPU": 1.0}, nobody_asks) == 2
    assert room.wait_for_room([1, 2, 4], {"CPU": 1.0}, nobody_asks) == 2


@pytest.mark.slow
def test_it_waits_aloud_until_it_is_stopped(ray_cluster, monkeypatch):
    monkeypatch.setattr(room, "TELL_S", 0.5)
    said: list[str] = []
    told = "waiting for room: 3 workers × {'CPU': 1.0} are needed, 2 fit; 1 host(s), 2 CPUs (0 free)"
    asked = lambda: Stop.SIGTERM if told in said else Stop.GO_ON  # noqa: E731
    assert room.wait_for_room([3, 4], {"CPU": 1.0}, asked, said.append) is None
