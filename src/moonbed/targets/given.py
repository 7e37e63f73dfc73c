"""Class-conditional laws as targets of their own: to train on one label, or to judge guided samples."""

from __future__ import annotations

from functools import cached_property

from moonbed.targets.base import Law, Target
from moonbed.targets.curves import TwoMoons
from moonbed.targets.following import OfLabel


class Given(OfLabel):
    """The points of one label of another target, in that target's coordinates (so not of unit variance)."""

    target: Target = TwoMoons()

    @cached_property
    def law(self) -> Law:
        return self.target.part(self.label)
