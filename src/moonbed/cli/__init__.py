"""The command line: parsing and printing."""

from moonbed.cli import commands  # registers them
from moonbed.cli.app import STORE, app, main

__all__ = ["STORE", "app", "commands", "main"]
