"""What every worker needs, imported once in the process that they are forked from."""

import signal

import diffusers
import sklearn.model_selection
import sklearn.svm
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler  # noqa: F401
from diffusers.models import embeddings  # noqa: F401

import moonbed.experiments  # noqa: F401

__all__ = ["diffusers", "sklearn", "torch"]

for _name in ("SIGTERM", "SIGHUP"):  # sent to all of a job at once: the workers save, and the server ends after them
    if hasattr(signal, _name):
        signal.signal(getattr(signal, _name), signal.SIG_IGN)
