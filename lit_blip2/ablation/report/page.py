"""`report`: tables and plots of an ablation sweep, at any time of it, from what the sweep's folder holds."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from lit_blip2.ablation.report import text
from lit_blip2.ablation.report.costs import cell_cost
from lit_blip2.ablation.report.curves import changes, curve_metrics, kinds, lines, tracks
from lit_blip2.ablation.report.markdown import plain
from lit_blip2.ablation.report.records import Cell, Sweep, SweepError, read_sweep
from lit_blip2.ablation.report.results import result


class Pictures:
    """The plots of a report by their path in it, each on light and on dark paper."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, bytes]] = {}

    def show(self, name: str, alt: str, draw: Callable, *arguments) -> str:
        """Draw one; the Markdown that shows it."""
        from lit_blip2.ablation.report.plots import DARK, LIGHT, draw_png

        path = "plots/" + re.sub(r"[^\w.=-]+", "-", name) + ".png"
        self.files[path] = (draw_png(draw, LIGHT, *arguments), draw_png(draw, DARK, *arguments))
        return f"![{plain(alt)}]({path})"


def write_report(folder: str | Path) -> list[Path]:
    """Write report.md, report.html, cells.csv and plots/*.png into a sweep's folder; the files written.

    SweepError if the folder is no sweep, or a file in it is damaged.
    """
    from lit_blip2.ablation.report.html import to_html

    folder = Path(folder)
    sweep, pictures = read_sweep(folder), Pictures()
    markdown = report_markdown(sweep, str(folder), pictures)
    contents: dict[str, bytes] = {path: light for path, (light, _) in pictures.files.items()}
    contents["cells.csv"] = cells_csv(sweep).encode()
    contents["report.html"] = to_html(markdown, sweep.name, pictures.files).encode()
    contents["report.md"] = markdown.encode()
    (folder / "plots").mkdir(exist_ok=True)
    for path, content in contents.items():
        (folder / path).write_bytes(content)
    return [folder / path for path in contents]


def report_markdown(sweep: Sweep, folder: str, pictures: Pictures) -> str:
    """The whole page, drawing its plots on the way."""
    sections = [text.opening(sweep, folder)]
    if sweep.search:
        sections.append(text.search_section(sweep, _search_plots(sweep, pictures)))
    else:
        sections += [_results(sweep, pictures), _curves(sweep, pictures), _forgetting(sweep, pictures)]
        sections += [text.cost_section(sweep)]
    sections += [text.failures_section(sweep), text.differences_section(sweep), text.provenance(sweep)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _results(sweep: Sweep, pictures: Pictures) -> str:
    from lit_blip2.ablation.report.plots import metric_figure

    results = [result(sweep, metric) for metric in sweep.metrics]
    parts = [text.overview(results), "## Metrics"] if results else []
    for each in results:
        drawn = any(row.values for row in each.rows)
        plot = pictures.show(f"metric.{each.metric}", each.metric, metric_figure, each) if drawn else ""
        parts.append(text.metric_section(each, plot))
    return "\n\n".join(part for part in parts if part)


def _curves(sweep: Sweep, pictures: Pictures) -> str:
    from lit_blip2.ablation.report.plots import curve_figure

    parts = []
    for kind in kinds(sweep):
        found = {metric: lines(sweep, kind, metric) for metric in curve_metrics(sweep, kind)}
        found = {metric: each for metric, each in found.items() if any(len(line.steps) > 1 for line in each)}
        plots = [
            pictures.show(f"curve.{kind}.{metric}", f"{metric}, {kind}", curve_figure, each, metric, sweep.control)
            for metric, each in found.items()
        ]
        said = text.curves_said([line.seeds for each in found.values() for line in each])
        parts += [f"### {text.code(kind)}", said, *(["\n".join(plots)] if plots else [])]
    return "\n\n".join(["## Learning curves", *parts]) if parts else ""


def _forgetting(sweep: Sweep, pictures: Pictures) -> str:
    from lit_blip2.ablation.report.plots import forgetting_figure

    parts = []
    for kind in kinds(sweep):
        for metric in curve_metrics(sweep, kind):
            if metric.startswith("loss/") or not (found := tracks(sweep, kind, metric)):
                continue
            plot = pictures.show(
                f"forgetting.{kind}.{metric}", f"{metric}, {kind}", forgetting_figure, found, metric, sweep.control
            )
            parts += [plot, text.changes_table(changes(sweep, kind, metric), kind, metric)]
    said = text.FORGETTING + (text.CHANGES if any(parts[1::2]) else text.NO_CHANGES)
    return "\n\n".join(part for part in [said, *parts] if part) if parts else ""


def _search_plots(sweep: Sweep, pictures: Pictures) -> str:
    from lit_blip2.ablation.report.plots import search_figure

    search = sweep.search
    if not any(search.objective in cell.metrics for cell in sweep.cells):
        return ""
    plots = [pictures.show(f"search.{name}", name, search_figure, sweep.cells, search, name) for name in search.ranges]
    return "\n".join(plots)


def cells_csv(sweep: Sweep) -> str:
    """A row for each cell, which is a setting at one seed. What is not known is empty, never zero."""
    axes = list(sweep.axes) or list(dict.fromkeys(name for cell in sweep.cells for name in cell.labels))
    head = ["cell", *axes, "seed", "state", *sweep.metrics, "seconds", "steps", "peak_memory_gib", "shared_seconds"]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(_csv_row(sweep, cell, axes) for cell in sweep.cells)
    return file.getvalue()


def _csv_row(sweep: Sweep, cell: Cell, axes: Sequence[str]) -> list:
    cost = cell_cost(sweep, cell)
    labels = [cell.labels.get(axis, "") for axis in axes]
    metrics = [cell.metrics.get(metric) for metric in sweep.metrics]
    figures = [cost.seconds, cost.steps, cost.peak_memory_gib, cost.shared_seconds]
    return [cell.name, *labels, cell.seed, cell.state, *metrics, *figures]  # csv writes None as nothing


def main(arguments: list[str]) -> None:
    """Parse the command line, write the report, say where it is."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="python -m lit_blip2 report", description=__doc__)
    parser.add_argument("folder", type=str, metavar="DIR", help="a sweep's folder, which holds plan.json")
    try:
        written = write_report(parser.parse_args(arguments).folder)
    except (SweepError, OSError) as error:
        parser.error(str(error))
    for file in written:
        print(file)
