"""The folder that diffusers loads: configurations, weights, and the two source files that make it stand alone.

    model_index.json                        the pipeline, the denoiser around the network, the sampler
    pipeline_<id>.py                        schedule, prediction, denoiser, sampler
    network/network_<id>.py                 the network
    network/config.json, network/diffusion_pytorch_model.safetensors
    scheduler/scheduler_config.json         where the sampler is a scheduler of diffusers
    moonbed.json                            the experiment, and the way back to the target's own coordinates
    README.md                               how to load it

diffusers copies the source files of a local folder into one place for all models, hence the id in their names.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.component import Component, SpecError
from moonbed.diffusion import Denoiser
from moonbed.diffusion.diffusers_bridge import Diffusers
from moonbed.experiments.evaluate import denoiser_of
from moonbed.export.runs import Run, samples_from
from moonbed.export.sources import Assembly, assemble

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

__all__ = ["folder_of"]

_CHECKED = 4  # samples that both sides draw before anything is written


def folder_of(run: Run) -> dict[str, bytes]:
    """Name -> content of the folder's files, `model_index.json` last.

    Raises `SpecError` for a class that cannot leave, and where the folder does not give the samples of Moonbed.
    """
    import diffusers

    from moonbed.export import _shipped

    experiment = run.experiment
    training, sampler, about = experiment.training, experiment.sampler, run.about()
    denoiser = denoiser_of(experiment, run.weights, "cpu")
    native = not isinstance(sampler, Diffusers)
    pipeline = _shipped.MoonbedPipeline if native else _shipped.MoonbedSchedulerPipeline
    steps = {"sampler": sampler} if native else {}
    used = [*_classes(denoiser), *_classes(sampler if native else None), pipeline]
    run_by = assemble(used, _opening(run, "denoiser and sampler"), {Component: _shipped.Component})
    used = [*_classes(training.network), _shipped.MoonbedNetwork]
    network = assemble(used, _opening(run, "network"), {Component: _shipped.Component})

    version = {"_diffusers_version": diffusers.__version__}
    names = {"pipeline": f"pipeline_{experiment.id}", "network": f"network_{experiment.id}"}
    index: dict[str, Any] = {"_class_name": [names["pipeline"], pipeline.__name__], **version}
    index |= {"network": [names["network"], "MoonbedNetwork"]}
    files = {f"{names['pipeline']}.py": run_by.text.encode(), f"network/{names['network']}.py": network.text.encode()}
    config = {"_class_name": "MoonbedNetwork", **version, "dim": training.target.dim}
    files["network/config.json"] = _json(config | {"network": _described(training.network, network)})
    files["network/diffusion_pytorch_model.safetensors"] = _weights(run)
    if isinstance(sampler, Diffusers):
        scheduler = sampler.make(training.schedule)
        files["scheduler/scheduler_config.json"] = scheduler.to_json_string().encode()
        index |= {"scheduler": ["diffusers", type(scheduler).__name__], "steps": sampler.steps}
    index |= {key: _described(value, run_by) for key, value in steps.items()}
    index |= {"dim": training.target.dim, "denoiser": _described(denoiser, run_by)}
    index["origin"] = {key: about[key] for key in ("id", "moonbed", "mean", "scale")}
    files["moonbed.json"] = _json(about)
    files["README.md"] = _card(run, run_by.packages | network.packages).encode()
    files["model_index.json"] = _json(index)
    _check(run, files)
    return files


def _classes(value: Any) -> Iterator[type]:
    """The classes of a component or a denoiser and of what is in its fields."""
    if isinstance(value, Component | Denoiser):
        yield type(value)
        for inner in _fields(value).values():
            yield from _classes(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _classes(inner)


def _fields(value: Component | Denoiser) -> dict[str, Any]:
    if isinstance(value, Denoiser):
        return dict(vars(value))
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def _described(value: Any, file: Assembly) -> Any:
    """Plain JSON from which the classes of the file build a value again: `built` of `_shipped`."""
    from torch import nn

    if isinstance(value, Component | Denoiser):
        fields = {key: _described(inner, file) for key, inner in _fields(value).items()}
        return {"type": file.name(type(value)), **fields}
    if isinstance(value, nn.Module):
        return {"module": "network"}
    if isinstance(value, list | tuple):
        return [_described(inner, file) for inner in value]
    if isinstance(value, Mapping):
        return {key: _described(inner, file) for key, inner in value.items()}
    if value is None or isinstance(value, str | int | float):
        return value
    raise SpecError([("", f"a {type(value).__name__} in a configuration cannot be exported, given {value!r}")])


def _weights(run: Run) -> bytes:
    from safetensors.torch import save

    return save({f"module.{name}": w.contiguous() for name, w in run.weights.items()}, metadata={"format": "pt"})


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()


def _opening(run: Run, what: str) -> str:
    return f"The {what} of the Moonbed experiment {run.experiment.id}; needs no Moonbed."


def _card(run: Run, packages: frozenset[str]) -> str:
    """The model card."""
    target = type(run.experiment.training.target).__name__
    needs = ", ".join(sorted(packages | {"safetensors"}))
    return f"""---
library_name: diffusers
---
# Moonbed experiment {run.experiment.id}

A diffusion model of `{target}`, a distribution on R^{run.experiment.training.target.dim} whose law is known. Needs
{needs}; Moonbed itself is not needed.

```python
import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("path/to/this/folder", trust_remote_code=True)
samples = pipe(batch_size=1000, generator=torch.Generator().manual_seed(0))  # (1000, dim)
```

Samples are standardised: `mean + scale * samples`, with the numbers under `origin` in `model_index.json`, is in the
coordinates of the target. `trust_remote_code=True` runs the two Python files of this folder; read them first.
"""


def _check(run: Run, files: Mapping[str, bytes]) -> None:
    """Load the folder here and hold a few samples against Moonbed's, bit for bit."""
    generator = torch.Generator()
    state = generator.get_state()
    wanted = samples_from(run.experiment, run.weights, _CHECKED, generator)
    generator.set_state(state)
    with tempfile.TemporaryDirectory() as path:
        for name, data in files.items():
            (Path(path) / name).parent.mkdir(exist_ok=True)
            (Path(path) / name).write_bytes(data)
        try:
            found = _loaded(Path(path))(_CHECKED, generator)
        except Exception as error:
            message = f"what was exported does not run: {type(error).__name__}: {error}"
            raise SpecError([("", message)]) from error
    if not torch.equal(wanted, found):
        message = "what was exported gives other samples, so it is not written; a network that is built twice must be"
        raise SpecError([("", f"{message} the same but for its state_dict, and no class may keep a state of its own")])


def _loaded(folder: Path) -> Any:
    """The pipeline, as diffusers would load it, without its copy of the files."""
    import diffusers

    index = json.loads((folder / "model_index.json").read_text())
    (file, cls), (model_file, model) = index["_class_name"], index["network"]
    with _module(folder / f"{file}.py") as ours, _module(folder / "network" / f"{model_file}.py") as theirs:
        network = getattr(theirs, model).from_pretrained(folder / "network", low_cpu_mem_usage=False)
        parts = {"network": network}
        if "scheduler" in index:
            scheduler = getattr(diffusers, index["scheduler"][1])
            parts["scheduler"] = scheduler.from_pretrained(folder / "scheduler")
        fields = {key: value for key, value in index.items() if not key.startswith("_") and key not in parts}
        return getattr(ours, cls)(**parts, **fields)


@contextmanager
def _module(path: Path) -> Iterator[ModuleType]:
    name = f"moonbed_export_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[name]
