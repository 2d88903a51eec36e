"""Tables and plots of an ablation sweep, at any time of it, from what the sweep's folder holds."""

from pathlib import Path

from lit_blip2.ablation.folder import Folder
from lit_blip2.ablation.report.cells_csv import cells_csv
from lit_blip2.ablation.report.html import to_html
from lit_blip2.ablation.report.plots.looks import looks
from lit_blip2.ablation.report.plots.paper import Plots
from lit_blip2.ablation.report.records import Sweep, read_sweep
from lit_blip2.ablation.report.results import metric_result
from lit_blip2.ablation.report.sections.costs import costs_section
from lit_blip2.ablation.report.sections.differences import differences_section
from lit_blip2.ablation.report.sections.expected import expected_section
from lit_blip2.ablation.report.sections.failures import failures_section
from lit_blip2.ablation.report.sections.learning import curves_section, forgetting_section
from lit_blip2.ablation.report.sections.metrics import metrics_section
from lit_blip2.ablation.report.sections.opening import opening, what_was_run, where_it_ran
from lit_blip2.ablation.report.sections.overview import overview_section
from lit_blip2.ablation.report.sections.search import search_section
from lit_blip2.ablation.report.summary import found
from lit_blip2.whole_files import written_whole


def write_report(folder: str | Path) -> list[Path]:
    """Write report.md, report.html, cells.csv, outcome.json and plots/*.png into a sweep's folder; returns their paths.

    Raises SweepError if the folder is no sweep, or a file in it is damaged.
    """
    folder = Path(folder)
    sweep, plots = read_sweep(folder), Plots()
    markdown = report_markdown(sweep, str(folder), plots)
    contents: dict[str, bytes] = {path: light for path, (light, _) in plots.files.items()}
    if not sweep.remade:  # an existing table may hold more than the records
        contents["cells.csv"] = cells_csv(sweep).encode()
    contents[Folder("").outcome.name] = found(sweep, plots.files).model_dump_json(indent=1).encode() + b"\n"
    marked = {} if sweep.plan.search else looks(sweep)
    contents["report.html"] = to_html(markdown, sweep.plan.name, plots.files, marked).encode()
    contents["report.md"] = markdown.encode()
    (folder / "plots").mkdir(exist_ok=True)
    for path, content in contents.items():
        with written_whole(folder / path) as part:
            part.write_bytes(content)
    return [folder / path for path in contents]


def report_markdown(sweep: Sweep, folder: str, plots: Plots) -> str:
    """The whole page as Markdown. Draws its plots into `plots`."""
    sections = [opening(sweep, folder, found(sweep).expected)]
    if sweep.plan.search:
        sections += [search_section(sweep, plots), expected_section(sweep), what_was_run(sweep, folder)]
    else:
        results = [metric_result(sweep, metric) for metric in sweep.metrics]
        sections += [overview_section(sweep, results, plots), expected_section(sweep), what_was_run(sweep, folder)]
        sections.append(metrics_section(sweep, results, plots))
        sections += [curves_section(sweep, plots), forgetting_section(sweep, plots)]
    sections.append(failures_section(sweep))
    if not sweep.remade:
        costs = "" if sweep.plan.search else costs_section(sweep)
        sections += [costs, differences_section(sweep), where_it_ran(sweep.plan)]
    return "\n\n".join(section for section in sections if section) + "\n"
