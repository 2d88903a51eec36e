"""Ranks with different numbers of rows, or none, evaluate together and give the metrics of one process."""

import json
import shutil
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from lit_blip2.data.coco import COCO
from lit_blip2.lit import LitStage2
from lit_blip2.lit.callbacks import MetricsFile
from lit_blip2.lit.evaluators.tally import Tally
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.mini.write import write_world
from tests.lit.stub import Stage2Stub
from tests.ranks import on_ranks

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(Stage2Stub):
    """Its loss is another for each image, so that means over ranks show."""

    def __init__(self):
        objective = SimpleNamespace(text=lambda language, captions, *_: len(captions), weight=1.0)
        super().__init__(SimpleNamespace(generate=self.generate, loss=self.loss), objective)

    def loss(self, prefix_BPD, target):
        return prefix_BPD.flatten(1).float().mean(1), torch.arange(len(prefix_BPD))

    def generate(self, prefix_BPD, prompts, examples=(), **how):
        return [f"a red circle {len(prompt)}" for prompt in prompts]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("uneven") / "mini"
    write_world(root, train=2, val=2, test=5, workers=1)
    return root


def test(root, folder, rows: int, devices: int, command: str = "test") -> tuple[dict, list[str]]:
    """Metrics, and the lines of the predictions, of so many images (their questions apart, all of the first alone)."""
    captions = json.loads((root / "annotations/captions_test.json").read_text())
    images = captions["images"][:rows]
    ids = {image["id"] for image in images}
    of_first = [each for each in captions["annotations"] if each["image_id"] in ids]
    (root / f"{rows}.json").write_text(json.dumps({"images": images, "annotations": of_first}))
    data = COCO(str(root), image_size=32, augment=False, eval_batch_size=2, test=f"{rows}.json")
    quiet = dict(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, logger=False)
    ranks = dict(devices=devices, strategy="ddp_fork" if devices > 1 else "auto", use_distributed_sampler=False)
    trainer = L.Trainer(accelerator="cpu", default_root_dir=folder, callbacks=[MetricsFile()], **quiet, **ranks)
    module = LitStage2(Net(), AdamWCosine(), no_image=False)
    module.register_parameter("weight", torch.nn.Parameter(torch.zeros(1)))  # DDP wants one
    getattr(trainer, command)(module, data)
    if command == "predict":
        return {}, (folder / "predict.jsonl").read_text().splitlines()
    return json.loads((folder / "metrics.json").read_text()), (folder / "predictions.jsonl").read_text().splitlines()


test.__test__ = False


@pytest.mark.parametrize("rows", [1, 3])
def test_a_rank_with_fewer_rows_or_none(root, tmp_path, rows):
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir(), together.mkdir()
    (one, lines), (two, others) = test(root, alone, rows, 1), test(root, together, rows, 2)
    assert one == pytest.approx(two, rel=1e-6) and one["evaluated/test_images"] == rows
    assert {"loss/lm", "caption/cider", "evaluated/test_images_share"} <= one.keys()
    assert lines == others and len(lines) == rows
    assert len(test(root, together, rows, 2, "predict")[1]) == rows


@pytest.mark.parametrize("rows", [1, 3])
def test_retrieval_with_fewer_images_than_ranks(fit, stage1_run, world, tmp_path, rows):
    captions = json.loads((world / "annotations/captions_test.json").read_text())
    images = captions["images"][:rows]
    about = [each for each in captions["annotations"] if each["image_id"] in {image["id"] for image in images}]
    (tmp_path / "few.json").write_text(json.dumps({"images": images, "annotations": about}))
    found = []
    for strategy, devices in (("auto", 1), ("ddp_fork", 2)):
        run = shutil.copytree(stage1_run, tmp_path / strategy / "mini_stage1" / "version_0")
        given = [f"--ckpt_path={run}", f"--data.test={tmp_path / 'few.json'}", "--data.binding_test=null"]
        given += [f"--trainer.devices={devices}", f"--trainer.strategy={strategy}"]
        fit("mini_stage1", *given, command="test", runs=tmp_path / strategy)
        metrics = json.loads((run / "metrics.json").read_text())
        found.append({name: value for name, value in metrics.items() if name.startswith(("retrieval", "evaluated"))})
    assert found[0] == pytest.approx(found[1]) and found[0]["evaluated/test_images"] == rows
    assert "retrieval/itc_txt_r1" in found[0] and (rows > 1 or found[0]["retrieval/itc_img_r1"] in (1, 100))


def _tally(rank: int) -> dict[str, float]:
    tally = Tally()
    if rank == 1:
        tally.add_rows("vqa", 3)
        tally.add_losses({"lm": torch.tensor(2.0)}, 5)
        tally.add_losses({"lm": torch.tensor(4.0)}, 15)
    return tally.metrics("val", {"vqa": range(12), "caption": range(4)})


def test_what_one_rank_alone_has_seen_counts(tmp_path):
    expected = {"loss/lm": 3.5, "evaluated/val_questions": 3, "evaluated/val_questions_share": 0.25}
    assert on_ranks(3, tmp_path, _tally) == [expected] * 3
