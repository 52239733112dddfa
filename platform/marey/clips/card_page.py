"""A data card as one HTML file that needs nothing else: tables, bars, a contact sheet."""

import base64
from collections.abc import Sequence
from html import escape

from marey.clips.card import Card, Histogram

_MOST_CLASSES = 1000
_MOST_ALIKE = 50

_STYLE = """
:root { color-scheme: light; --ink: #3c4048; --faint: #969aa2; --line: #e3e5e8; --bar: #15508a; --warn: #a03028; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; word-break: break-all; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
.facts { color: var(--faint); } .warn { color: var(--warn); } code { font-size: .9em; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; font-weight: normal; }
th { color: var(--faint); border-bottom: 1px solid var(--line); } td.number, th.number { text-align: right; }
.bar { display: inline-block; height: .7em; background: var(--bar); min-width: 1px; }
.histograms { display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 1.5rem; }
.columns { display: flex; align-items: flex-end; height: 90px; gap: 2px; border-bottom: 1px solid var(--line); }
.columns div { flex: 1; background: var(--bar); } .ends { display: flex; justify-content: space-between; }
.ends, figcaption { color: var(--faint); font-size: .85em; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)); gap: .8rem; }
figure { margin: 0; } figure img { width: 100%; display: block; }
figcaption { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
"""


def page(card: Card) -> str:
    """The card as HTML."""
    name = card.path.rstrip("/").rsplit("/", 1)[-1]
    parts = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="facts">{card.sources} videos, {card.rows} rows, {_hours(card.hours)}, '
        f"{_size(card.payload_bytes)} stored, fingerprint <code>{card.fingerprint[:12]}</code><br>"
        f"<code>{escape(card.path)}</code></p>",
        *(f'<p class="warn">{escape(warning)}</p>' for warning in card.warnings),
        _section("What it looks like", _sheet(card)),
        _section("Videos of each class", _classes(card)),
        _section("Lengths, rates, sizes", _histograms(card.histograms)),
        _section("Look-alikes of different videos", _alike(card)),
        _section("Left out", _pairs(card.quarantine, ("why", "videos")) if card.quarantine else "<p>nothing</p>"),
        _section("Prepared with", _pairs([(key, str(value)) for key, value in card.settings.items()], ("setting", ""))),
    ]
    head = f'<meta charset="utf-8"><title>{escape(name)}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>{content}" if content else ""


def _sheet(card: Card) -> str:
    figures = (
        f'<figure><img alt="{escape(caption)}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
        f'<figcaption title="{escape(caption)}">{escape(caption)}</figcaption></figure>'
        for caption, jpeg in card.contact_sheet
    )
    return f'<div class="sheet">{"".join(figures)}</div>'


def _classes(card: Card) -> str:
    most = max(sum(counts) for _, counts in card.classes)
    head = "".join(f'<th class="number">{escape(split)}</th>' for split in card.splits)
    rows = []
    for name, counts in card.classes[:_MOST_CLASSES]:
        cells = "".join(f'<td class="number">{count}</td>' for count in counts)
        width = 300 * sum(counts) / most
        rows.append(f'<tr><td>{escape(name)}</td>{cells}<td><span class="bar" style="width:{width:.0f}px"></span></td>')
    totals = "".join(
        f'<td class="number">{sum(column)}</td>' for column in zip(*(c for _, c in card.classes), strict=True)
    )
    rest = len(card.classes) - _MOST_CLASSES
    more = f"<p>and {rest} more classes</p>" if rest > 0 else ""
    foot = f'<tr><td class="facts">{len(card.classes)} classes</td>{totals}'
    return f"<table><tr><th></th>{head}{''.join(rows)}{foot}</table>{more}"


def _histograms(histograms: Sequence[Histogram]) -> str:
    return f'<div class="histograms">{"".join(map(_histogram, histograms))}</div>'


def _histogram(one: Histogram) -> str:
    most = max(one.counts)
    bars = "".join(
        f'<div style="height:{100 * count / most:.1f}%" title="{low:.4g} to {high:.4g}: {count}"></div>'
        for count, low, high in zip(one.counts, one.edges, one.edges[1:], strict=False)
    )
    low, high = one.edges[0], one.edges[-1]
    ends = (
        f"<span>{low:.4g}</span><span>{high:.4g}</span>" if len(one.counts) > 1 else f"<span>all {low + 0.5:.4g}</span>"
    )
    return f'<div>{escape(one.title)}<div class="columns">{bars}</div><div class="ends">{ends}</div></div>'


def _alike(card: Card) -> str:
    if not card.alike:
        return "<p>none</p>"
    lines = []
    for one in card.alike[:_MOST_ALIKE]:
        marks = ["different splits"] * one.leak + ["different labels"] * one.labels_differ
        shown = ", ".join(map(escape, one.rows[:6])) + (f" and {len(one.rows) - 6} more" if len(one.rows) > 6 else "")
        lines.append(f'<tr><td>{shown}</td><td class="warn">{"; ".join(marks)}</td>')
    rest = len(card.alike) - _MOST_ALIKE
    return f"<table>{''.join(lines)}</table>" + (f"<p>and {rest} more groups</p>" if rest > 0 else "")


def _pairs(pairs: Sequence[tuple[str, object]], titles: tuple[str, str]) -> str:
    rows = "".join(f"<tr><td>{escape(str(key))}</td><td>{escape(str(value))}</td>" for key, value in pairs)
    return f"<table><tr>{''.join(f'<th>{title}</th>' for title in titles)}{rows}</table>"


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
