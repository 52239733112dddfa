"""``--help``: every setting of a job with its type, its value in this job, and its meaning."""

from typing import Any

from rich.console import Console
from rich.table import Table

from marey.config import Config, settings


def show_help(job: Config, script: str, text: str, sweep: Config | None = None) -> None:
    """Print the job's own text and the table of its settings."""
    console = Console(soft_wrap=False)
    console.print(text.strip(), highlight=False, markup=False)
    console.print(f"\nUse: python jobs/{script} \\[path=value ...] \\[@settings.yaml ...]\n", highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("setting", no_wrap=True)  # to be found with grep and copied
    for title in ("type", "here", "meaning"):
        table.add_column(title, overflow="fold")
    lines = settings(type(job), job) + (settings(type(sweep), sweep, "sweep.") if sweep is not None else [])
    for line in lines:
        table.add_row(line.path, line.type, _shown(line.default), " ".join(line.meaning.split()))
    console.print(table, markup=False)


def _shown(value: Any) -> str:
    return "-" if value is None else ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
