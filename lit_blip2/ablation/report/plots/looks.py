"""The look of each setting: one colour and one marker, the same in every plot and table of a report.

The control has the text's colour and a round marker. Verdicts have no setting's colour: plots write them out.
"""

from dataclasses import dataclass

from lit_blip2.ablation.report.records import Sweep

MARKERS = "sD^vPX*"
GLYPHS = dict(zip("o" + MARKERS, "●■◆▲▼✚✖★"))  # the same shapes as text
MOST = len(MARKERS)  # settings beside the control; if there are more, they share the look of their first axis' label


@dataclass(frozen=True)
class Look:
    """colour: its place among a paper's colours; None for the ink. of: whose look it is, a setting's or that of a label
    such as `stage1=on`, which many settings have."""

    colour: int | None
    marker: str
    of: str


def looks(sweep: Sweep) -> dict[str, Look]:
    """Setting -> its look, in the plan's order."""
    others = [name for name in sweep.settings if name != sweep.control]
    axis = next(iter(sweep.plan.axes), "")
    of = {name: name for name in others}
    if len(others) > MOST:
        of = {name: f"{axis}={sweep.settings[name][0].labels.get(axis, '')}" for name in others}
    places = {each: place for place, each in enumerate(dict.fromkeys(of.values()))}
    found = {name: _look(places[each], each) for name, each in of.items()}
    return {name: found.get(name, Look(None, "o", name)) for name in sweep.settings}


def _look(place: int, of: str) -> Look:
    """The look at a place in the order. After the last colour they begin again, with other markers."""
    return Look(place % MOST, MARKERS[(place + place // MOST) % MOST], of)
