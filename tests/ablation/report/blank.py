"""Plots that cost nothing."""

from matplotlib.figure import Figure

from lit_blip2.ablation.report.plots.paper import Plots


class Blank(Plots):
    """The plots that a page asks for, with nothing in them."""

    def show(self, name, alt, draw, *arguments):
        return super().show(name, alt, lambda paper: Figure((1, 1)))
