"""Examples of whole files that the pages show, as modules of the package."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


def module_of(page: str, section: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The first Python block of ``section`` as the module ``name``, for as long as ``monkeypatch`` lasts."""
    code = re.search(r"```python\n(.*?)```", (DOCS / page).read_text().split(section)[1], re.DOTALL)
    assert code is not None, f"{page}: no code in {section!r}"
    path = folder / f"{name.rsplit('.', 1)[-1]}.py"
    path.write_text(code.group(1))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module
