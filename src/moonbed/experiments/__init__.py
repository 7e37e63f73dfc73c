"""The roof: the only place that sees targets, networks, diffusion and metrics; devices, files, processes, resume."""

from moonbed.component import discover
from moonbed.experiments.presets import PRESETS
from moonbed.experiments.run import run
from moonbed.experiments.spec import Averaging, Experiment, Optimizer, Training
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.store import Store

__all__ = ["PRESETS", "Averaging", "Experiment", "Optimizer", "Store", "StoreError", "Training", "run"]

discover(__name__)
