"""`caption` for a folder or a table: describe many images, and write the captions to a JSON Lines file."""

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lit_blip2.captioned import CaptionFile, Pictures, made_by, pictures_of, write_captions
from lit_blip2.inference import load
from lit_blip2.loaded import decoding
from lit_blip2.terminal import say

INTERRUPTED = 130


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `caption` for many images."""
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="JSON Lines file for the captions of a folder or table; if it exists, only missing captions are added",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="folder that the image names in a table start from (default: the folder of the table)",
    )
    parser.add_argument("--column", metavar="NAME", help="column of a table that names the images (default: image)")
    parser.add_argument(
        "--batch_size",
        type=int,
        metavar="N",
        help="number of images captioned at a time (default: the run's data.eval_batch_size)",
    )


def many(options: Namespace) -> Pictures | None:
    """The images of a folder or table; None if IMAGE is a single image. Raises ValueError for options that exclude
    each other, and FileNotFoundError for a missing folder or table."""
    pictures = pictures_of(Path(options.image), options.images, options.column)
    if pictures is None and options.out and not Path(options.image).exists():
        raise FileNotFoundError(f"no folder or table {options.image!r}")
    if pictures is None and (options.out or options.images or options.column):
        raise ValueError(
            f"--out, --images and --column are for a folder or a table (.csv, .tsv, .jsonl), not {options.image}"
        )
    if pictures is not None and options.out is None:
        raise ValueError(f"{options.image} stands for {len(pictures.names):,} pictures: add --out captions.jsonl")
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError(f"--batch_size {options.batch_size} must be at least 1")
    return pictures


def caption_many(options: Namespace, pictures: Pictures) -> int:
    """Write the captions that `--out` does not hold yet. Returns the exit status: 0; 1 if some images cannot be read;
    130 after Ctrl-C."""
    loaded = load(options.checkpoint, precision=options.precision, allow=options.allow, writes=True)
    prompt, how = loaded.stage2.prompt, decoding(loaded.settings, "caption")
    told = ", ".join(f"{name} {value!r}" for name, value in {"prompt": prompt, **how}.items())
    out = CaptionFile(options.out, made_by(loaded.file, f"{told}, {loaded.precision}", pictures.folder))
    if out.done:
        say(f"{options.out} holds {len(out.done):,} captions: going on", error=True)

    def look(path: Path) -> Tensor:
        return loaded.pixels([path])

    def caption(views: list[Tensor]) -> list[str]:
        return loaded.write(torch.cat(views), [prompt] * len(views), **how)

    try:
        size = options.batch_size or loaded.batch_size
        written, failed = write_captions(pictures, out, look, caption, size, partial(say, error=True))
    except KeyboardInterrupt:
        say(f"caption: stopped; the same command goes on with {options.out}", error=True)
        return INTERRUPTED
    lost = f"; {failed:,} pictures cannot be read" if failed else ""
    say(f"{written:,} captions written, {options.out} holds {len(out.done) + written:,}{lost}", error=True)
    return 1 if failed else 0
