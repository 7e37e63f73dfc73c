"""Where tasks run: in processes of this machine, on a Ray cluster, as SLURM jobs."""

from moonbed.component import discover
from moonbed.experiments.engines.base import Engine, Failure, Progress, Task, cores, engine_of
from moonbed.experiments.engines.local import HERE, Local, warm_up
from moonbed.experiments.engines.ray import Ray
from moonbed.experiments.engines.slurm import Slurm

__all__ = ["HERE", "Engine", "Failure", "Local", "Progress", "Ray", "Slurm", "Task", "cores", "engine_of", "warm_up"]

discover(__name__)
