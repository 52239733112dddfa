"""Rules of the house that no tool of its own checks."""

import ast
import importlib.util
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "platform" / "marey").rglob("*.py"))
JOBS = sorted(path for path in (ROOT / "jobs").glob("*.py") if path.name != "source_root.py")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_pythons_own_platform_is_not_shadowed():
    assert not (ROOT / "platform" / "__init__.py").exists()
    origin = importlib.util.find_spec("platform").origin
    assert origin.endswith("platform.py")
    assert not list((ROOT / "platform").glob("**/conftest.py"))


def test_no_file_has_a_name_that_says_nothing():
    assert not [path for path in SOURCES if re.search(r"util|helper|manager|misc|common", path.stem)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "platform").as_posix())
def test_what_is_public_has_a_docstring_and_files_are_short(path: Path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    public = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"]
    assert not [node.name for node in public if not ast.get_docstring(node)]
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_job_is_settings_and_the_main_guard(path: Path):
    text = path.read_text()
    tree = ast.parse(text)
    assert text.startswith("#!/usr/bin/env python\n")
    assert path.stat().st_mode & stat.S_IXUSR
    assert ast.get_docstring(tree)
    *body, guard = tree.body[1:]
    assert all(isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign)) for node in body)
    assert isinstance(body[0], ast.Import)
    assert body[0].names[0].name == "source_root"
    assert isinstance(guard, ast.If)
    assert ast.unparse(guard.test) == "__name__ == '__main__'"
    loops = (ast.FunctionDef, ast.For, ast.While, ast.If, ast.Lambda, ast.ListComp)
    assert not [node for part in body for node in ast.walk(part) if isinstance(node, loops)]


def test_the_core_is_imported_without_ray_mlflow_deepspeed_or_a_command_line():
    core = "import marey.engine.loop, marey.engine.hooks, marey.backbones.zoo, marey.recipes.masked, marey.clips.loader"
    bench = "import marey.bench.step, marey.bench.gpu"
    check = f"{core}; {bench}, sys; print({{'ray', 'mlflow', 'deepspeed', 'typer'}} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    shown = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


def test_nothing_names_a_registry_or_a_place_on_somebodys_machine():
    words = re.compile(r"pypi\.org|pythonhosted|registry\.npmjs|index-url|(?<![\w./-])/(work|root)/")
    texts = [path for path in tracked() if path.suffix not in {".png", ".json"} and path.name != Path(__file__).name]
    assert texts
    assert not [path.name for path in texts if words.search(path.read_text(errors="ignore"))]
