"""What is said of versions is one thing said once: the bounds, the lowest and the pinned releases agree."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOOLS = {"bench", "dev", "fuzz"}
"""Extras for work on this repository: pinned, and not held to be right in other versions."""
FORCED = {"typing-extensions"}
"""What requirements of ours ask for in a newer release than we do."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def bounds() -> dict[str, str]:
    """Name -> lowest version, of all that a user may install with Moonbed, and of what its tests need."""
    lines = list(PROJECT["dependencies"])
    for extra, needs in PROJECT["optional-dependencies"].items():
        lines += [] if extra in TOOLS else needs
    found = [re.fullmatch(r"([\w.-]+)>=([\d.]+)", line) for line in lines if not line.startswith("moonbed[")]
    assert all(found), lines
    return {normal(match[1]): match[2] for match in found if match}


def pins(name: str) -> dict[str, str]:
    """Name -> version of a file of constraints."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    parts = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(package): version for package, version in parts}


def numbers(version: str) -> tuple[int, ...]:
    """(1, 6) of 1.6.0, and (3, 9) of 3.9.post1: for releases, without zeros at the end."""
    found = [int(part) for part in re.match(r"[\d.]*\d", version)[0].split(".")]
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


@pytest.mark.parametrize("package", bounds())
def test_the_lowest_release_that_is_tested_is_the_bound(package):
    tested, bound = numbers(pins("constraints-lowest.txt")[package]), numbers(bounds()[package])
    assert tested > bound if package in FORCED else tested == bound, "make lowest"


@pytest.mark.parametrize("package", bounds())
def test_the_pinned_release_is_above_the_bound(package):
    assert numbers(pins("constraints.txt")[package]) >= numbers(bounds()[package])


def test_the_table_of_versions_is_that_of_the_files():
    """docs/versions.md has a row for each of them, in order: lowest, pinned."""
    text = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w.-]+)` +\| ([\d.]+) +\|", text, re.MULTILINE))
    pinned = dict(re.findall(r"^\| `([\w.-]+)` +\| [\d.]+ +\| ([\w.]+) +\|", text, re.MULTILINE))
    assert {normal(name): numbers(version) for name, version in rows.items()} == {
        name: numbers(version) for name, version in bounds().items()
    }
    told = pins("constraints.txt")
    assert {normal(name): version for name, version in pinned.items()} == {name: told[name] for name in bounds()}
