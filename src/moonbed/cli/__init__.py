"""The command line: parsing and printing."""

from moonbed.cli import (  # registers them
    boards,
    checking,
    commands,
    exporting,
    judging,
    listing,
    moving,
    plotting,
    reporting,
    searching,
    serving,
)
from moonbed.cli.app import app, main
from moonbed.cli.options import STORE

__all__ = [
    "STORE",
    "app",
    "boards",
    "checking",
    "commands",
    "exporting",
    "judging",
    "listing",
    "main",
    "moving",
    "plotting",
    "reporting",
    "searching",
    "serving",
]
