"""The command line: parsing and printing."""

from moonbed.cli import boards, checking, commands, exporting, judging, plotting, reporting  # registers them
from moonbed.cli.app import STORE, app, main

__all__ = ["STORE", "app", "boards", "checking", "commands", "exporting", "judging", "main", "plotting", "reporting"]
