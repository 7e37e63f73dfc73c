"""What every member of a kind must satisfy, as functions that raise `Broken` and say which law and by how much.

The tests hold every member of the package against these laws, `moonbed check` those of anyone's own file.
"""

from moonbed.laws.base import Broken, Law, Verdict, close, hold, in_words, numbers, times
from moonbed.laws.checks import LAWS, check, laws_of, verdict
from moonbed.laws.predictions import PREDICTION_LAWS, Case, Oracle
from moonbed.laws.samplers import convergence_order, final, sampler_has_the_law, sampler_yields_every_step
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
    "final",
    "grid",
    "hold",
    "in_words",
    "laws_of",
    "numbers",
    "sampler_has_the_law",
    "sampler_yields_every_step",
    "times",
    "verdict",
]
