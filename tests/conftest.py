"""What several files of tests share."""

from __future__ import annotations

import os

import pytest

from moonbed.cli import main

pytest_plugins = ["browser"]

# Tests run side by side: threads that wait for one another in every process would take the cores from all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def moonbed(capsys, monkeypatch, tmp_path):
    """Call the command in this process, with `runs` in a folder of its own: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
