"""Optimisers: how a gradient becomes a step; and how long steps are over the course of a training."""

from __future__ import annotations

import ast
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Gt, Le

from moonbed._lazy import lazy_import
from moonbed.component import (
    Component,
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveFloat,
    SpecError,
    nearest,
)

if TYPE_CHECKING:
    import torch
    from torch import nn
else:
    torch = lazy_import("torch")


class Optimizer(Component):
    """Configuration of a `torch.optim` optimiser."""

    elementwise: ClassVar[bool] = False
    """Whether every number is updated by itself, so that all parameters may be given as one long vector."""

    lr: PositiveFloat = 1e-3

    @abstractmethod
    def build(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimiser of these parameters, which are in the order of the network."""


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), torch's fused kernel and defaults."""

    elementwise = True
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.01

    def build(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        betas = (self.beta1, self.beta2)
        decay = self.weight_decay
        return torch.optim.AdamW(parameters, lr=self.lr, betas=betas, eps=self.eps, weight_decay=decay, fused=True)


class Muon(Optimizer):
    """Momentum whose matrices are made orthogonal (Jordan et al., Muon, 2024), and Adam for the rest.

    The update of a matrix is U V' of the singular value decomposition U S V' of its momentum (Nesterov's), found in
    `iterations` of a quintic Newton-Schulz iteration, times lr sqrt(max(1, rows/columns)): all directions are learned
    at one pace. Vectors, and the last matrix, which makes the output, get Adam with `adam_lr`.
    """

    lr: PositiveFloat = 0.05
    momentum: Fraction = 0.95
    iterations: Positive = 5
    adam_lr: PositiveFloat = 3e-3
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99

    def build(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        from moonbed.experiments._muon import MuonWithAdam

        matrices = [w for w in parameters if w.ndim == 2][:-1]
        rest = [w for w in parameters if not any(w is m for m in matrices)]
        betas = (self.beta1, self.beta2)
        return MuonWithAdam(matrices, rest, self.lr, self.momentum, self.iterations, self.adam_lr, betas)


_REFUSED = {
    "LBFGS": "asks for the loss again within a step, and a step here has one batch and one gradient",
    "SparseAdam": "takes sparse gradients alone, and those of our networks are dense",
    "Muon": "takes matrices alone; the optimiser Muon of Moonbed gives Adam what is no matrix",
}


class TorchOptimizer(Optimizer):
    """Any optimiser of `torch.optim`, by class name, with its own options; `lr` is the field.

    Names and options are those of the torch that is installed. What they do to one another is tried once when it is
    built: an optimiser that refuses a value, or does not go on to the same bits when it is resumed from its tensors, is
    refused. It is given the parameters one by one, as torch means it, where ours take one vector.
    """

    name: str = "Adam"
    options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> Iterator[tuple[str, str]]:
        known = torch_optimizers()
        if self.name in _REFUSED:
            yield "name", f"torch.optim.{self.name} {_REFUSED[self.name]}; known: {', '.join(sorted(known))}"
            return
        if self.name not in known:
            yield "name", f"torch.optim has no {self.name!r}; {nearest(self.name, known)}"
            return
        options = torch_options(self.name)
        if "lr" in self.options:
            yield "options.lr", "write the field lr"
        for option in sorted(self.options.keys() - options - {"lr"}):
            yield f"options.{option}", f"{self.name} has no such option; {nearest(option, options)}"

    def build(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        options = {name: tuple(v) if isinstance(v, list) else v for name, v in self.options.items()}

        def make(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
            return getattr(torch.optim, self.name)(parameters, lr=self.lr, **options)

        try:
            resumes = _resumes(make, str(parameters[0].device))
        except Exception as error:
            raise SpecError([("training.optimizer", f"torch.optim.{self.name}: {error}")]) from error
        if not resumes:
            message = f"torch.optim.{self.name} keeps more than tensors: it could not be resumed"
            raise SpecError([("training.optimizer", message)])
        return make(parameters)


def _resumes(make: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer], device: str) -> bool:
    """Whether an optimiser that gets back nothing but the tensors of its state goes on as if it had not stopped."""
    start = torch.linspace(-1, 1, 12, device=device).reshape(3, 4)

    def steps(weight: nn.Parameter, optimizer: torch.optim.Optimizer, gradients: Sequence[float]) -> None:
        for scale in gradients:
            weight.grad = scale * start
            optimizer.step()

    weight = torch.nn.Parameter(start.clone())
    optimizer = make([weight])
    steps(weight, optimizer, (1.0, -0.5))
    resumed = torch.nn.Parameter(weight.detach().clone())
    other = make([resumed])
    kept = {
        k: {slot: v.clone() for slot, v in slots.items() if isinstance(v, torch.Tensor)}
        for k, slots in optimizer.state_dict()["state"].items()
    }
    other.load_state_dict({**other.state_dict(), "state": kept})
    for w, o in ((weight, optimizer), (resumed, other)):
        steps(w, o, (0.7, 0.2))
    return torch.equal(weight, resumed)


@cache
def torch_optimizers() -> Mapping[str, Path]:
    """Name -> source file of what `torch.optim` has and a training can use.

    Read from the source of the torch that is installed: importing it takes seconds, which a wrong name should not.
    """
    spec = find_spec("torch")
    root = Path(spec.origin).parent.parent if spec is not None and spec.origin else Path()
    tree = ast.parse((root / "torch" / "optim" / "__init__.py").read_text(encoding="utf-8"))
    return {
        alias.name: root.joinpath(*node.module.split(".")).with_suffix(".py")
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.name[0].isupper() and alias.name not in {"Optimizer", *_REFUSED}
    }


@cache
def torch_options(name: str) -> frozenset[str]:
    """The options of an optimiser of `torch_optimizers`, without `lr`."""
    tree = ast.parse(torch_optimizers()[name].read_text(encoding="utf-8"))
    made = [part for cls in tree.body if isinstance(cls, ast.ClassDef) and cls.name == name for part in cls.body]
    inits = [part.args for part in made if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
    return frozenset(a.arg for args in inits for a in (*args.args, *args.kwonlyargs)) - {"self", "params", "lr"}


class LearningRate(Component):
    """What the optimiser's learning rates are multiplied by, over the course of a training."""

    @abstractmethod
    def __call__(self, step: int, steps: int) -> float:
        """The factor of step 0, 1, ..., steps - 1."""


class Constant(LearningRate):
    """1."""

    def __call__(self, step: int, steps: int) -> float:
        return 1.0


class WarmupCosine(LearningRate):
    """Linear up to 1 over `warmup` steps, times (1 + cos(pi step/steps))/2 (Loshchilov & Hutter, SGDR, 2017)."""

    warmup: NonNegativeInt = 50

    def __call__(self, step: int, steps: int) -> float:
        return _warm(step, self.warmup) * (1 + math.cos(math.pi * step / steps)) / 2


class WarmupLinear(LearningRate):
    """Linear up to 1 over `warmup` steps, then linear to 0 at `steps`: "linear" of diffusers and transformers."""

    warmup: NonNegativeInt = 50

    def __call__(self, step: int, steps: int) -> float:
        return min(_warm(step, self.warmup), (steps - step) / max(1, steps - self.warmup))


class WarmupStable(LearningRate):
    """Linear up to 1 over `warmup` steps, 1, and linear to 0 over the last `decay` of all steps.

    Warm-up, stable, decay (Hu et al., MiniCPM, 2024; Hägele et al. 2024): until the decay begins, nothing depends on
    the number of steps.
    """

    warmup: NonNegativeInt = 50
    decay: Fraction = 0.2

    def __call__(self, step: int, steps: int) -> float:
        left = (steps - step) / (self.decay * steps) if self.decay else 1.0
        return min(_warm(step, self.warmup), left)


class InverseSqrt(LearningRate):
    """1/sqrt(max(step/reference, 1)) times a linear warm-up (Karras et al., EDM2, 2024): no end is needed.

    1 until `reference` steps. Meant to go with an average of the weights.
    """

    warmup: NonNegativeInt = 50
    reference: Positive = 500

    def __call__(self, step: int, steps: int) -> float:
        return _warm(step, self.warmup) / math.sqrt(max(step / self.reference, 1.0))


class Step(LearningRate):
    """gamma^floor(step/every): torch's StepLR."""

    gamma: Annotated[float, Gt(0), Le(1)] = 0.5
    every: Positive = 1000

    def __call__(self, step: int, steps: int) -> float:
        return self.gamma ** (step // self.every)


def _warm(step: int, warmup: int) -> float:
    """1/warmup, 2/warmup, ..., 1, 1, ..."""
    return min(1.0, (step + 1) / max(1, warmup))
