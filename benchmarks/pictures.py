"""Pictures for README, as TensorBoard shows them: what a run's last test saw and said, and where its queries looked.

    python benchmarks/pictures.py runs/mini_opt --out docs/pictures

Writes samples.png and attention.png: the upper part of the pictures, the first images of the test set.
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed
from lit_blip2.runs import find_checkpoint, run_of

PARTS = {"samples": 2, "attention": 4}  # one part of so many of a picture is shown


def last_pictures(run: Path) -> dict[str, bytes]:
    """Tag -> PNG of the last picture under it, of all event files of a run."""
    found = {}
    for file in sorted(run.glob("events.out.tfevents.*")):
        events = EventAccumulator(str(file), size_guidance={"images": 0}).Reload()
        found |= {tag: events.Images(tag)[-1].encoded_image_string for tag in events.Tags()["images"]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run of stage 2 that has been tested, such as runs/mini_opt")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    pictures = last_pictures(run_of(find_checkpoint(given.run).resolve()))
    given.out.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        if f"test/{name}" not in pictures:
            parser.error(f"{given.run} holds no picture test/{name}: test it first, with TensorBoard as its logger")
        picture = Image.open(io.BytesIO(pictures[f"test/{name}"]))
        upper = picture.crop((0, 0, picture.width, picture.height // part))
        upper.save(given.out / f"{name}.png", optimize=True)
        print(given.out / f"{name}.png")


if __name__ == "__main__":
    main()
