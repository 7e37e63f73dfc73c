"""The folder that diffusers loads: configurations, weights, and the two source files that make it stand alone.

    model_index.json                        the pipeline, the denoiser around the network, the sampler
    pipeline_<id>.py                        schedule, prediction, denoiser, sampler
    network/network_<id>.py                 the network
    network/config.json, network/diffusion_pytorch_model.safetensors
    guide/...                               the same, where a worse network guides
    scheduler/scheduler_config.json         where the sampler is a scheduler of diffusers
    moonbed.json                            the experiment, and the way back to the target's own coordinates
    README.md                               how to load it

diffusers copies the source files of a local folder into one place for all models, hence the id in their names.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, cast

from moonbed._lazy import lazy_import
from moonbed.component import Component, SpecError
from moonbed.diffusion import Denoiser
from moonbed.diffusion.diffusers_bridge import Diffusers
from moonbed.diffusion.diffusers_bridge.table import convention_of
from moonbed.experiments.evaluate import denoiser_of
from moonbed.experiments.spec import Training
from moonbed.export.runs import Run, samples_from
from moonbed.export.sources import Assembly, assemble

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = lazy_import("torch")

__all__ = ["folder_of"]

_CHECKED = 4  # samples that both sides draw before anything is written


def folder_of(run: Run) -> dict[str, bytes]:
    """Name -> content of the folder's files, `model_index.json` last.

    Raises `SpecError` for a class that cannot leave, and where the folder does not give the samples of Moonbed.
    """
    import diffusers

    version = {"_diffusers_version": diffusers.__version__}
    denoiser = denoiser_of(run.experiment, run.weights, "cpu", run.guide)
    modules = dict(zip(("network", "guide"), dict.fromkeys(_modules(denoiser)), strict=False))
    index, files, packages = _pipeline(run, denoiser, modules)
    index = {"_class_name": index.pop("_class_name"), **version, **index}
    for (part, module), training in zip(modules.items(), run.experiment.needs, strict=True):
        cls, config, assembly = _network(training, _opening(run, part))
        name = f"{part}_{run.experiment.id}"
        index[part] = [name, cls]
        weights = {f"module.{key}": w.contiguous() for key, w in module.state_dict().items()}
        files[f"{part}/{name}.py"] = assembly.text.encode()
        files[f"{part}/config.json"] = _json({"_class_name": cls, **version, **config})
        files[f"{part}/diffusion_pytorch_model.safetensors"] = _saved(weights)
        packages |= assembly.packages
    about = run.about()
    index["origin"] = {key: about[key] for key in ("id", "moonbed", "mean", "scale")}
    files["moonbed.json"] = _json(about)
    files["README.md"] = _card(run, packages).encode()
    files["model_index.json"] = _json(index)
    _check(run, files)
    return files


def _pipeline(
    run: Run, denoiser: Denoiser, modules: Mapping[str, nn.Module]
) -> tuple[dict[str, Any], dict[str, bytes], frozenset[str]]:
    """What is in `model_index.json` of all but the networks, the source file, and the packages that it imports."""
    from moonbed.export import _shipped

    training, sampler = run.experiment.training, run.experiment.sampler
    values: dict[str, Any] = {"denoiser": denoiser, "prior": training.prior, "sampler": sampler}
    index: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    roots: list[type] = [_shipped.MoonbedPipeline]
    if isinstance(sampler, Diffusers):
        del values["sampler"]
        scheduler = sampler.make(denoiser.schedule)
        convention = convention_of(sampler.scheduler, type(scheduler), sampler.options)
        roots = [cast(type, convention), _shipped.MoonbedSchedulerPipeline]
        files["scheduler/scheduler_config.json"] = scheduler.to_json_string().encode()
        index = {"scheduler": ["diffusers", type(scheduler).__name__], "steps": sampler.steps}
    roots = [*(root for value in values.values() for root in _classes(value)), *roots]
    assembly = assemble(roots, _opening(run, "denoiser and sampler"), {Component: _shipped.Component})
    if isinstance(sampler, Diffusers):
        index["convention"] = assembly.name(roots[-2])
    name = f"pipeline_{run.experiment.id}"
    files[f"{name}.py"] = assembly.text.encode()
    index |= {key: _described(value, assembly, modules) for key, value in values.items() if value is not None}
    index = {"_class_name": [name, roots[-1].__name__], "dim": training.target.dim, **index}
    return index, files, assembly.packages


def _network(training: Training, opening: str) -> tuple[str, dict[str, Any], Assembly]:
    """Class, configuration and source file of the model that builds a network as the training does."""
    from moonbed.export import _shipped

    columns, head = training.classes + training.objective.columns, training.objective.head
    cls = _shipped.MoonbedConditionedNetwork if columns or head else _shipped.MoonbedNetwork
    assembly = assemble([*_classes(training.network), cls], opening, {Component: _shipped.Component})
    told = {"columns": columns, "head": head} if columns or head else {}
    return (
        cls.__name__,
        {"dim": training.target.dim, **told, "network": _described(training.network, assembly)},
        assembly,
    )


def _modules(denoiser: Denoiser) -> Iterator[nn.Module]:
    """The networks of a denoiser; that of its training comes first."""
    from torch import nn

    for value in _fields(denoiser).values():
        if isinstance(value, nn.Module):
            yield value
        elif isinstance(value, Denoiser):
            yield from _modules(value)


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
    """The arguments that would make a component or a denoiser again."""
    if isinstance(value, Component):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    names = [*inspect.signature(type(value)).parameters]
    missing = [name for name in names if not hasattr(value, name)]
    if missing:
        raise SpecError([("", f"{type(value).__name__} keeps nothing under the name of its argument {missing[0]!r}")])
    return {name: getattr(value, name) for name in names}


def _described(value: Any, file: Assembly, modules: Mapping[str, nn.Module] = MappingProxyType({})) -> Any:
    """Plain JSON from which the classes of the file build a value again: `built` of `_shipped`."""
    from torch import nn

    if isinstance(value, Component | Denoiser):
        fields = _fields(value)
        out = {"type": file.name(type(value)), **{k: _described(v, file, modules) for k, v in fields.items()}}
        if isinstance(value, Denoiser):
            more = {k: v for k, v in vars(value).items() if k not in fields and isinstance(v, bool | int | float | str)}
            out |= {"then": more} if more else {}
        return out
    if isinstance(value, nn.Module):
        return {"module": next(name for name, module in modules.items() if module is value)}
    if isinstance(value, list | tuple):
        return [_described(inner, file, modules) for inner in value]
    if isinstance(value, Mapping):
        return {key: _described(inner, file, modules) for key, inner in value.items()}
    if isinstance(value, str) and value and Path(value).is_file():
        raise SpecError([("", f"what reads the file {value} cannot be exported")])
    if value is None or isinstance(value, str | int | float):
        return value
    raise SpecError([("", f"a {type(value).__name__} in a configuration cannot be exported, given {value!r}")])


def _saved(weights: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save(dict(weights), metadata={"format": "pt"})


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
    wanted = samples_from(run.experiment, run.weights, _CHECKED, generator, guide=run.guide)
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
    parts: dict[str, Any] = {}
    with ExitStack() as stack:
        for name, (file, cls) in ((key, index[key]) for key in ("network", "guide") if key in index):
            module = stack.enter_context(_module(folder / name / f"{file}.py"))
            parts[name] = getattr(module, cls).from_pretrained(folder / name, low_cpu_mem_usage=False)
        if "scheduler" in index:
            scheduler = getattr(diffusers, index["scheduler"][1])
            parts["scheduler"] = scheduler.from_pretrained(folder / "scheduler")
        file, cls = index["_class_name"]
        module = stack.enter_context(_module(folder / f"{file}.py"))
        fields = {key: value for key, value in index.items() if not key.startswith("_") and key not in parts}
        return getattr(module, cls)(**parts, **fields)


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
