"""What every member of a kind must satisfy, as functions that raise `Broken` and say which law and by how much.

The tests hold every member of the package against these laws, `moonbed check` those of anyone's own file.
"""

from moonbed.laws.base import Broken, Law, Verdict, close, hold, in_words, numbers, times
from moonbed.laws.checks import LAWS, check, laws_of, verdict
from moonbed.laws.predictions import PREDICTION_LAWS, Case, Oracle
from moonbed.laws.samplers import (
    convergence_order,
    draws,
    evaluations,
    final,
    gaussian_bias,
    gaussian_variance,
    measured_order,
    natives,
    order_table,
    sampler_has_its_order,
    sampler_has_the_law,
    sampler_keeps_gaussians,
    sampler_needs_what_it_says,
    sampler_yields_every_step,
    weak_order,
)
from moonbed.laws.schedules import SCHEDULE_LAWS
from moonbed.laws.targets import LEVELS, TARGET_LAWS, box, chi_square_p, grid

__all__ = [
    "LAWS",
    "LEVELS",
    "PREDICTION_LAWS",
    "SCHEDULE_LAWS",
    "TARGET_LAWS",
    "Broken",
    "Case",
    "Law",
    "Oracle",
    "Verdict",
    "box",
    "check",
    "chi_square_p",
    "close",
    "convergence_order",
    "draws",
    "evaluations",
    "final",
    "gaussian_bias",
    "gaussian_variance",
    "grid",
    "hold",
    "in_words",
    "laws_of",
    "measured_order",
    "natives",
    "numbers",
    "order_table",
    "sampler_has_its_order",
    "sampler_has_the_law",
    "sampler_keeps_gaussians",
    "sampler_needs_what_it_says",
    "sampler_yields_every_step",
    "times",
    "verdict",
    "weak_order",
]
