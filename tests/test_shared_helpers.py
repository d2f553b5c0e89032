"""Tests and benchmarks share `tests/support`, and neither imports the other."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUPPORT = ROOT / "tests" / "support"
BENCHMARKS = ROOT / "benchmarks"


def modules_in(folder: Path) -> set[str]:
    """Return the names under which files below a folder can be imported."""
    return {file.stem for file in folder.rglob("*.py")} - {"__init__"}


def imported_by(folder: Path) -> dict[Path, set[str]]:
    """Return the first part of each module that the files below a folder import."""
    found: dict[Path, set[str]] = {}
    for file in folder.rglob("*.py"):
        names = found.setdefault(file, set())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return found


def test_no_test_imports_a_benchmark() -> None:
    benchmarks = {*modules_in(BENCHMARKS), "benchmarks"}
    assert benchmarks.isdisjoint(modules_in(SUPPORT)), "two modules of one name"
    found = {file: names & benchmarks for file, names in imported_by(ROOT / "tests").items()}
    assert {file: names for file, names in found.items() if names} == {}


def test_no_benchmark_imports_a_test() -> None:
    packages = {folder.name for folder in SUPPORT.iterdir() if folder.is_dir()}
    tests = {*modules_in(ROOT / "tests"), "tests"} - modules_in(SUPPORT) - packages
    found = {file: names & tests for file, names in imported_by(BENCHMARKS).items()}
    assert {file: names for file, names in found.items() if names} == {}
