"""How a report's plots look, on light and on dark paper, and the files that they become.

matplotlib without its global state. Colours are Okabe and Ito's, apart for colour-blind eyes too; the control is drawn
in the ink of the text.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_blip2.ablation.report.markdown import plain
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

    @property
    def style(self) -> dict[str, str]:
        """As matplotlib's settings."""
        places = {self.background: BACKGROUND, self.ink: INK, self.faint: FAINT}
        return {place: colour for colour, names in places.items() for place in names}


LIGHT = Paper(
    "#ffffff",
    "#1f2328",
    "#7d8590",
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a5a1c", "#6e6e6e"),
)
DARK = Paper(
    "#14171c",
    "#e6e9ed",
    "#8b949e",
    ("#56b4e9", "#e69f00", "#2dbd8e", "#e59ac2", "#f0e442", "#ff7f50", "#9fa8ff", "#b8b8b8"),
)


@dataclass
class Plots:
    """The plots of a report: PNGs on light and on dark paper, by their path in it."""

    files: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)

    def show(self, name: str, alt: str, draw: Callable[..., Figure], *arguments) -> str:
        """Draw one, `draw(paper, *arguments)`; the Markdown that shows it."""
        path = "plots/" + re.sub(r"[^\w.=-]+", "-", name) + ".png"
        self.files[path] = (_png(draw, LIGHT, *arguments), _png(draw, DARK, *arguments))
        return f"![{plain(alt)}]({path})"


def _png(draw: Callable[..., Figure], paper: Paper, *arguments) -> bytes:
    with matplotlib.rc_context(STYLE | paper.style):
        figure = draw(paper, *arguments)
        FigureCanvasAgg(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=144)
    return file.getvalue()


def axis_name(metric: str) -> str:
    """The metric with its unit, and the direction where it is not more."""
    unit = UNITS.get(metric.split("/")[0])
    return metric + (f", {unit}" if unit else "") + (" (smaller is better)" if smaller_is_better(metric) else "")
