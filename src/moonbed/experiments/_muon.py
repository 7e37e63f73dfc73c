"""The torch optimiser behind `moonbed.experiments.optimizers.Muon`; imported when one is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: steepest at 0 among those that stay near 1


class MuonWithAdam(torch.optim.Optimizer):
    """Muon on `matrices`, those of one shape at once; Adam without weight decay on `rest`."""

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        rest: Sequence[nn.Parameter],
        lr: float,
        momentum: float,
        iterations: int,
        adam_lr: float,
        betas: tuple[float, float],
    ) -> None:
        self.momentum, self.iterations, self.betas = momentum, iterations, betas
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in matrices:
            by_shape.setdefault(matrix.shape, []).append(matrix)
        groups = [{"params": list(group), "lr": lr, "orthogonal": True} for group in by_shape.values()]
        groups += [{"params": list(rest), "lr": adam_lr, "orthogonal": False}] * bool(rest)
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            (self._muon if group["orthogonal"] else self._adam)(group["params"], group["lr"])

    def _muon(self, matrices: list[nn.Parameter], lr: float) -> None:
        gradient = torch.stack([m.grad for m in matrices])  # type: ignore[misc]
        state = self.state[matrices[0]]
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].lerp_(gradient, 1 - self.momentum)
        update = orthogonal(gradient.lerp_(momentum, self.momentum), self.iterations)
        rows, columns = matrices[0].shape
        torch._foreach_add_([*matrices], list(update.unbind()), alpha=-lr * max(1.0, rows / columns) ** 0.5)

    def _adam(self, parameters: list[nn.Parameter], lr: float) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p] |= {
                    "step": torch.zeros((), device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        gradients = [p.grad for p in parameters if p.grad is not None]
        averages, squares, steps = (
            [self.state[p][slot] for p in parameters] for slot in ("exp_avg", "exp_avg_sq", "step")
        )
        beta1, beta2 = self.betas
        adamw(
            [*parameters],
            gradients,
            averages,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            maximize=False,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=1e-8,
            weight_decay=0.0,
        )


def orthogonal(x: Tensor, iterations: int) -> Tensor:
    """(k, m, n): x with its singular values, which are first divided by their norm, brought near 1."""
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (torch.linalg.matrix_norm(x)[:, None, None] + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT
