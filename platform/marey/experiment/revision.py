"""Which code a run was made with: the git commit where there is one, a hash of the sources always."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path

import marey

PACKAGE = Path(marey.__file__).parent


@cache
def revision() -> dict[str, str]:
    """``{"sources_sha256": ..., "git_commit": ...}``; the commit ends in "+changes" if the sources differ from it."""
    found = {"marey_version": marey.__version__, "sources_sha256": _sources_hash()}
    commit = _git("rev-parse", "HEAD")
    if commit:
        changed = _git("status", "--porcelain", "--", str(PACKAGE))
        found["git_commit"] = commit + ("+changes" if changed else "")
    return found


def _sources_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _git(*words: str) -> str | None:
    """Output of git in the package's folder, None where there is no repository or no git."""
    command = ["git", "-C", str(PACKAGE), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
