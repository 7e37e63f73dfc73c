"""A document and its bytes read back, in NumPy: what a page does with them, as a reference to hold it against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.live.pack import array
from moonbed.live.plan import Plan
from moonbed.live.replay import run_plan, run_tape
from moonbed.live.tape import Instruction, Tape
from moonbed.targets.boxes import BoxMixture
from moonbed.targets.mixtures import Mixture

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Reader"]


class Reader:
    """A document of `moonbed.live.document` and its bytes."""

    def __init__(self, live: Mapping[str, Any], blob: bytes) -> None:
        self.live, self._blob = live, blob

    def array(self, place: Mapping[str, Any]) -> Any:
        """The array at a place of the bytes."""
        return array(dict(place), self._blob)

    @cached_property
    def tapes(self) -> Mapping[str, Tape]:
        """The networks."""
        return {key: self._tape(data) for key, data in self.live["networks"].items()}

    def _tape(self, data: Mapping[str, Any]) -> Tape:
        head, body = (
            [Instruction(op, out, tuple(inputs), tuple(more.items())) for op, out, inputs, more in data[part]]
            for part in ("head", "body")
        )
        return Tape(
            **{name: data[name] for name in ("columns", "dim", "parameters", "x", "c_noise", "out")},
            registers=[(rows, columns) for rows, columns in data["registers"]],
            constants={k: self.array(place) for k, place in data["constants"]},
            head=head,
            body=body,
        )

    def law(self, key: str) -> Mixture | BoxMixture:
        """A law."""
        data = self.live["laws"][key]
        weights = torch.exp(torch.tensor(self.array(data["log_weights"])))
        if data["kind"] == "boxes":
            low = torch.tensor(self.array(data["low"]))
            return BoxMixture(weights, low, low + torch.tensor(self.array(data["width"])))
        std = torch.sqrt(torch.tensor(self.array(data["variances"])))
        return Mixture(weights, torch.tensor(self.array(data["centres"])), std[0] if len(std) == 1 else std)

    def plan(self, key: str) -> Plan:
        """A plan."""
        data = self.live["plans"][key]
        slope = None if data["slope"] is None else self.array(data["slope"]).astype(np.float64)
        numbers = self.array(data["numbers"]).astype(np.float64)
        return Plan(self.array(data["code"]), numbers, slope, self.array(data["states"]))

    def level(self, key: str, level: int) -> Plan:
        """The plan of D(x, t) at a level."""
        data = self.live["levels"][key]
        (a, b), (c, d) = (self.array(data[name])[level : level + 2] for name in ("code_at", "numbers_at"))
        slope = None if data["slope"] is None else self.array(data["slope"])[c:d]
        return Plan(self.array(data["code"])[a:b], self.array(data["numbers"])[c:d], slope, None)

    def functions(self, model: int) -> list[Callable[..., Any]]:
        """What the plans of a model ask."""
        return [self._function(key) for key in self.live["models"][model]["functions"]]

    def _function(self, key: str) -> Callable[..., Any]:
        if key in self.live["laws"]:
            law = self.law(key)
            return lambda x, a, s: law.denoise(torch.from_numpy(x), float(a), float(s)).numpy()
        tape = self.tapes[key]

        def network(x: Any, columns: Any, c_noise: float) -> Any:
            told = np.broadcast_to(np.asarray(columns), (len(x), len(columns)))
            return run_tape(tape, np.concatenate([x, told], axis=1), c_noise).astype(np.float64)

        return network

    def sample(
        self, model: int, plan: str, start: Any, noise: Callable[[int], Any], w: float | None = None
    ) -> Iterator[Any]:
        """Yield the states (n, dim): the first one, and the one after each step."""
        yield from self._run(model, self.plan(plan), start, noise, w)

    def denoise(self, model: int, level: int, x: Any, w: float | None = None) -> Any:
        """(n, dim): D(x, t) at a level."""
        plan = self.level(self.live["models"][model]["levels"], level)
        (out,) = self._run(model, plan, x, lambda k: None, w)
        return out

    def _run(self, model: int, plan: Plan, start: Any, noise: Callable[[int], Any], w: float | None) -> Iterator[Any]:
        guidance = self.live["models"][model]["guidance"]
        scale = guidance["scale"] if guidance and w is None else w
        numbers = plan.numbers if plan.slope is None else plan.numbers + ((scale or 0.0) - 2) * plan.slope
        yield from run_plan(plan, np.asarray(start, np.float64), self.functions(model), noise, numbers)
