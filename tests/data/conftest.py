"""A tiny data set on disk, in COCO's and VQAv2's files: 8 training images, 5 to validate on, 2 more for binding."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.cached import write_store

SPLITS = {"train": range(101, 109), "val": range(201, 206), "test": range(301, 304)}


def paint(path: Path, image_id: int, size=(20, 16)) -> None:
    """An image of one colour that names its id, and a dark left half, so that a flip shows."""
    pixels = np.full((size[1], size[0], 3), (image_id % 256, 255 - image_id % 256, 128), dtype=np.uint8)
    pixels[:, : size[0] // 2] //= 2
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def listed(ids) -> list[dict]:
    return [{"id": i, "file_name": f"{i:012d}.png", "width": 20, "height": 16} for i in ids]


def write_json(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """root/images/SPLIT/ID.png, root/annotations/..., root/features/SPLIT."""
    root = tmp_path_factory.mktemp("tiny")
    for split, ids in SPLITS.items():
        rows = [{"id": 10 * i + k, "image_id": i, "caption": f"Image {i}, take {k}."} for i in ids for k in range(3)]
        write_json(root / f"annotations/captions_{split}.json", {"images": listed(ids), "annotations": rows})
        for image_id in ids:
            paint(root / f"images/{split}/{image_id:012d}.png", image_id)
    for split in ("val", "test"):
        ids = list(SPLITS[split])
        asked = [{"question_id": 1000 * k + i, "image_id": i, "question": f"what {k} ?"} for k in (1, 2) for i in ids]
        marks = [
            {**row, "question_type": f"kind {row['question_id'] // 1000}", "answers": [{"answer": "red"}] * 10}
            for row in asked
        ]
        write_json(root / f"annotations/questions_{split}.json", {"questions": asked})
        write_json(root / f"annotations/answers_{split}.json", {"annotations": marks[::-1]})
        pairs = [{"image_id": ids[0], "swapped_image_id": ids[1], "caption": f"image {ids[0]}"}]
        write_json(root / f"annotations/binding_{split}.json", {"images": listed(ids), "pairs": pairs})
    for split, ids in SPLITS.items():
        values = np.repeat(np.array(ids, dtype=np.float32), 3 * 2).reshape(len(ids), 1, 3, 2)
        write_store(root / "features" / split, ids, values, {"encoder": "none", "size": [20, 16]})
    return root


@pytest.fixture
def arguments(tiny) -> dict:
    """Arguments of COCO for the tiny data set."""
    return dict(
        root=str(tiny),
        train="annotations/captions_train.json",
        val="annotations/captions_val.json",
        test="annotations/captions_test.json",
        vqa_val={"questions": "annotations/questions_val.json", "annotations": "annotations/answers_val.json"},
        vqa_test={"questions": "annotations/questions_test.json", "annotations": "annotations/answers_test.json"},
        binding_val="annotations/binding_val.json",
        binding_test="annotations/binding_test.json",
        image_size=8,
        batch_size=4,
        eval_batch_size=4,
    )
