"""`python -m lit_blip2 report`: tables and plots of a sweep, at any time of it, from what its folder holds."""

from jsonargparse import ArgumentParser

from lit_blip2.ablation.report.page import write_report
from lit_blip2.contents import DataError
from lit_blip2.terminal import printable


def main(arguments: list[str]) -> None:
    """Parse the command line, write the report, say where it is."""
    parser = ArgumentParser(prog="python -m lit_blip2 report", description=__doc__)
    parser.add_argument("folder", type=str, metavar="DIR", help="a sweep's folder, which holds plan.json")
    try:
        written = write_report(parser.parse_args(arguments).folder)
    except (DataError, OSError) as error:
        parser.error(printable(error))  # jsonargparse's own writes it as it is
    for file in written:
        print(file)
