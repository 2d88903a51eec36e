"""results.md: each claim of the paper beside what the committed sweeps show of it, and what would show it at full size.

The claims lie in a YAML file (docs/claims.yaml says how); every number comes from an outcome.json.
"""

import os
import shlex
from pathlib import Path

from pydantic import BaseModel, ConfigDict, StrictStr

from lit_blip2.ablation.folder import Folder, read
from lit_blip2.ablation.report.markdown import code, plain, table
from lit_blip2.ablation.report.sections.expected import RULE, in_short
from lit_blip2.ablation.schema import Decided, Found
from lit_blip2.ablation.spec.parsing import complain, parsed, read_mapping, unknown
from lit_blip2.ablation.spec.read import EXAMPLE, read_grid
from lit_blip2.whole_files import write_text

DEFAULT, OUT = Path("docs/claims.yaml"), "results.md"
NOT_RUN, TOO_LARGE = "not run yet", "only a run at full size can show it"
HEAD = ["", "claim", "in the paper", "in the mini-world"]
TEXT = (
    "What the BLIP-2 paper claims, in our own words, and what the mini-world's ablations show of it: what came of the "
    f"comparisons that each ablation's file lists. {RULE} n is the number of seeds of each setting. None of the "
    "commands for the paper's size has been run here."
)


class Shown(BaseModel):
    """An ablation that bears on a claim. metrics: those whose comparisons speak of it. plot: name of one of the
    report's plots. note: how the comparisons bear on the claim, where that is not plain."""

    model_config = ConfigDict(extra="forbid")
    ablation: StrictStr
    metrics: list[StrictStr]
    plot: StrictStr = ""
    note: StrictStr = ""


class Claim(BaseModel):
    """says: the claim. where: its place in the paper. full: commands of `python -m lit_blip2` for the paper's size."""

    model_config = ConfigDict(extra="forbid")
    says: StrictStr
    where: StrictStr
    shown: list[Shown] = []
    full: list[StrictStr]


class Claims(BaseModel):
    """A file of claims."""

    model_config = ConfigDict(extra="forbid")
    claims: list[Claim]


def read_claims(file: Path) -> list[Claim]:
    """The claims in a file. Raises FileNotFoundError, and DataError with all unknown keys, ablations and metrics."""
    given, problems = read_mapping(file, DEFAULT, Claims.model_fields)
    found, more = parsed(Claims, given)
    complain(file, problems + more)
    complain(file, [line for claim in found.claims for each in claim.shown for line in _problems(each)])
    return found.claims


def _problems(shown: Shown) -> list[str]:
    ablation = EXAMPLE.parent / f"{shown.ablation}.yaml"
    if Path(shown.ablation).name != shown.ablation or not ablation.is_file():
        return [unknown("ablation", shown.ablation, [each.stem for each in EXAMPLE.parent.glob("*.yaml")])]
    expected = {each.metric for each in read_grid(ablation).expected}
    return [
        f"{shown.ablation}: {unknown('metric of a comparison', name, expected)}"
        for name in shown.metrics
        if expected and name not in expected
    ]


def write_results(claims: Path, results: Path) -> Path:
    """Write results.md beside a file of claims, and return its path. results: the folder of the committed sweeps."""
    file = claims.with_name(OUT)
    write_text(file, results_page(claims, results))
    return file


def results_page(claims: Path, results: Path) -> str:
    """The page's Markdown."""
    command = f"python -m lit_blip2 report --summary {shlex.quote(str(results))} --claims {shlex.quote(str(claims))}"
    found = read_claims(claims)
    outcomes = {each.ablation: read(Folder(results / each.ablation).outcome, Found) for c in found for each in c.shown}
    place = os.path.relpath(results, claims.parent)
    sections = [_section(n, each, outcomes, results, place) for n, each in enumerate(found, 1)]
    lines = [[f"{n}", plain(c.says), plain(c.where), _in_short(c, outcomes)] for n, c in enumerate(found, 1)]
    parts = ["# The paper's claims", f"Made by {code(command)}.", TEXT, table(HEAD, lines), *sections]
    return "\n\n".join(parts) + "\n"


def _in_short(claim: Claim, outcomes: dict[str, Found | None]) -> str:
    parts = []
    for each in claim.shown:
        short = outcomes[each.ablation]
        verdicts = [decided.verdict for decided in _of(each, short)] if short else [NOT_RUN]
        parts.append(f"{code(each.ablation)}: {'; '.join(map(plain, verdicts)) or 'no comparison'}")
    return "<br>".join(parts) or TOO_LARGE


def _section(number: int, claim: Claim, outcomes: dict[str, Found | None], results: Path, place: str) -> str:
    parts = [f"## {number}. {plain(claim.where.capitalize())}", plain(claim.says)]
    for each in claim.shown:
        parts += _shown(each, outcomes[each.ablation], results, place)
    parts += [] if claim.shown else [f"In the mini-world nothing: {TOO_LARGE}."]
    commands = [f"    python -m lit_blip2 {line}" for line in claim.full]
    return "\n\n".join([*parts, "At the paper's size:", "\n".join(commands)])


def _shown(shown: Shown, short: Found | None, results: Path, place: str) -> list[str]:
    """What one ablation shows of a claim: a line for each comparison, and the plot if it is there."""
    if short is None:
        command = f"python -m lit_blip2 sweep --config {EXAMPLE.with_name(shown.ablation)}.yaml"
        return [f"{code(shown.ablation)}: {NOT_RUN} ({code(command)})."]
    link = f"[{plain(shown.ablation)}]({place}/{shown.ablation}/report.md)"
    part = f", {short.done} of {short.cells} cells done" if short.done < short.cells else ""
    lines = [in_short(each) for each in _of(shown, short)]
    lines = lines or [f"no comparison of {', '.join(map(code, shown.metrics))} was written down beforehand."]
    text = "\n".join([f"{link}, n = {len(short.seeds)}{part}:", "", *(f"- {line}" for line in lines)])
    plot = f"{shown.ablation}/plots/{shown.plot}.png"
    note = [plain(shown.note)] if shown.note else []
    drawn = [f"![{plain(shown.plot)}]({place}/{plot})"] if (results / plot).is_file() else []
    return [text, *note, *drawn]


def _of(shown: Shown, short: Found) -> list[Decided]:
    return [each for each in short.expected if each.metric in shown.metrics]
