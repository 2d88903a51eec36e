"""The look of each setting: one colour and one marker, the same in every plot and table of a report.

The control has the ink of the text and a round marker. Verdicts have no colour of a setting: plots write them out.
"""

from dataclasses import dataclass

from lit_blip2.ablation.report.records import Sweep

MARKERS = "sD^vPX*"
GLYPHS = dict(zip("o" + MARKERS, "●■◆▲▼✚✖★"))  # the same shapes as text
MOST = len(MARKERS)  # other settings than the control; more share the look of their label of the first axis


@dataclass(frozen=True)
class Look:
    """colour: its place among a paper's colours, None for the ink. of: whose look it is, a setting or such as
    `stage1=on`, which many settings have."""

    colour: int | None
    marker: str
    of: str


def looks(sweep: Sweep) -> dict[str, Look]:
    """By setting, in the plan's order."""
    others = [name for name in sweep.settings if name != sweep.control]
    axis = next(iter(sweep.plan.axes), "")
    of = {name: name for name in others}
    if len(others) > MOST:
        of = {name: f"{axis}={sweep.settings[name][0].labels.get(axis, '')}" for name in others}
    places = {each: place for place, each in enumerate(dict.fromkeys(of.values()))}
    found = {name: _look(places[each], each) for name, each in of.items()}
    return {name: found.get(name, Look(None, "o", name)) for name in sweep.settings}


def _look(place: int, of: str) -> Look:
    """Colours begin again after the last one, with other markers."""
    return Look(place % MOST, MARKERS[(place + place // MOST) % MOST], of)
