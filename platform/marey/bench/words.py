"""What a bench reads from its command line: ``path=value`` words, and ``--help`` for the list of them."""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from marey.config import C, Config, override, settings
from marey.errors import ConfigError

HELP_WORDS = {"--help", "-h", "help"}


def read(bench: C, text: str, console: Console, words: Sequence[str] | None = None) -> C:
    """``bench`` changed by ``words`` (default: the command line's). Exits with 0 after help, with 2 on a mistake."""
    words = list(sys.argv[1:] if words is None else words)
    if HELP_WORDS & set(words):
        show_help(bench, text, console)
        sys.exit(0)
    try:
        return override(bench, words)
    except ConfigError as error:
        refuse(error)


def launch(
    bench: C, text: str, run: Callable[[C, Console], object], console: Console, arguments: Sequence[str] | None = None
) -> None:
    """What every bench's main does: read the words, run, and refuse what is wrong with them."""
    settled = read(bench, text, console, arguments)
    try:
        run(settled, console)
    except ConfigError as error:
        refuse(error)


def refuse(error: ConfigError) -> NoReturn:
    """Say what is wrong with a setting and exit with 2."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def show_help(bench: Config, text: str, console: Console) -> None:
    """Print what the bench measures and its settings with type, value and meaning."""
    console.print(text.strip() + "\n", highlight=False, markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("setting", "type", "here", "meaning"):
        table.add_column(title, overflow="fold")
    for line in settings(type(bench), bench):
        shown = "-" if line.default in (None, ()) else str(line.default)
        table.add_row(line.path, line.type, shown, " ".join(line.meaning.split()))
    console.print(table, markup=False)
