"""What leaves the house runs without Moonbed, and gives the same bits."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save
from small import tiny

from moonbed import export as out
from moonbed.component import Component, SpecError, members
from moonbed.diffusion import Prediction, Sampler, Schedule
from moonbed.diffusion.diffusers_bridge import Diffusers
from moonbed.diffusion.guidance import AutoGuidance
from moonbed.diffusion.samplers import DPMSolver2M, Heun
from moonbed.experiments import Experiment, Store, StoreError, run
from moonbed.experiments.evaluate import denoiser_of
from moonbed.experiments.plugins import experiments_in
from moonbed.export.sources import assemble
from moonbed.networks import Embedding, Network

PLUGIN = '''
import math

import moonbed.diffusion.samplers as samplers
import torch
from moonbed import PRESETS, Network
from moonbed.component import Positive
from torch import nn

GAIN = 1.5


def scaled(x):
    """One of two things called alike: a module below is Linear, as a schedule is."""
    return GAIN * x


class Linear(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(dim + 1, width), nn.Tanh(), nn.Linear(width, dim))

    def forward(self, x, c_noise):
        return scaled(self.inner(torch.cat([x, c_noise.reshape(-1, 1).expand(len(x), 1)], dim=1)))


class ExportedNet(Network):
    """A network that is told the noise level as it is."""

    width: Positive = 8

    def build(self, dim):
        return Linear(dim, self.width)


class ExportedShake(samplers.SteppingSampler):
    """DDIM with a shake."""

    shake: float = 0.01

    def step(self, denoiser, x, t, u, stream):
        from moonbed.diffusion.samplers import DDIM as Inner

        x = Inner(steps=1).step(denoiser, x, t, u, stream)
        return x + self.shake * math.sqrt(float(u)) * stream.normal(x.shape).to(x)


small = {"training.steps": 20, "training.batch": 64, "training.points": 1000, "n": 20}
base = PRESETS["fast"].replace(
    **small,
    **{"training.network": ExportedNet(), "training.schedule": {"type": "Linear"}, "sampler": ExportedShake(steps=5)},
)
'''
LOAD = """
import json, sys
sys.modules["moonbed"] = None
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
logging.disable_progress_bar()
folder, names = sys.argv[1], sys.argv[2].split(",")
pipes = {name: DiffusionPipeline.from_pretrained(f"{folder}/{name}", trust_remote_code=True) for name in names}
for name, pipe in pipes.items():  # all are loaded first: they must not share their code
    torch.save(pipe(batch_size=1800, generator=torch.Generator().manual_seed(3)), f"{folder}/{name}.pt")
about = {"moonbed.json": ""}
x_t, t = torch.load(f"{folder}/asked.pt")
for name in ("fast", "ddpm"):
    program = torch.export.load(f"{folder}/{name}.pt2", extra_files=about).module()
    torch.save([program(x_t[:n], t[:n]).detach() for n in (1, 7, 1800)], f"{folder}/{name}-program.pt")
print(json.dumps({"id": json.loads(about["moonbed.json"])["id"], "moonbed": str(sys.modules["moonbed"])}))
"""
QUICK = {"training__steps": 20, "n": 20}


def named(plugin: Path) -> dict:
    labelled = {"training__label_dropout": 0.1, "training__objective": {"type": "Denoising"}, "label": 1}
    cosine = {"schedule": {"type": "Cosine"}}
    guided = {"guidance": AutoGuidance(scale=1.5), "guide": tiny("fast", training__seed=1, **QUICK).training}
    return {
        "fast": tiny("fast", **QUICK),
        "ddpm": tiny("ddpm", **QUICK),
        "euler": tiny("baseline", **QUICK),
        "heun": tiny("residual", sampler=Heun(steps=4), **QUICK),
        "solver": tiny("fast", sampler=DPMSolver2M(steps=5, eta=1.0), **QUICK),
        "label": tiny("fast", **labelled, **QUICK),
        "rescheduled": tiny("ddpm", **cosine, **QUICK),
        "guided": tiny("fast", **guided, **QUICK),
        "plugin": experiments_in(plugin)["base"],
    }


NAMES = ["fast", "ddpm", "euler", "heun", "solver", "label", "rescheduled", "guided", "plugin"]


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """(folder of all exports, store, experiments), and what a process without Moonbed made of them."""
    home = tmp_path_factory.mktemp("exported")
    (home / "exported_idea.py").write_text(PLUGIN)
    store, found = Store(home / "runs"), named(home / "exported_idea.py")
    run(found, metrics=[], store=store, device="cpu", doubt=False)
    for name, experiment in found.items():
        out.write(out.export(out.Run(experiment, store), "diffusers"), "diffusers", home / name)
    for name in ("fast", "ddpm"):
        out.write(out.export(out.Run(found[name], store), "torch"), "torch", home / f"{name}.pt2")
    generator = torch.Generator().manual_seed(1)
    t = torch.rand(1800, generator=generator, dtype=torch.float64)
    torch.save((torch.randn(1800, 2, generator=generator), t), home / "asked.pt")
    env = {**os.environ, "HF_HOME": str(home / "hf"), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    words = [sys.executable, "-c", LOAD, str(home), ",".join(NAMES)]
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"id": found["ddpm"].id, "moonbed": "None"}
    return home, store, found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_gives_the_same_bits_without_moonbed(exported, name):
    home, store, found = exported
    kept = out.Run(found[name], store)
    generator = torch.Generator().manual_seed(3)
    wanted = out.samples_from(found[name], kept.weights, 1800, generator, guide=kept.guide)
    assert torch.equal(torch.load(home / f"{name}.pt"), wanted)
    assert wanted.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fast", "ddpm"])
def test_a_program_gives_the_same_bits_without_moonbed(exported, name):
    home, store, found = exported
    denoiser = denoiser_of(found[name], out.Run(found[name], store).weights, "cpu")
    x_t, t = torch.load(home / "asked.pt")
    for n, got in zip((1, 7, 1800), torch.load(home / f"{name}-program.pt"), strict=True):
        assert torch.equal(got, denoiser(x_t[:n], t[:n]).detach())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["fast", "plugin"])
def test_onnx(exported, name):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    home, store, found = exported
    kept = out.Run(found[name], store)
    data = out.export(kept, "onnx")[".onnx"]
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    x_t, t = torch.load(home / "asked.pt")
    wanted = denoiser_of(found[name], kept.weights, "cpu")(x_t, t).detach().numpy()
    (got,) = session.run(None, {"x_t": x_t.numpy(), "t": t.numpy()})
    assert (np.abs(got - wanted) / np.maximum(1, np.abs(wanted))).max() < 1e-5
    assert json.loads(session.get_modelmeta().custom_metadata_map["moonbed"])["id"] == found[name].id


@pytest.mark.slow
def test_the_files_of_a_folder(exported):
    home, _, found = exported
    for name in NAMES:
        files = sorted(str(p.relative_to(home / name)) for p in (home / name).rglob("*") if p.is_file())
        sources = [file for file in files if file.endswith(".py")]
        assert len(sources) == (3 if name == "guided" else 2)
        assert "network/diffusion_pytorch_model.safetensors" in files
        assert ("scheduler/scheduler_config.json" in files) == isinstance(found[name].sampler, Diffusers)
        for source in sources:
            text = (home / name / source).read_text()
            assert "import moonbed" not in text
            assert "from moonbed" not in text
            py_compile.compile(str(home / name / source), cfile=str(home / "compiled"), doraise=True)
    index = json.loads((home / "plugin" / "model_index.json").read_text())
    assert index["sampler"]["type"] == "ExportedShake"
    assert index["origin"]["id"] == found["plugin"].id


@pytest.mark.slow
def test_the_command(exported, moonbed):
    home, store, found = exported
    name, at = found["heun"].id, ("--store", store.root)
    code, text, err = moonbed("export", name[:8], "--format", "npy", "--json", *at)
    assert (code, err) == (0, "")
    files = [Path(f) for f in json.loads(text)["files"]]
    assert [f.name for f in files] == [f"moonbed-{name}.npy", f"moonbed-{name}.json"]
    about = json.loads(files[1].read_text())
    stored = np.load(store.experiment(found["heun"]).path / "samples.npy")
    assert np.array_equal(np.load(files[0]), stored)
    assert (about["id"], about["n"], len(about["mean"])) == (name, 20, 2)
    for format, place in (("npy", files[0]), ("diffusers", home / "heun"), ("torch", home), ("diffusers", files[0])):
        code, text, err = moonbed("export", name, "--format", format, "--out", place, *at)
        assert (code, text) == (2, "")
        assert "--out" in err
    assert moonbed("export", name, "--format", "npy", "--force", *at)[0] == 0
    code, text, err = moonbed("export", name, *at)
    assert (code, err) == (0, "")
    assert (Path(f"moonbed-{name}") / "model_index.json").is_file()


def test_what_is_not_there_is_refused(moonbed, tmp_path):
    for name, message in (("fast", "is not finished"), ("0123abcd", "no preset, file or run"), ("fsat", "no preset")):
        code, text, err = moonbed("export", name)
        assert (code, text) == (2, "")
        assert message in err
    code, _, err = moonbed("export", "fast", "--format", "diffuser")
    assert code == 2
    assert "did you mean 'diffusers'" in err


def test_what_diverged_or_is_damaged_is_refused(tmp_path):
    experiment = tiny("fast", **QUICK)
    store = Store(tmp_path)
    folder = store.training(experiment.training)
    folder.finish({"status": "diverged", "id": experiment.training.id}, {"weights.safetensors": b"x"})
    with pytest.raises(SpecError, match="diverged: there is nothing to export"):
        out.find_run("fast " + " ".join(changes(experiment)), store)
    folder.finish({"status": "done", "id": experiment.training.id}, {"weights.safetensors": b"x"})
    (folder.path / "weights.safetensors").write_bytes(b"y")
    with pytest.raises(StoreError, match="damaged"):
        out.find_run("fast " + " ".join(changes(experiment)), store)


def changes(experiment: Experiment) -> list[str]:
    """`fast` as the experiment that was made from it."""
    training = experiment.training
    embedding = json.dumps(training.network.embedding.spec(), separators=(",", ":"))
    words = [f"training.{name}={getattr(training, name)}" for name in ("steps", "batch", "points")]
    words += ["training.network.hidden=[16]", f"training.network.embedding={embedding}"]
    return [*words, "sampler.steps=5", f"n={experiment.n}"]


def test_onnx_names_its_extra(monkeypatch):
    from moonbed.export import _program

    monkeypatch.setattr(_program.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"pip install 'moonbed\[onnx\]'"):
        _program.onnx_bytes(None, 2, "")


def test_the_exact_denoiser_does_not_leave(tmp_path):
    kept = out.Run(tiny("fast", exact=True), Store(tmp_path))
    with pytest.raises(SpecError, match="an experiment with exact cannot be exported as torch yet"):
        out.export(kept, "torch")


# The source of every member can leave


@pytest.mark.parametrize("kind", [Schedule, Prediction, Sampler, Network, Embedding])
def test_the_source_of_all_members_of_a_kind(kind):
    """In one file, in which every class can be built without Moonbed."""
    from moonbed.export import _shipped

    found = [cls for cls in members(kind).values() if not cls._plugin and cls is not Diffusers]
    if importlib.util.find_spec("zuko") is None:
        found = [cls for cls in found if not getattr(cls, "density", False)]
    file = assemble(found, "All members.", {Component: _shipped.Component})
    module = sys.modules["exported_members"] = ModuleType("exported_members")
    try:
        exec(compile(file.text, "exported_members.py", "exec"), vars(module))
        for cls in found:
            made = getattr(module, file.name(cls))
            assert made is not cls
            assert made.__module__ == "exported_members"
    finally:
        del sys.modules["exported_members"]
    assert "moonbed" not in set(file.packages)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "field"), [(Sampler, "sampler"), (Network, "training.network")])
def test_every_member_gives_the_same_bits(tmp_path, kind, field):
    """`folder_of` holds its samples against Moonbed's; here with weights that nobody trained."""
    store, done = Store(tmp_path), []
    ours = {name: cls for name, cls in members(kind).items() if cls.__module__.startswith("moonbed.")}
    for name, cls in ours.items():
        steps = {"steps": 2} if kind is Sampler else {}
        try:
            experiment = tiny("fast", n=20).replace(**{field: {"type": name, **steps}})
            generator = torch.Generator().manual_seed(0)
            state = experiment.training.build().state_dict()
            weights = {k: v + 0.2 * torch.randn(v.shape, generator=generator) for k, v in state.items()}
            out.samples_from(experiment, weights, 2, generator)
        except SpecError:  # densities, or too few steps for an adaptive one
            continue
        if not cls._plugin:
            store.training(experiment.training).finish({"status": "done"}, {"weights.safetensors": save(weights)})
            assert "model_index.json" in out.export(out.Run(experiment, store), "diffusers")
            done.append(name)
    assert {"DDIM", "Heun", "Diffusers", "MLP", "Residual"} & set(done)


def test_what_cannot_leave_is_said():
    class Inside(Component):
        pass

    with pytest.raises(SpecError, match="no global of its module"):
        assemble([Inside], "", {})
