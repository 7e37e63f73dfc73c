"""The command line: parsing and printing."""

from moonbed.cli import boards, checking, commands, judging  # registers them
from moonbed.cli.app import STORE, app, main

__all__ = ["STORE", "app", "boards", "checking", "commands", "judging", "main"]
