"""What an exported folder runs in place of Moonbed: a plain `Component`, the network as a model, the two pipelines.

These classes are never used here but to look at what was exported: their source goes into the files of the folder,
with that of the schedule, the prediction, the sampler and the network behind them.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from moonbed.diffusion.denoisers import Denoiser
from moonbed.diffusion.diffusers_bridge.bridge import follow
from moonbed.networks._modules import Conditioned
from moonbed.rng import Stream


class Component(ABC):
    """A configuration: each class below is a frozen dataclass. Its values were checked when it was exported."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def built(data: Any, modules: Mapping[str, nn.Module]) -> Any:
    """What a configuration in JSON stands for: an object of a class of this file, or a value.

    Its fields are those of the constructor; `then` are attributes that are set on what it made.
    """
    if isinstance(data, list | tuple):
        return tuple(built(value, modules) for value in data)
    if not isinstance(data, Mapping):
        return data
    if "module" in data:
        return modules[data["module"]]
    fields = {key: built(value, modules) for key, value in data.items() if key != "type"}
    if "type" not in data:
        return fields
    then = fields.pop("then", {})
    made = globals()[data["type"]](**fields)
    vars(made).update(then)
    return made


class MoonbedNetwork(ModelMixin, ConfigMixin):
    """The raw network: F(x (n, dim), c_noise (n,) or (1,)) -> (n, dim)."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, dim: int, network: dict) -> None:
        super().__init__()
        self.module = built(network, {}).build(dim)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """(n, dim): the output, before the prediction scales it."""
        return self.module(x, c_noise)


class MoonbedConditionedNetwork(ModelMixin, ConfigMixin):
    """The raw network of a model that is told more: F(x (n, dim + columns), c_noise (n,) or (1,)) -> (n, dim)."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, dim: int, columns: int, head: bool, network: dict) -> None:
        super().__init__()
        self.module = Conditioned(built(network, {}).build(dim + columns), dim, head)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """(n, dim): the output, before the prediction scales it."""
        return self.module(x, c_noise)


def settled(network: Any) -> Any:
    """The network, if there is one, with its weights in memory of their own.

    Those of a file that is mapped into memory may begin at any byte, and matrix products of them round otherwise.
    """
    for tensor in [] if network is None else [*network.parameters(), *network.buffers()]:
        tensor.data = tensor.data.clone()
    return network


class Sampling:
    """What the pipelines share: the denoiser, and samples from a generator."""

    config: Any
    network: Any
    guide: Any
    device: torch.device
    register_modules: Any
    register_to_config: Any

    @classmethod
    def _get_signature_types(cls) -> dict[str, tuple[Any, ...]]:
        """None is said: the annotations of this file are text, of which older releases of diffusers make nothing."""
        return dict.fromkeys(inspect.signature(cls.__init__).parameters, (inspect.Signature.empty,))

    @property
    def denoiser(self) -> Denoiser:
        """E[x_0 | x_t] as a function of x_t (n, dim) and the time t in [0, 1], 0 = data."""
        modules = {"network": self.network.module}
        if self.guide is not None:
            modules["guide"] = self.guide.module
        return built(self.config.denoiser, modules)

    def trajectory(self, noise: Tensor, stream: Stream) -> Iterator[Tensor]:
        """Yield the state (n, dim) after each step, from standard normal noise (n, dim); the last one is the sample."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self, batch_size: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """(batch_size, dim): samples. A CPU `generator` gives the initial noise and then what the sampler draws."""
        stream = Stream.over(generator or torch.default_generator)
        prior = built(self.config.prior, {})
        noise = (
            stream.normal((batch_size, self.config.dim)) if prior is None else prior.sample(batch_size, stream).float()
        )
        *_, x = self.trajectory(noise.to(self.device), stream)
        return x


class MoonbedPipeline(Sampling, DiffusionPipeline):
    """A network, its prediction and schedule, and a sampler."""

    _optional_components: ClassVar[list[str]] = ["guide"]

    def __init__(
        self,
        network: ModelMixin,
        guide: ModelMixin | None = None,
        dim: int = 2,
        denoiser: dict | None = None,
        sampler: dict | None = None,
        prior: dict | None = None,
        origin: dict | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(network=settled(network), guide=settled(guide))
        self.register_to_config(dim=dim, denoiser=denoiser, sampler=sampler, prior=prior, origin=origin)

    def trajectory(self, noise: Tensor, stream: Stream) -> Iterator[Tensor]:
        """Yield the state (n, dim) after each step, from standard normal noise (n, dim); the last one is the sample."""
        yield from built(self.config.sampler, {}).trajectory(self.denoiser, noise, stream)


class MoonbedSchedulerPipeline(Sampling, DiffusionPipeline):
    """A network, its prediction and schedule, and a scheduler of diffusers as the sampler."""

    scheduler: Any
    _optional_components: ClassVar[list[str]] = ["guide"]

    def __init__(
        self,
        network: ModelMixin,
        scheduler: SchedulerMixin,
        guide: ModelMixin | None = None,
        dim: int = 2,
        denoiser: dict | None = None,
        convention: str = "",
        steps: int = 1000,
        prior: dict | None = None,
        origin: dict | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(network=settled(network), guide=settled(guide), scheduler=scheduler)
        told = {"convention": convention, "steps": steps}
        self.register_to_config(dim=dim, denoiser=denoiser, prior=prior, origin=origin, **told)

    def trajectory(self, noise: Tensor, stream: Stream) -> Iterator[Tensor]:
        """Yield the state (n, dim) after each step, from standard normal noise (n, dim); the last one is the sample."""
        scheduler = self.scheduler.from_config(self.scheduler.config)  # one keeps what it has seen
        denoiser = self.denoiser
        bound = globals()[self.config.convention](scheduler, denoiser.schedule, self.config.steps)
        yield from follow(bound, denoiser, noise, stream)
