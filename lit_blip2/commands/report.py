"""Write the tables and plots of a sweep from its folder, finished or not; with --summary, one table of all sweeps in a
folder."""

from pathlib import Path

from lit_blip2.ablation.kept import keep
from lit_blip2.ablation.report.claims import write_results
from lit_blip2.ablation.report.front import write_front
from lit_blip2.ablation.report.page import write_report
from lit_blip2.ablation.report.summary import write_summary
from lit_blip2.arguments import Arguments, refused
from lit_blip2.contents import DataError


def main(arguments: list[str]) -> int:
    """Parse the command line, write the report, print its path. Returns the exit status."""
    parser = Arguments("report", __doc__)
    parser.add_argument("folder", type=str, metavar="DIR", help="folder of a sweep, which holds plan.json")
    parser.add_argument(
        "--out",
        help="write the report to this folder, such as ablations/results/NAME, with the records that it is made of. "
        "The records are small enough to commit, and a sweep of ablations/NAME.yaml reuses their cells (default: DIR)",
    )
    parser.add_argument(
        "--summary",
        action="store_true",
        help="DIR holds the folders of several sweeps with reports: write DIR/README.md, with one line for each",
    )
    parser.add_argument(
        "--claims",
        type=Path,
        help="with --summary: a YAML file of claims, docs/claims.yaml; results.md beside it then says which of them "
        "the sweeps support",
    )
    parser.add_argument(
        "--front",
        type=Path,
        help="with --claims: a Markdown page, README.md, whose table of ablations (between two comments) is updated "
        "with the result of each",
    )
    given = parser.parse_args(arguments)
    if (given.claims and not given.summary) or (given.front and not given.claims):
        parser.error("--claims needs --summary, and --front needs --claims")
    try:
        if given.summary:
            written = [write_summary(given.folder)]
            written += [write_results(given.claims, Path(given.folder))] if given.claims else []
            written += [write_front(given.front, given.claims, Path(given.folder))] if given.front else []
        else:
            if given.out:
                keep(given.folder, given.out)
            written = write_report(given.out or given.folder)
    except (DataError, OSError) as error:
        return refused(error)
    for file in written:
        print(file)
    return 0
