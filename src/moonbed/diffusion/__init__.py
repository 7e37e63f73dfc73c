"""The mathematics of diffusion: schedules, predictions, denoisers, objectives and samplers."""

from moonbed.component import discover
from moonbed.diffusion.denoisers import Denoiser, Exact, Learned
from moonbed.diffusion.objectives import Objective
from moonbed.diffusion.predictions import Prediction
from moonbed.diffusion.samplers import Sampler
from moonbed.diffusion.schedules import Schedule
from moonbed.diffusion.times import Times
from moonbed.diffusion.weights import Weight

__all__ = ["Denoiser", "Exact", "Learned", "Objective", "Prediction", "Sampler", "Schedule", "Times", "Weight"]

discover(__name__)
