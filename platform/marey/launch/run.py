"""The main guard of every job file: words to settings to a run, and an exit code that is the truth."""

import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marey.config import Config, override
from marey.errors import ConfigError, MareyError
from marey.experiment import Description, Evaluation, Prediction, Preparation, Sweep, Training
from marey.launch import describe, prepare, score, signals, train, tune
from marey.launch.help import show_help

HELP_WORDS = {"--help", "-h", "help"}


def launch(
    job: Config,
    search: Mapping[str, Any] | None = None,
    sweep: Sweep | None = None,
    words: Sequence[str] | None = None,
) -> None:
    """Run ``job`` changed by ``words`` (default: the command line's), and exit.

    With a ``sweep`` the job is a training, whose settings are searched in the space ``search``.

    Exit code 0: done. 1: failed, the reason last on stderr. 2: a setting is wrong, nothing was started.
    130 and 143: stopped by Ctrl-C and by SIGTERM.
    """
    words = list(sys.argv[1:] if words is None else words)
    script = Path(sys.argv[0]).name
    if HELP_WORDS & set(words):
        show_help(job, script, sys.modules["__main__"].__doc__ or "", sweep)
        sys.exit(0)
    signals.install()
    sys.exit(_run(job, search, sweep, words, script))


def _run(job: Config, search: Mapping[str, Any] | None, sweep: Sweep | None, words: list[str], script: str) -> int:
    try:
        if sweep is not None:
            assert isinstance(job, Training)
            tune.run(job, search or {}, sweep, words)
            return 0
        settings = override(job, words)
        if isinstance(settings, Training):
            train.run(settings, words, script)
        elif isinstance(settings, Preparation):
            prepare.run(settings)
        elif isinstance(settings, Description):
            describe.run(settings)
        elif isinstance(settings, Evaluation):
            score.evaluate(settings)
        elif isinstance(settings, Prediction):
            score.predict(settings)
        else:
            raise ConfigError(f"{script}: {type(job).__name__} is not something that can be launched")
    except ConfigError as error:
        return _fail(f"error: {error}", 2)
    except MareyError as error:
        return _fail(f"error: {error}", 1)
    except KeyboardInterrupt as stopped:
        by, code = ("SIGTERM", 143) if signals.terminated() else ("Ctrl-C", 130)
        return _fail(str(stopped) or f"stopped by {by}; the same command with the run's name= takes it up again", code)
    except Exception:  # a mistake of ours: show where
        return _fail(traceback.format_exc().rstrip(), 1)
    return 0


def _fail(text: str, code: int) -> int:
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)
    return code
