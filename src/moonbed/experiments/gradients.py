"""The gradient of a training step: by autograd, or in a compiled function where that pays for itself.

`torch.compile` turns loss, gradient and clipping into one function: matrix products with everything between them fused.
That takes 5 to 30 s before the first step and saves a fifth of the later ones, so it is used from `PAYS` steps on, and
only where torch finds a compiler. Which of the two it is depends on the configuration and the machine alone, so a run
that is resumed or repeated on one machine has the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.experiments.spec import Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from moonbed.experiments.train import State
else:
    torch = lazy_import("torch")

__all__ = ["PAYS", "compiled", "functional", "gradient"]

PAYS = 20_000
"""Steps from which on a training is compiled."""

Differentiate = Callable[[tuple["Tensor", ...]], "Tensor"]


def gradient(training: Training, state: State) -> Differentiate:
    """A function of a batch that returns its loss () and leaves the clipped gradient in `state.gradient`."""
    eager = _eager(training, state)
    return _compiled(training, state, eager) if training.steps >= PAYS else eager


def _eager(training: Training, state: State) -> Differentiate:
    grad, weights, objective = state.gradient, state.weights, training.objective

    def differentiate(batch: tuple[Tensor, ...]) -> Tensor:
        loss = objective.loss(state.network, objective.row_type(*batch)).mean()
        parts = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        torch.cat([part.reshape(-1) for part in parts], out=grad)
        if training.clip is not None:
            grad.mul_(_shrink(grad, training.clip))
        return loss.detach()

    return differentiate


def _shrink(grad: Tensor, clip: float) -> Tensor:
    """What brings a gradient to the norm `clip` where it is longer, as torch's `clip_grad_norm_` has it."""
    return (clip / (torch.linalg.vector_norm(grad) + 1e-6)).clamp(max=1.0)


def functional(training: Training, state: State) -> Callable[..., tuple[Tensor, Tensor]]:
    """(vector, *examples) -> (clipped gradient, loss), without side effects: to be compiled, or mapped over vectors."""
    from torch.func import functional_call, grad_and_value

    names = [name for name, w in state.network.named_parameters() if w.requires_grad]
    objective = training.objective

    def loss_of(vector: Tensor, *examples: Tensor) -> Tensor:
        parts = dict(zip(names, state.parts(vector), strict=True))

        def network(x: Tensor, c_noise: Tensor) -> Tensor:
            return functional_call(state.network, parts, (x, c_noise))

        return objective.loss(network, objective.row_type(*examples)).mean()

    def both(vector: Tensor, *examples: Tensor) -> tuple[Tensor, Tensor]:
        grad, loss = grad_and_value(loss_of)(vector, *examples)
        return (grad if training.clip is None else grad * _shrink(grad, training.clip)), loss

    return both


def _compiled(training: Training, state: State, otherwise: Differentiate) -> Differentiate:
    def eager(vector: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        loss = otherwise(batch)
        return state.gradient, loss

    both = compiled(functional(training, state), state.device, eager)
    vector, grad = state.vector.detach(), state.gradient

    def differentiate(batch: tuple[Tensor, ...]) -> Tensor:
        found, loss = both(vector, *batch)
        grad.copy_(found)
        return loss

    return differentiate


def compiled(
    function: Callable[..., Any], device: str, otherwise: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """`torch.compile` of a function that is called with one set of shapes; `otherwise`, or itself, where that fails.

    On a GPU the step is replayed as a CUDA graph: its results are overwritten by the next call.
    """
    import torch._inductor.config

    torch._inductor.config.compile_threads = 1  # a worker of ours may not have children
    torch.compiler.reset()  # what earlier trainings compiled: the number of variants that are kept is limited
    # On a CPU a tenth of a step is calls from Python
    options: dict[str, Any] = {"cpp_wrapper": True} if device == "cpu" else {"triton.cudagraphs": True}
    fast = torch.compile(function, dynamic=False, options=options)
    chosen: list[Callable[..., Any]] = []

    def call(*args: Any) -> Any:
        if not chosen:
            try:
                fast(*args)
                chosen.append(fast)
            except Exception as error:
                warnings.warn(f"not compiled, which only makes it slower: {type(error).__name__}", stacklevel=2)
                chosen.append(otherwise or function)
        return chosen[0](*args)

    return call
