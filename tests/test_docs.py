"""What the documents show is true: commands have valid settings, links lead somewhere."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from marey.config import Config, override
from marey.launch.tune import read_words

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "jobs").glob("*.py")),
]


def commands() -> list[str]:
    """Every command that runs a job, in code blocks of pages and docstrings of jobs."""
    found = []
    for page in PAGES:
        for line in page.read_text().splitlines():
            match = re.match(r"\s*(?:ray job submit --working-dir \. -- )?(python jobs/\S+\.py.*)", line)
            if match:
                found.append(match.group(1))
    return sorted(set(found))


def test_there_are_commands():
    assert len(commands()) > 6


@pytest.mark.parametrize("command", commands())
def test_a_command_has_settings_that_its_job_takes(command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "jobs")
    text = command.replace("$PWD", "/here").replace("$HOME", "/home")
    _, script, *words = shlex.split(text, comments=True)
    monkeypatch.setattr(sys, "argv", [script])
    if "--help" in words or "bench" in script:
        assert (ROOT / script).exists()
        return
    made = runpy.run_path(script)
    if "sweep" in made:
        read_words(made["training"], made["search"], made["sweep"], [word for word in words if word[0] != "@"])
        return
    [job] = [value for value in made.values() if isinstance(value, Config)]
    override(job, words)


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_shows_the_commands_of_the_makefile():
    made = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert name in made
