"""Keeps part of a sweep beside its ablation: all that its report is made of, and small enough to be committed.

It is a folder of the same files as the sweep's own: plan.json, cells/, and of each run done.json, metrics.json,
validation.jsonl and, of the compared metrics, items.npz. `report` reads it as it reads a sweep, and a sweep of the same
ablation takes its cells from there. A file is read and checked, then written anew. Checkpoints and logs are not kept.
"""

import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

from lit_blip2.ablation.folder import Folder, SweepError, read, read_validations, write
from lit_blip2.ablation.schema import Done, Metrics, Plan, Record
from lit_blip2.evaluation.items import FILE, Items, read_items, write_items
from lit_blip2.links import check_links
from lit_blip2.whole_files import write_text, written_whole


def keep(folder: str | Path, out: str | Path) -> None:
    """Write what is kept of a sweep, at any time of it, into `out`.

    Raises SweepError where the folder is no sweep, a file is damaged, or `out` holds cells that this sweep has not.
    """
    source, target = Folder(folder), Folder(out)
    if (plan := read(source.plan, Plan)) is None:
        raise SweepError(f"no plan.json in {str(folder)!r}: give the folder that `sweep --out` wrote")
    check_links(source.root)
    records = {file.stem: read(file, Record) for file in source.cells()}  # a cell's runs are whole before its record
    _check_free(source, target, records)
    target.root.mkdir(parents=True, exist_ok=True)
    check_links(target.root)
    for name in plan.steps:
        copy_run(source, name, target, name, plan.metrics)
    for name, record in records.items():
        write(target.cell(name), record)
    write(target.plan, plan)


def copy_run(source: Folder, name: str, target: Folder, new_name: str, metrics: Collection[str]) -> None:
    """Copy what is kept of a run, as far as it exists; results per image only of these metrics. Raises SweepError, or
    DataError for a damaged items.npz."""
    if (ended := read(source.metrics(name), Metrics)) is not None:
        write(target.metrics(new_name), ended)
    points, faults = read_validations(source.validations(name))
    if faults:
        raise SweepError("\n".join(faults))
    if points:
        write_text(target.validations(new_name), "".join(f"{point.model_dump_json()}\n" for point in points))
    if (file := source.run(name) / FILE).exists():
        items = {metric: each for metric, each in read_items(file).items() if metric in metrics}
        _write_small(target.run(new_name) / FILE, items)
    if (done := read(source.done(name), Done)) is not None:  # last: it says that all else is there
        write(target.done(new_name), done)


def _write_small(file: Path, items: Mapping[str, Items]) -> None:
    """As `write_items`, but packed by LZMA to a third of the size: most of it are numbers of questions."""
    write_items(file, items)
    with zipfile.ZipFile(file) as packed:
        parts = {part.filename: packed.read(part) for part in packed.infolist()}
    with written_whole(file) as new, zipfile.ZipFile(new, "w", zipfile.ZIP_LZMA) as packed:
        for name, content in parts.items():
            packed.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_LZMA)  # no time, so that git sees no change


def _check_free(source: Folder, target: Folder, records: Collection[str]) -> None:
    """Raises SweepError if a sweep runs in the target folder, or if the target would mix cells of two sweeps."""
    if any((target.root / name).exists() for name in ("locks", "configs")):
        raise SweepError(f"--out {target.root} is a folder in which a sweep runs: give another one")
    if others := [file.stem for file in target.cells() if file.stem not in records]:
        raise SweepError(
            f"--out {target.root} holds {len(others)} cells that {source.root} has not, the first {others[0]}: remove "
            "the folder to replace them by this sweep's, or give another one"
        )
