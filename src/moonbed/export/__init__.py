"""Trained models leave the house: a diffusers folder, a torch program, an ONNX model, or the samples alone.

What is exported runs where Moonbed is not installed. It is held against Moonbed before it is written.
"""

from moonbed.export.runs import FORMATS, Run, check_free, export, find_run, samples_from, write

__all__ = ["FORMATS", "Run", "check_free", "export", "find_run", "samples_from", "write"]
