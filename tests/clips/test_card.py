"""The data card: figures, warnings, the page."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from marey.clips.card import describe
from marey.clips.card_page import page
from marey.clips.looks import look

pytestmark = pytest.mark.slow  # a table of 48 videos


@pytest.fixture(scope="module")
def looks(labelled):
    return [look(row) for row in labelled.read(range(len(labelled)))]


@pytest.fixture(scope="module")
def card(labelled, looks):
    return describe(labelled, looks)


def test_counts_are_the_tables(card, labelled):
    assert (card.rows, card.sources) == (48, 48)
    assert card.splits == ("train", "validation", "test")
    assert dict(card.classes) == dict.fromkeys(labelled.class_names(), (4, 1, 1))
    assert card.fingerprint == labelled.fingerprint
    assert [sum(one.counts) for one in card.histograms] == [48] * 4
    assert card.warnings == ()
    assert len(card.contact_sheet) == 24
    assert {caption for caption, _ in card.contact_sheet} == set(labelled.class_names())


def test_leaks_and_labels_that_differ_are_told(labelled, looks):
    leaking = [*looks[:-1], looks[0]]
    card = describe(labelled, leaking)
    [one] = card.alike
    assert one.leak
    assert one.labels_differ
    assert "what is tested may have been trained on" in card.warnings[0]
    assert "look-alikes with different labels: 1" in card.warnings[1]


def test_a_class_without_a_video_in_a_split_is_told(labelled, looks):
    few = labelled.select([row for row in range(48) if row not in (4, 5)])
    card = describe(few, [looks[row] for row in range(48) if row not in (4, 5)])
    name = labelled.column("label_name")[4]
    assert any(f"classes without a video in validation: 1 ({name})" in warning for warning in card.warnings)


class Shown(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.images = "", 0

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.images += tag == "img"


def test_the_page_shows_it_all_and_runs_nothing_that_a_name_says(card):
    shown = Shown()
    named = replace(card, warnings=("<script>alert(1)</script>",), quarantine=(("probe: the file is empty", 3),))
    html = page(named)
    shown.feed(html)
    assert "<script>" not in html
    assert "<script>alert(1)</script>" in shown.text
    assert shown.images == 24
    for text in (
        "48 videos",
        "rotate_clockwise",
        "probe: the file is empty",
        "seconds of a row",
        card.fingerprint[:12],
    ):
        assert text in shown.text
