"""How a report's plots look, on light and on dark paper, and the files that they become.

matplotlib without its global state. Colours can be told apart by colour-blind eyes: on light paper they are Okabe and
Ito's and a violet, on dark paper the same hues, lighter.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_blip2.ablation.report.markdown import plain
from lit_blip2.ablation.report.plots.looks import Look
from lit_blip2.ablation.spec.values import smaller_is_better

UNITS = {"loss": "nats", "retrieval": "share", "binding": "share", "vqa": "share", "llm": "share"}
STYLE = {
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.25,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.parse_math": False,
}
BACKGROUND = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
INK = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
FAINT = ("axes.edgecolor", "grid.color")


@dataclass(frozen=True)
class Paper:
    background: str
    ink: str
    faint: str
    colours: tuple[str, ...]

    def colour(self, look: Look) -> str:
        """The colour of a look on this paper."""
        return self.ink if look.colour is None else self.colours[look.colour]

    @property
    def style(self) -> dict[str, str]:
        """The paper as matplotlib's settings."""
        places = {self.background: BACKGROUND, self.ink: INK, self.faint: FAINT}
        return {place: colour for colour, names in places.items() for place in names}


LIGHT = Paper(
    "#ffffff",
    "#1f2328",
    "#7d8590",
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8700f0", "#e69f00", "#56b4e9"),
)
DARK = Paper(
    "#14171c",
    "#e6e9ed",
    "#8b949e",
    ("#2f8fe0", "#f0752a", "#12b886", "#e59ac2", "#9b4dff", "#f0c000", "#8fd0ff"),
)


@dataclass
class Plots:
    """The plots of a report: PNGs on light and on dark paper, by their path in it."""

    files: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)

    def show(self, name: str, alt: str, draw: Callable[..., Figure], *arguments) -> str:
        """Draw a plot by `draw(paper, *arguments)`; returns the Markdown that shows it."""
        path = plot_path(name)
        self.files[path] = (_png(draw, LIGHT, *arguments), _png(draw, DARK, *arguments))
        return f"![{plain(alt)}]({path})"


def plot_path(name: str) -> str:
    """A plot's path in its report."""
    return "plots/" + re.sub(r"[^\w.=-]+", "-", name) + ".png"


def _png(draw: Callable[..., Figure], paper: Paper, *arguments) -> bytes:
    with matplotlib.rc_context(STYLE | paper.style):
        figure = draw(paper, *arguments)
        FigureCanvasAgg(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=144)
    return file.getvalue()


def axis_name(metric: str) -> str:
    """The metric with its unit, and a note if smaller is better."""
    unit = UNITS.get(metric.split("/")[0])
    return metric + (f", {unit}" if unit else "") + (" (smaller is better)" if smaller_is_better(metric) else "")
