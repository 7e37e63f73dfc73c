"""Ancestral samplers: denoise, then draw from the forward process given the denoised point.

Given x_0, the states of the forward process at u < t are jointly Gaussian for any alpha and sigma, with

    q(x_u | x_t, x_0) = N(alpha_u x_0 + sqrt(sigma_u² - v) (x_t - alpha_t x_0)/sigma_t, v)

for every v up to v = sigma_u² (1 - (alpha_t sigma_u / (alpha_u sigma_t))²), where the process is Markov (Ho et al.
2020, equations 6-7; Song et al. 2021, "Denoising Diffusion Implicit Models", equation 7). A step puts x0_hat in place
of x_0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from moonbed._lazy import lazy_import
from moonbed.component import Fraction
from moonbed.diffusion.denoisers import Denoiser
from moonbed.diffusion.samplers.base import SteppingSampler
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")


class DDIM(SteppingSampler):
    """Denoise, then put part of the noise back (Song et al. 2021, equation 12), for any alpha and sigma.

    eta = 0 is deterministic and first order in the log signal-to-noise ratio; eta = 1 is the ancestral sampler of DDPM.
    """

    eta: Fraction = 0.0

    @property
    def order(self) -> int:
        return 1

    @property
    def needs_score(self) -> bool:
        return self.eta > 0

    def step(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, stream: Stream) -> Tensor:
        schedule = denoiser.schedule
        a, s, b, r = schedule.alpha(t), schedule.sigma(t), schedule.alpha(u), schedule.sigma(u)
        fresh = self.eta * r * torch.sqrt(1 - (a * r / (b * s)) ** 2)
        kept = torch.sqrt(r**2 - fresh**2)
        x = denoiser.combine(x, t, kept / s, b - kept * a / s)
        return x + float(fresh) * stream.normal(x.shape).to(x) if self.eta else x


class DDPM(SteppingSampler):
    """The ancestral sampler with either variance of Ho et al. 2020, section 3.2; weak order one.

    The mean is that of q(x_u | x_t, x0_hat), Markov. `variance` "small" is that of q, right for data that are one
    point: this is `DDIM` with eta = 1, and diffusers' "fixed_small". "large" is that of q(x_t | x_u), beta_t, right for
    data that are standard normal (where the variance is preserved), and wider at every step than any `DDIM` is.
    """

    variance: Literal["small", "large"] = "small"

    @property
    def order(self) -> int:
        return 1

    @property
    def needs_score(self) -> bool:
        return True

    def step(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, stream: Stream) -> Tensor:
        schedule = denoiser.schedule
        a, s, b, r = schedule.alpha(t), schedule.sigma(t), schedule.alpha(u), schedule.sigma(u)
        added = s**2 - (a / b * r) ** 2  # the variance of q(x_t | x_u)
        std = torch.sqrt(added) * (r / s if self.variance == "small" else 1)
        x = denoiser.combine(x, t, a / b * (r / s) ** 2, b * added / s**2)
        return x + float(std) * stream.normal(x.shape).to(x)
