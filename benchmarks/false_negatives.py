"""How many of the negatives that ITM really draws are true: a text that describes the other image after all.

    python benchmarks/false_negatives.py --checkpoint runs/mini_stage1 [--data data/mini] [--batches 100]

Takes a stage-1 run on the mini-world, draws batches and negatives as its training does, and asks the scene graph.
Prints one line of JSON: the share of texts true of another image of their batch, and the share of drawn negatives
(texts and images) that are true.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.config import from_text
from lit_blip2.data.batches.loaders import train_loader
from lit_blip2.data.batches.training import TrainPairs
from lit_blip2.data.coco import COCO
from lit_blip2.evaluation.retrieval import similarity
from lit_blip2.keyed import row_uniforms
from lit_blip2.mini.grammar import Caption, caption_text
from lit_blip2.mini.scene_files import SceneFile, load_scenes
from lit_blip2.mini.truth import match_matrix
from lit_blip2.network import build_net
from lit_blip2.objectives.itm import draw_negatives
from lit_blip2.objectives.stage1 import Stage1


def spoken(world: SceneFile, image_id: int, text: str) -> Caption:
    """The caption of an image that reads `text`."""
    return next(caption for caption in world.captions[image_id] if caption_text(caption) == text)


@torch.no_grad()
def true_negatives(net: Stage1, batch: dict, world: SceneFile) -> dict[str, float]:
    """Shares in one training batch."""
    ids_B, uniform_B2 = batch["image_id"], row_uniforms(batch["seed"], batch["step"], batch["row"], 2)
    image_BQP, _ = net.encode_images(batch["features"])
    cosine_BB = similarity(image_BQP, net.encode_texts(net.tokenizer(batch["caption"]))) / net.itc.temperature
    texts_B, _ = draw_negatives(cosine_BB, ids_B, ids_B, uniform_B2[:, 0])
    images_B, _ = draw_negatives(cosine_BB.T, ids_B, ids_B, uniform_B2[:, 1])
    captions = [spoken(world, i, text) for i, text in zip(ids_B.tolist(), batch["caption"])]
    true_TI = match_matrix(captions, [world.scenes[i] for i in ids_B.tolist()])
    rows_B = np.arange(len(ids_B))
    drawn = np.concatenate([true_TI[texts_B.numpy(), rows_B], true_TI[rows_B, images_B.numpy()]])
    np.fill_diagonal(true_TI, False)
    return {"texts_true_of_another_image": true_TI.any(1).mean(), "drawn_negatives_true": drawn.mean()}


def load(checkpoint: str) -> tuple[Stage1, COCO]:
    """The network and the data of a stage-1 checkpoint."""
    from jsonargparse import ArgumentParser

    found = read_checkpoint(checkpoint)
    experiment = from_text(found["config"], checkpoint)
    net = build_net(experiment)
    net.load(vision=False)
    net.load_state_dict({name.removeprefix("net."): value for name, value in found["state_dict"].items()})
    parser = ArgumentParser()
    parser.add_argument("--data", type=COCO)
    return net.eval(), parser.instantiate(parser.parse_object({"data": experiment.settings["data"]})).data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="stage-1 checkpoint or run folder")
    parser.add_argument("--data", type=Path, default=None, help="the mini-world; default: the run's own")
    parser.add_argument("--batches", type=int, default=100)
    args = parser.parse_args()
    net, data = load(args.checkpoint)
    data.root = args.data or data.root
    data.setup("fit")
    world = load_scenes(data.root / "annotations" / "scenes_train.json")
    rows = []
    for batch in track(training_batches(data, args.batches), total=args.batches, description="Drawing"):
        rows.append(true_negatives(net, batch, world))
    shares = {name: round(float(np.mean([row[name] for row in rows])), 5) for name in rows[0]}
    print(json.dumps({"batches": len(rows), "batch": data.batch_size, **shares}))


def training_batches(data: COCO, count: int):
    """The first `count` batches of the data's own training order."""
    if not data.features:
        raise ValueError("this run trained on images: keep its features first (data make-mini does)")
    return train_loader(TrainPairs(data.pairs, data.seed), data.batch_size, start_step=0, num_steps=count)


if __name__ == "__main__":
    main()
