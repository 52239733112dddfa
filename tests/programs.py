"""Programs that are not Python's: where they are, and what to do where they are not."""

import os
import shutil

import pytest


def program(name: str, package: str) -> str:
    """Path of a program from Debian; without it the test is reported as not run, and in CI fails."""
    found = shutil.which(name)
    if found is None:
        text = f"{name} is missing: apt-get install {package}"
        pytest.fail(text) if os.environ.get("CI") else pytest.skip(text)
    return found
