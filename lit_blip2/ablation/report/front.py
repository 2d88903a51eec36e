"""Writes the part of a front page that is made from committed reports: each ablation with its first comparison and the
verdicts of all, the ablations not run yet, and the claims' first plot. The part lies between two comments; the rest of
the page stays as it is."""

import os
from pathlib import Path

from lit_blip2.ablation.folder import Folder, read
from lit_blip2.ablation.report.claims import NOT_RUN, Claim, read_claims
from lit_blip2.ablation.report.markdown import NONE, code, number, plain, table
from lit_blip2.ablation.report.summary import counted
from lit_blip2.ablation.schema import Decided, Found
from lit_blip2.contents import DataError
from lit_blip2.whole_files import write_text

BEGIN, END = "<!-- outcomes: made by `report`, see docs/claims.yaml -->", "<!-- end of outcomes -->"
HEAD = ["ablation", "first comparison", "all comparisons"]


def write_front(page: Path, claims: Path, results: Path) -> Path:
    """Write the part anew, and return the page. results: the folder of the committed sweeps, beside the ablations.

    Raises DataError if the page lacks the two comments.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(f"{page} has no part for outcomes: put {BEGIN!r} and {END!r} on lines of their own there")
    write_text(page, f"{before}{BEGIN}\n\n{front(page, claims, results)}\n\n{END}{after}")
    return page


def front(page: Path, claims: Path, results: Path) -> str:
    """The part in Markdown, with links as seen from the page."""
    place = os.path.relpath(results, page.parent)
    shorts = {file: read(Folder(results / file.stem).outcome, Found) for file in sorted(results.parent.glob("*.yaml"))}
    lines = [_line(file.stem, short, place) for file, short in shorts.items() if short]
    others = ", ".join(code(file.stem) for file, short in shorts.items() if not short)
    waiting = [f"{NOT_RUN.capitalize()}: {others}."] if others else []
    return "\n\n".join([table(HEAD, lines), *waiting, *_picture(read_claims(claims), results, place)])


def _picture(claims: list[Claim], results: Path, place: str) -> list[str]:
    """The claims' first plot that exists, below the text of its claim; empty if none exists."""
    for claim in claims:
        for each in claim.shown:
            if (results / each.ablation / "plots" / f"{each.plot}.png").is_file():
                path = f"{place}/{each.ablation}/plots/{each.plot}.png"
                short = read(Folder(results / each.ablation).outcome, Found)
                came = f": {counted(short)}" if short else ""
                note = f" {plain(each.note)}" if each.note else ""
                here = f"In the mini-world ({plain(each.ablation)}{came}):{note}"
                text = f"The paper ({plain(claim.where)}): {plain(claim.says)} {here}"
                return [text, f"![{plain(each.plot)}]({path})"]
    return []


def _line(name: str, short: Found, place: str) -> list[str]:
    return [f"[{code(name)}]({place}/{name}/report.md)", *map(_first, short.expected[:1] or [None]), counted(short)]


def _first(decided: Decided | None) -> str:
    """`itc=on` over `itc=off` in `loss/itm`: +0.1, came true."""
    if decided is None or decided.difference is None:
        return NONE
    verdict = decided.verdict.partition(",")[0].rpartition(": ")[2]  # without an open one's numbers
    return f"{decided.short}: {number(decided.difference, sign=True)}, {plain(verdict)}"
