"""Dependencies: each has a tested upper bound, and the tested versions are within the bounds."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    Requirement(line)
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in lines
]
LINES = [
    line
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line[:1] not in ("#", "")
]
TESTED = [Requirement(line) for line in LINES]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda one: one.name)
def test_a_dependency_has_an_upper_bound_that_the_tested_version_keeps(requirement):
    assert {"<", "<=", "=="} & {part.operator for part in requirement.specifier}
    tested = [one for one in TESTED if one.name == requirement.name]
    assert tested
    for one in tested:
        (pin,) = one.specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda one: one.name)
def test_what_is_installed_is_within_the_bounds(requirement):
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        pytest.skip("an extra that is not installed")
    assert requirement.specifier.contains(installed)


def test_constraints_name_versions_and_no_place_to_get_them_from():
    assert all(re.fullmatch(r'[\w.-]+==[\w.+]+(; python_version [<>]=? "3\.\d+")?', one)
               for one in LINES)  # fmt: skip
    assert "://" not in (ROOT / "constraints.txt").read_text()
