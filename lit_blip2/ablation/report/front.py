"""The part of a front page that is made of committed reports: every ablation with its question and what came of it, and
the first plot of the claims. It stands between two comments; all else of the page is left as it is."""

import os
from collections import Counter
from pathlib import Path

from lit_blip2.ablation.folder import Folder, read
from lit_blip2.ablation.report.claims import NOT_RUN, Claim, read_claims
from lit_blip2.ablation.report.markdown import code, plain, table
from lit_blip2.ablation.schema import Found
from lit_blip2.ablation.spec.read import read_grid
from lit_blip2.contents import DataError
from lit_blip2.whole_files import write_text

BEGIN, END = "<!-- outcomes: made by `report`, see docs/claims.yaml -->", "<!-- end of outcomes -->"
HEAD = ["ablation", "question", "what came of it"]
WORDS = {"came true": "came true", "did not come true": "did not", "open": "open"}  # as a verdict begins -> in short


def write_front(page: Path, claims: Path, results: Path) -> Path:
    """Write the part anew; the page. results: the folder of the committed sweeps, beside the ablations.

    Raises DataError where the page lacks the two comments.
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
    lines = [_line(file, results, place) for file in sorted(results.parent.glob("*.yaml"))]
    return "\n\n".join([table(HEAD, lines), *_picture(read_claims(claims), results, place)])


def _picture(claims: list[Claim], results: Path, place: str) -> list[str]:
    """The first plot that is there, and of which claim it is; none where there is none."""
    for claim in claims:
        for each in claim.shown:
            if (results / each.ablation / "plots" / f"{each.plot}.png").is_file():
                path = f"{place}/{each.ablation}/plots/{each.plot}.png"
                text = (
                    f"The paper ({plain(claim.where)}): {plain(claim.says)} In the mini-world ({plain(each.ablation)}):"
                )
                return [text, f"![{plain(each.plot)}]({path})"]
    return []


def _line(file: Path, results: Path, place: str) -> list[str]:
    short = read(Folder(results / file.stem).outcome, Found)
    name = f"[{code(file.stem)}]({place}/{file.stem}/report.md)" if short else code(file.stem)
    return [name, plain(short.question if short else read_grid(file).question), _in_short(short) if short else NOT_RUN]


def _in_short(short: Found) -> str:
    """`2 came true, 1 open (n = 8)`."""
    counts = Counter(word for each in short.expected for start, word in WORDS.items() if each.verdict.startswith(start))
    told = ", ".join(f"{counts[word]} {word}" for word in WORDS.values() if counts[word]) or "no comparison"
    part = f", {short.done} of {short.cells} cells done" if short.done < short.cells else ""
    return f"{told} (n = {len(short.seeds)}{part})"
