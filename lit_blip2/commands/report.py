"""`python -m lit_blip2 report`: tables and plots of a sweep, at any time of it, from what its folder holds."""

from jsonargparse import ArgumentParser

from lit_blip2.ablation.folder import SweepError
from lit_blip2.ablation.report.page import write_report


def main(arguments: list[str]) -> None:
    """Parse the command line, write the report, say where it is."""
    parser = ArgumentParser(prog="python -m lit_blip2 report", description=__doc__)
    parser.add_argument("folder", type=str, metavar="DIR", help="a sweep's folder, which holds plan.json")
    try:
        written = write_report(parser.parse_args(arguments).folder)
    except (SweepError, OSError) as error:
        parser.error(str(error))
    for file in written:
        print(file)
