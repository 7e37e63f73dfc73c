"""What several files of tests share."""

from __future__ import annotations

import pytest

from moonbed.cli import main


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
