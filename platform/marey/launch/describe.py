"""A clip table to its data card: an HTML file, and an MLflow run that shows it."""

import time
from collections.abc import Iterator
from pathlib import Path

from marey.clips.card import Card, describe
from marey.clips.card_page import page
from marey.clips.location import write_atomically
from marey.clips.looks import Look, look
from marey.clips.table import ClipTable, open_table
from marey.config import flatten
from marey.errors import ConfigError
from marey.experiment import Description
from marey.experiment.revision import revision
from marey.launch import signals
from marey.launch.records import dataset_note, say_results, trackers
from marey.tracking.base import RunDescription
from marey.tracking.mlflow import attach

CARD = "card.html"
_EVERY_SECONDS = 3.0


def run(description: Description) -> None:
    """Write and record the card; raises `ClipError` for a table that cannot be read."""
    if description.table is None:
        raise ConfigError('table: not given; a clip table, e.g. table="$HOME/marey/tables/mine"')
    table = open_table(description.table)
    card = describe(table, _looks(table, description))
    directory = description.results / "cards" / f"{table.path.name}-{table.fingerprint[:12]}"
    output = description.output or (table.path if isinstance(table.path, Path) else directory) / CARD
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, page(card).encode())
    for warning in card.warnings:
        print(f"note     {warning}", flush=True)
    _record(description, table, card, directory, output)


def _looks(table: ClipTable, description: Description) -> list[Look]:
    """What every row looks like, with a line of progress now and then."""
    found: dict[int, Look] = {}
    began = last = time.monotonic()
    for row, one in _found(table, description):
        found[row] = one
        now = time.monotonic()
        if now - last >= _EVERY_SECONDS or len(found) == len(table):
            left = (now - began) / len(found) * (len(table) - len(found))
            print(f"looked at {len(found)} of {len(table)} clips, {left:.0f} s left", flush=True)
            last = now
    return [found[row] for row in range(len(table))]


def _found(table: ClipTable, description: Description) -> Iterator[tuple[int, Look]]:
    if description.workers == 0:
        return ((number, look(table.read([number])[0])) for number in range(len(table)))
    from marey.fleet import cluster
    from marey.fleet.looks import looks

    cluster.join()
    signals.install()
    return looks(table)


def _record(description: Description, table: ClipTable, card: Card, directory: Path, output: Path) -> None:
    """One MLflow run for each content of a table, with its figures and the card."""
    tracker = trackers(description.tracking, description.results)
    tags = {"job": "describe", "table_fingerprint": table.fingerprint, **revision()}
    tracker.start(RunDescription(directory.name, directory, flatten(description), tags, dataset_note(table)))
    tracker.metrics(0, {"rows": card.rows, "sources": card.sources, "hours": card.hours, "alike": len(card.alike)})
    tracker.end("finished")
    try:
        attach(directory, description.tracking, description.results, output)
    except Exception as error:  # whatever a server does: the card is written
        print(f"note     MLflow did not take the card ({error}); it is in {output}", flush=True)
    say_results([("card", output)], directory)
