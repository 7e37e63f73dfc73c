"""Figures: each a function that returns a matplotlib figure, for papers (`moonbed plot`) and, as SVG, for the page.

Every one says its units, its floor, n and the number of seeds. `save` writes PNG, SVG or PDF; `for_page` makes all that
the data of some rows allow as SVG text with a caption and a table.
"""

from moonbed.report.figures.anatomy import budget, score_errors
from moonbed.report.figures.curves import Curve, Point, quality, training
from moonbed.report.figures.detection import n50
from moonbed.report.figures.field import field
from moonbed.report.figures.page import PageFigure, for_page
from moonbed.report.figures.samples import Panel, overview, pair
from moonbed.report.figures.saving import FORMATS, save, svg
from moonbed.report.figures.verdict import differences, verdict

__all__ = [
    "FORMATS",
    "Curve",
    "PageFigure",
    "Panel",
    "Point",
    "budget",
    "differences",
    "field",
    "for_page",
    "n50",
    "overview",
    "pair",
    "quality",
    "save",
    "score_errors",
    "svg",
    "training",
    "verdict",
]
