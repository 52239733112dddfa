"""The printed command and the printed links, in a browser."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from marey.tracking.links import compare_url, experiment_url, run_url, ui_command
from marey.tracking.pictures import reconstruction_strip
from tracking.runs import start
from tracking.served import Server

ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs a browser: Debian's package chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS.split())
        yield browser.new_page(viewport={"width": 1500, "height": 1500})
        browser.close()


def record(server: Server, name: str) -> None:
    settings = {f"group.setting_{place}": place for place in range(80)}
    trackers = start(server.results, name, f"sqlite:///{server.results}/mlflow.db", "looked at", **settings)
    clip = np.random.default_rng(0).random((8, 32, 32, 3))
    for step in range(1, 41):
        trackers.metrics(step, {"train/loss": 1 / step, "train/lr": 0.1})
        if step % 20 == 0:
            trackers.picture(step, "reconstruction", reconstruction_strip(clip, clip * 0.5, clip))
    trackers.end("finished")


@pytest.mark.slow
def test_links_show_curves_and_pictures(server: Server, page: Any) -> None:
    record(server, "first")
    record(server, "second")
    directory = server.results / "runs/second"
    for link, others_shown in ((run_url(directory, server.port), 0), (experiment_url(directory, server.port), 1)):
        page.goto("about:blank")
        page.goto(link)
        page.get_by_text("train/loss").first.wait_for(timeout=60_000)
        page.locator(".js-plotly-plot").first.wait_for(timeout=60_000)
        picture = page.locator("img[src*='get-artifact'][src*='step%2B40']").first
        picture.wait_for(timeout=60_000)
        box = picture.bounding_box()
        assert box["width"] > 300
        assert picture.evaluate("image => image.naturalWidth") > 500
        assert page.get_by_text("second", exact=True).count() > 0
        assert min(1, page.get_by_text("first", exact=True).count()) == others_shown


@pytest.mark.slow
def test_two_runs_are_compared_and_the_page_tells_metrics_and_differing_settings(server: Server, page: Any) -> None:
    for name, lr in (("slow", 0.001), ("fast", 0.1)):
        uri = f"sqlite:///{server.results}/mlflow.db"
        trackers = start(server.results, name, uri, "compared", **{"optim.base_lr": lr, "batch": 32})
        for step in range(1, 5):
            trackers.metrics(step, {"validation/top1": step * lr, "best/top1": step * lr})
        trackers.end("finished")
    link = compare_url([server.results / "runs/slow", server.results / "runs/fast"], server.port)
    page.goto("about:blank")
    page.goto(link)
    for text in ("slow", "fast", "optim.base_lr", "0.001", "validation/top1", "0.4"):
        page.get_by_text(text, exact=True).first.wait_for(timeout=60_000)
    assert compare_url([server.results / "runs/slow", server.results / "runs/none"]) is None


def test_the_command_quotes_and_servers_need_none() -> None:
    command = ui_command("sqlite:////a b/mlflow.db", 5001)
    assert command is not None
    assert "--backend-store-uri 'sqlite:////a b/mlflow.db' --workers 1 --port 5001" in command
    assert ui_command("https://mlflow.example.org") is None
