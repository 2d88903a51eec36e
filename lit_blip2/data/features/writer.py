"""Writes cached features: the frozen encoder's output for all images of an experiment.

Processes take shards in turn. Each has its own encoder, on one of the GPUs if there are any, and threads that decode. A
shard is written under another name and renamed when it is complete: an interrupted run continues with what is missing.

Legend: B images of a batch, K views, N tokens, W width, H image height and width.
"""

import json
import multiprocessing
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lit_blip2.data.batches.evaluation import Pixels
from lit_blip2.data.batches.pairs import FilePairs, ShardPairs, sources_in
from lit_blip2.data.faults import Fault, Faults
from lit_blip2.data.features.marks import Mark, mark_of
from lit_blip2.data.features.store import (
    ABOUT,
    CHECKED,
    IDS,
    KEYS,
    SIGNATURE,
    CachedDtype,
    Layout,
    check_files,
    crc32_of,
    differences,
    open_shard,
    read_about,
    read_ids,
    shard_name,
)
from lit_blip2.data.images import UnreadableImageError
from lit_blip2.data.module import Encoder, PairData
from lit_blip2.data.transforms import eval_view, train_view
from lit_blip2.terminal import readable, say
from lit_blip2.whole_files import alone, written_whole

SHARD_BYTES = 1 << 28
MOST_IN_SHARD = 1024  # images: an interruption loses the work of less than one shard of each process


class Section(NamedTuple):
    """The images of train, val or test, or of one source of a mixture. image_ids: ascending. keys: a number for each
    image's file. read: place -> image. path: place -> file; None for images in tars. most_unreadable: the share of the
    images that may be unreadable."""

    name: str
    image_ids: np.ndarray
    keys: np.ndarray
    read: Callable[[int], Image.Image]
    path: Callable[[int], Path] | None
    most_unreadable: float


class Target(NamedTuple):
    """A section and how it is written."""

    section: Section
    folder: Path
    layout: Layout
    image_size: int
    interpolation: str
    batch: int


def cache_features(
    data: PairData,
    vision: Encoder,
    out: Path,
    dtype: CachedDtype = "float16",
    views: int = 0,
    seed: int = 0,
    batch: int = 64,
    processes: int = 0,
    threads: int = 0,
) -> None:
    """Write the cached features of a data module's training and evaluation images.

    Args:
        data: the data module; it must read images, not features.
        vision: the frozen image encoder.
        out: folder to write.
        dtype: number format on disk. float16; bfloat16, for an encoder whose output exceeds float16's range; int8 with
            one scale for each token, which halves the size.
        views: number of randomly cropped and flipped views of each training image; training draws one of them each
            time. 0: one view without augmentation, as in evaluation.
        seed: seed of the random views.
        batch: number of images that the encoder processes at a time.
        processes: number of processes, each with its own encoder; 0: one for each GPU, or for each core without a GPU.
        threads: number of threads in each process that decode images; 0: an equal share of the cores.
    Raises:
        ValueError: a setting is too small, `out` holds features of other data, or the disk is too small.
        TooManyFaultsError: more training images are unreadable than data.max_unreadable allows, or an evaluation image
            is unreadable.
    """
    given = dict(batch=(batch, 1), views=(views, 0), seed=(seed, 0), processes=(processes, 0), threads=(threads, 0))
    if small := [f"{name}={value} must be at least {least}" for name, (value, least) in given.items() if value < least]:
        raise ValueError("; ".join(small))
    data.fit_to(vision)
    shape = vision.output_shape(data.image_size)
    layouts = [(section, layout_of(section, shape, dtype, views, seed)) for section in sections(data)]
    how = data.image_size, data.interpolation, batch
    targets = [Target(section, out / section.name, layout, *how) for section, layout in layouts]
    known = [read_about(target.folder)[0] for target in targets if (target.folder / ABOUT).exists()]
    made_by = vision.fingerprint(*known[:1]) | {"image_size": data.image_size}
    for target in targets:
        check_same(target, made_by)
    devices = torch.cuda.device_count()
    processes = processes or devices or os.cpu_count() or 1
    threads = threads or max(1, (os.cpu_count() or 1) // processes)
    with alone(out):
        announce(targets, out)
        for target in targets:
            begin(target, made_by, vision)
        write(targets, vision, processes, threads, devices)


def sections(data: PairData) -> Iterator[Section]:
    """The sections of an experiment, with all its images, each once per section."""
    data.check_files("fit")
    data.check_files("test")
    evaluated = {split: dict(sorted(data.evaluation_images(split).items())) for split in ("val", "test")}
    source = data.train_pairs()
    for pairs, name in zip(sources_in(source), data.train_sections(), strict=True):
        image_ids, order = np.unique(pairs.image_ids, return_index=True)  # several questions have one image
        read = partial(_read_at, pairs, order)
        path = partial(_path_at, pairs, order) if isinstance(pairs, FilePairs) else None
        yield Section(name, image_ids, pairs.keys()[order], read, path, data.faults.limit)
    for split, files in evaluated.items():
        if files:
            named = data.pixels(split), list(files.values())
            read, path = partial(_read_nth, *named), partial(_path_nth, *named)
            yield Section(split, np.array(list(files)), data.pixels(split).keys(files.values()), read, path, 0)


def _read_at(pairs: FilePairs | ShardPairs, order: np.ndarray, place: int) -> Image.Image:
    return pairs.image(int(order[place]))


def _read_nth(source: Pixels, files: list[str], place: int) -> Image.Image:
    return source.read(files[place])


def _path_at(pairs: FilePairs, order: np.ndarray, place: int) -> Path:
    return pairs.path(int(order[place]))


def _path_nth(source: Pixels, files: list[str], place: int) -> Path:
    return source.path(files[place])


def layout_of(section: Section, shape: tuple[int, int], dtype: CachedDtype, views: int, seed: int) -> Layout:
    """How a section is stored, in shards of some 256 MB. shape: tokens and width of an image's features."""
    views = views if section.name.startswith("train") else 0
    one = Layout(dtype, views, seed if views else 0, len(section.image_ids), *shape, 1)
    return one._replace(shard=min(MOST_IN_SHARD, max(1, SHARD_BYTES // one.bytes_per_image)))


def check_same(target: Target, made_by: dict) -> None:
    """Raises ValueError if the section's folder holds something else."""
    if not target.folder.exists():
        return
    if not (target.folder / ABOUT).exists():
        raise ValueError(f"{target.folder} is there and holds no features ({ABOUT}): remove it, or give another --out")
    known_by, known = read_about(target.folder)
    differing = differences(known_by | known._asdict(), made_by | target.layout._asdict())
    known_ids = {} if differing else dict(zip((IDS, KEYS), read_ids(target.folder, known)))
    for name, wanted in ((IDS, target.section.image_ids), (KEYS, target.section.keys)):
        if not differing and not np.array_equal(known_ids[name], wanted):
            differing = f"{name}: they are of other images, or files"
    if differing:
        raise ValueError(f"{target.folder} holds other features. {differing}. Give another --out, or remove it.")
    if target.section.path:
        check_files(target.folder, target.layout, range(target.layout.images), target.section.path)


def announce(targets: list[Target], out: Path) -> None:
    """Print what will be written. Raises ValueError if the disk is too small."""
    needed = 0
    for target in targets:
        section, layout, left = target.section.name, target.layout, len(missing_shards(target))
        missing = min(left * layout.shard, layout.images)
        needed += missing * layout.bytes_per_image
        say(
            f"{section}: {layout.images:,} images x {layout.stored_views} views x {layout.tokens} tokens x"
            f" {layout.width} {layout.dtype} = {readable(layout.images * layout.bytes_per_image)} in {layout.shards}"
            f" shards, {left} to write"
        )
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    say(f"{readable(needed)} to write, {readable(free)} free in {there}")
    if needed > free:
        raise ValueError(
            f"{readable(needed)} do not fit in the {readable(free)} that are free in {there}: write int8, fewer views"
            " or images, or give --out on another disk"
        )


def missing_shards(target: Target) -> list[int]:
    """Shards that do not exist, and those with unreadable images, which may be readable now."""
    files = [target.folder / shard_name(number) for number in range(target.layout.shards)]
    return [
        number for number, file in enumerate(files) if not file.exists() or open_shard(file, target.layout).unreadable
    ]


def begin(target: Target, made_by: dict, vision: Encoder) -> None:
    """Make the section's folder, without shards, unless it exists."""
    if target.folder.exists():
        return
    with written_whole(target.folder) as part:
        part.mkdir()
        np.save(part / IDS, target.section.image_ids)
        np.save(part / KEYS, target.section.keys)
        about = {"made_by": made_by, "layout": target.layout._asdict()}
        (part / SIGNATURE).write_text(json.dumps(vision.signed()) + "\n", encoding="utf-8")
        about["crc32"] = {name: zlib.crc32((part / name).read_bytes()) for name in CHECKED}
        (part / ABOUT).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write(targets: list[Target], vision: Encoder, processes: int, threads: int, devices: int) -> None:
    """Write all missing shards, with a progress bar. Then report and count the unreadable images."""
    todo = [(number, shard) for number, target in enumerate(targets) for shard in missing_shards(target)]
    faults = [Faults(target.section.most_unreadable) for target in targets]
    context = multiprocessing.get_context("spawn")  # a forked process could use neither CUDA nor threads
    start = (targets, vision, threads, devices, context.Value("i", 0))
    with ExitStack() as stack:
        bar = stack.enter_context(Progress(*Progress.get_default_columns()))
        task = bar.add_task("images", total=sum(images_of(targets[number], shard) for number, shard in todo))
        run: Callable[..., Iterable] = map
        if min(processes, len(todo)) > 1:
            pool = ProcessPoolExecutor(min(processes, len(todo)), context, _start, start)
            stack.callback(pool.shutdown, cancel_futures=True)
            run = pool.map
        elif todo:
            _start(*start)
        for number, shard in run(_write_shard, todo):
            target = targets[number]
            unreadable = open_shard(target.folder / shard_name(shard), target.layout).unreadable
            found = [Fault(target.section.name, *why) for why in unreadable.values()]
            faults[number].add({target.section.name: images_of(target, shard)}, found)
            bar.advance(task, images_of(target, shard))
    for target, found in zip(targets, faults):
        if found.counts:
            say(f"{target.section.name}: {found.counts.total()} images cannot be read:\n{found.table()}")
            found.write(target.folder / "unreadable.json")


def images_of(target: Target, shard: int) -> int:
    return min(target.layout.shard, target.layout.images - shard * target.layout.shard)


class _Worker(NamedTuple):
    targets: list[Target]
    vision: Encoder
    device: torch.device
    threads: ThreadPoolExecutor


_worker: _Worker | None = None  # of this process


def _start(targets: list[Target], vision: Encoder, threads: int, devices: int, started) -> None:
    """Load the encoder, on the next GPU if there are any."""
    global _worker
    with started.get_lock():
        number = started.value
        started.value += 1
    device = torch.device("cuda", number % devices) if devices else torch.device("cpu")
    if not devices and multiprocessing.parent_process():
        torch.set_num_threads(threads)
    vision.load()
    _worker = _Worker(targets, vision.to(device), device, ThreadPoolExecutor(threads))


def _write_shard(place: tuple[int, int]) -> tuple[int, int]:
    target, shard = _worker.targets[place[0]], place[1]
    first, count = shard * target.layout.shard, images_of(target, shard)
    shape = (count, target.layout.stored_views, target.layout.tokens, target.layout.width)
    tensors = {"features": torch.empty(shape, dtype=getattr(torch, target.layout.dtype))}
    if target.layout.dtype == "int8":
        tensors["scales"] = torch.empty(shape[:-1])
    path, places = target.section.path, range(first, first + count)
    marks = [mark_of(path(place)) if path else Mark() for place in places]  # before the files are read
    unreadable: dict[int, tuple[str, str]] = {}
    done = 0
    for looked in ahead(_worker.threads, partial(views_of, target), places, target.batch):
        for row, view in enumerate(looked, done):
            if isinstance(view, UnreadableImageError | FileNotFoundError):
                unreadable[row] = getattr(view, "reason", "missing"), str(view)
        blank = torch.zeros(target.layout.stored_views, 3, target.image_size, target.image_size, dtype=torch.uint8)
        views_BK3HH = torch.stack([view if isinstance(view, Tensor) else blank for view in looked])
        with torch.no_grad():
            features_MNW = _worker.vision(views_BK3HH.flatten(0, 1).to(_worker.device))
        packed = pack(features_MNW.unflatten(0, views_BK3HH.shape[:2]), target.layout.dtype)
        end = done + len(looked)
        for name, tensor in packed.items():
            tensors[name][done:end] = tensor
        _check_finite(target, first + done, packed)
        done = end
    tensors["marks"] = torch.tensor([Mark() if row in unreadable else mark for row, mark in enumerate(marks)])
    file = target.folder / shard_name(shard)
    save_shard(file, tensors, unreadable)
    return place


def save_shard(file: Path, tensors: dict[str, Tensor], unreadable: dict[int, tuple[str, str]]) -> None:
    """Write features [n, K, N, W], int8 with scales, and the CRC-32 of each image's features."""
    features, scales = tensors["features"], tensors.get("scales")
    crc32_n = torch.tensor([crc32_of(features, scales, row) for row in range(len(features))])
    tensors = tensors | {"crc32": crc32_n}
    with written_whole(file, sum(each.nbytes for each in tensors.values())) as part:
        try:
            save_file(tensors, part, metadata={"unreadable": json.dumps(unreadable)})
        except SafetensorError as error:
            raise OSError(f"cannot write {file}: {error}") from error


def views_of(target: Target, place: int) -> Tensor | Exception:
    """The views to write of one image, uint8 [K, 3, H, H], or why it cannot be read."""
    try:
        image = target.section.read(place)
    except (UnreadableImageError, FileNotFoundError) as error:
        return error
    if not target.layout.views:
        return eval_view(image, target.image_size, target.interpolation).unsqueeze(0)
    image_id = int(target.section.image_ids[place])
    keys = ((target.layout.seed, image_id, view) for view in range(target.layout.views))
    draws = map(np.random.default_rng, keys)
    return torch.stack([train_view(image, target.image_size, rng, target.interpolation) for rng in draws])


def ahead(threads: ThreadPoolExecutor, look: Callable, places: range, batch: int) -> Iterator[list]:
    """The results of `look`, in batches. The next batch is looked at while one is used."""
    waiting: list = []
    for first in range(0, len(places), batch):
        waiting.append([threads.submit(look, place) for place in places[first : first + batch]])
        if len(waiting) == 2:
            yield [future.result() for future in waiting.pop(0)]
    for futures in waiting:
        yield [future.result() for future in futures]


def pack(features: Tensor, dtype: CachedDtype) -> dict[str, Tensor]:
    """Convert features [..., N, W] to what is stored, on the CPU. int8: a token's largest magnitude becomes 127."""
    if dtype != "int8":
        return {"features": features.to(getattr(torch, dtype)).cpu()}
    features = features.float()
    scales = features.abs().amax(-1) / 127
    steps = features / scales.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)
    return {"features": steps.round().to(torch.int8).cpu(), "scales": scales.cpu()}


def _check_finite(target: Target, first: int, packed: dict[str, Tensor]) -> None:
    """Raises ValueError naming an image whose features the stored type cannot hold."""
    magnitudes = packed["scales"] * 127 if "scales" in packed else packed["features"]
    largest = torch.finfo(torch.bfloat16 if target.layout.dtype == "bfloat16" else torch.float16).max
    fits_B = (magnitudes.abs() <= largest).flatten(1).all(1)  # false for NaN
    if not fits_B.all():
        image_id = target.section.image_ids[first + int(fits_B.int().argmin())]
        raise ValueError(
            f"features of image {image_id} in {target.section.name} are not finite in {target.layout.dtype}: write"
            " bfloat16, or look at the encoder's weights and dtype"
        )
