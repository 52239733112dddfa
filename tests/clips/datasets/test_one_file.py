"""The page on adding a reader is followed to the letter: its file, its registration, and what then works."""

import json

import pytest

from marey.clips import datasets
from marey.errors import ClipError
from one_file import module_of


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """The page's file as a module of the package, registered; and a list for it."""
    module = module_of(
        "clip-tables.md", "### A reader in one file", "marey.clips.datasets.ledger", tmp_path, monkeypatch
    )
    monkeypatch.setattr(datasets, "READERS", (module, *datasets.READERS))
    path = tmp_path / "ledger.json"
    path.write_text(json.dumps({"bounce": ["a.mp4", "b.webm"], "roll": ["c.mp4"]}))
    return path


def test_its_videos_have_their_classes(ledger):
    found = datasets.find_listing(ledger)
    assert found.classes == ("bounce", "roll")
    assert [(one.source_id, one.label, one.label_name) for one in found.sources] == [
        ("a.mp4", 0, "bounce"), ("b.webm", 0, "bounce"), ("c.mp4", 1, "roll"),
    ]  # fmt: skip
    assert found.sources[0].uri == str(ledger.parent / "a.mp4")


def test_what_is_no_ledger_is_told_by_its_name(ledger):
    ledger.write_text("[1]")
    with pytest.raises(ClipError, match=r"ledger\.json: holds a list; expected class names with lists of paths"):
        datasets.find_listing(ledger)
