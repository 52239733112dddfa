"""Looking at all rows of a table on a cluster: see `marey.clips.looks`."""

from collections.abc import Iterator
from typing import Any

import ray

from marey.clips.looks import Look, look
from marey.clips.table import ClipTable

_ROWS_PER_TASK = 64


def looks(table: ClipTable) -> Iterator[tuple[int, Look]]:
    """Row numbers with what the rows look like, as they are finished; every node must see the table."""

    def work(item: dict[str, Any]) -> list[dict[str, Any]]:
        numbers = range(item["start"], min(item["start"] + _ROWS_PER_TASK, len(table)))
        seen = [look(row) for row in table.read(numbers)]
        # Unsigned 64-bit numbers as text: Arrow would take them for signed ones.
        return [
            {
                "row": number,
                "hashes": [str(one) for one in found.hashes],
                "grey": found.grey,
                "thumbnail": found.thumbnail,
            }
            for number, found in zip(numbers, seen, strict=True)
        ]

    items = [{"start": start} for start in range(0, len(table), _ROWS_PER_TASK)]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).flat_map(work, num_cpus=1)
    dataset.context.enable_progress_bars = False
    for row in dataset.iter_rows():
        yield int(row["row"]), Look(tuple(map(int, row["hashes"])), bytes(row["grey"]), bytes(row["thumbnail"]))
