"""``--help``: every setting of a job with its value in this job, its type, and its meaning."""

from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from marey.config import Config, settings


def show_help(job: Config, script: str, text: str, sweep: Config | None = None) -> None:
    """Print the job's own text, then each setting on a line that can be found and copied, its meaning below."""
    console = Console()
    console.print(text.strip(), highlight=False, markup=False, soft_wrap=True)  # commands stay whole
    console.print(f"\nUse: python jobs/{script} \\[path=value ...] \\[@settings.yaml ...]\n", highlight=False)
    lines = settings(type(job), job) + (settings(type(sweep), sweep, "sweep.") if sweep is not None else [])
    for line in lines:
        console.print(Text(f"{line.path}={_shown(line.default)}  ({line.type})"), soft_wrap=True)
        console.print(Padding(Text(" ".join(line.meaning.split())), (0, 0, 0, 4), expand=False))


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{','.join(map(str, value))}]"
    return "none" if value is None else str(value)
