"""Pictures in TensorBoard: attention maps against the attention that ran, texts by hand, and real validation runs."""

import io

import lightning as L
import numpy as np
import pytest
import timm
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from lit_blip2.data.coco import COCO
from lit_blip2.data.features.writer import cache_features
from lit_blip2.data.transforms import eval_view
from lit_blip2.lit import LitStage1
from lit_blip2.lit.callbacks.attention import query_maps
from lit_blip2.lit.callbacks.drawing import attention_sheet, query_bars, render, sample_sheet, to_rgb
from lit_blip2.lit.callbacks.pictures import Pictures
from lit_blip2.lit.callbacks.sample_texts import Line, sample_scores, stage1_lines, stage2_lines
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.mini.write import write_world

pytestmark = pytest.mark.filterwarnings("ignore")
CAPTIONS = ["a red ring", "a blue star and a red ring", "a small cyan cross at top left"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures") / "mini"
    write_world(root, train=2, val=5, test=4, workers=1)
    return root


@pytest.fixture
def stage1(make_stage1, tmp_path):
    """A stage-1 network that loads from disk: random encoder, the mini-world's tokenizer."""

    def make(*objectives: str):
        net = make_stage1(*objectives, vocab_size=62)
        torch.manual_seed(1)
        vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **net.vision.model_args)
        torch.save(vit.state_dict(), tmp_path / "vit.pth")
        net.vision.weights = str(tmp_path / "vit.pth")
        net.tokenizer, net.tokenizer_path = None, "lit_blip2/mini/weights/bert"
        return net

    return make


def data(root, **options) -> COCO:
    files = {split: f"annotations/captions_{split}.json" for split in ("val", "test")}
    return COCO(str(root), **files, image_size=32, augment=False, eval_batch_size=3, **options)


def keep(root, net, folder) -> None:
    cache_features(data(root, train="annotations/captions_train.json"), net.vision, folder, processes=1)


def trainer(folder, logger=None, **options) -> L.Trainer:
    logger = logger or TensorBoardLogger(folder, default_hp_metric=False)
    quiet = dict(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    return L.Trainer(accelerator="cpu", logger=logger, callbacks=[Pictures(samples=4)], **quiet, **options)


def logged(folder) -> tuple[dict[str, Image.Image], list[str]]:
    """Pictures by tag, decoded, and the tags of scalars, of all event files in a folder."""
    pictures, scalars = {}, []
    for file in folder.rglob("events.out.tfevents*"):
        events = EventAccumulator(str(file))
        events.Reload()
        scalars += events.Tags()["scalars"]
        for tag in events.Tags()["images"]:
            pictures[tag] = Image.open(io.BytesIO(events.Images(tag)[0].encoded_image_string)).convert("RGB")
    return pictures, scalars


def test_maps_are_the_attention_that_ran(make_stage1, make_batch, monkeypatch):
    """Weights made again from the queries and keys that the last cross-attention hands to PyTorch."""
    net, features_BND = make_stage1("itc"), make_batch(2)[0]
    calls, ours = [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, k, *a, **o: calls.append((q, k)) or ours(q, k, *a, **o)
    )
    maps_BQGG = query_maps(net.qformer, features_BND)
    query, key = [call for call in calls if call[1].shape[2] == 5][-1]
    weights_BQN = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1).mean(1)
    torch.testing.assert_close(maps_BQGG.flatten(2), weights_BQN[..., 1:].detach())
    assert not any(layer.cross._forward_pre_hooks for layer in net.qformer.layers if layer.cross is not None)


def test_scores_are_of_image_and_text(stage1, make_batch):
    """Row is the image, column the text: one pair at a time gives the same."""
    net, features_BND = stage1("itc", "itm"), make_batch(3)[0]
    net.load(vision=False)
    scores = sample_scores(net, features_BND, CAPTIONS)
    for i in range(3):
        for t in range(3):
            text = net.tokenizer([CAPTIONS[t]])
            image_1QP, image = net.encode_images(features_BND[i : i + 1])
            cosine = (image_1QP[0] @ net.encode_texts(text)[0]).max()
            torch.testing.assert_close(scores["ITC"][i, t], cosine.detach(), atol=1e-5, rtol=1e-4)
            match = net.match_logits(image, text).softmax(-1)[0, 1]
            torch.testing.assert_close(scores["ITM"][i, t], match.detach(), atol=1e-5, rtol=1e-4)


def test_stage1_says_which_caption_is_preferred(stage1, make_batch, monkeypatch):
    scores = {"ITC": torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.0, 0.0, 0.7]])}
    monkeypatch.setattr("lit_blip2.lit.callbacks.sample_texts.sample_scores", lambda *_: scores)
    first, second, third = stage1_lines(None, None, CAPTIONS)
    assert first == [Line("a red ring"), Line("ITC ✓ 0.90", True)]
    assert second[1] == Line("ITC ✗ 0.40, prefers (0.50): a red ring", False)
    assert third[1].right


def test_stage1_without_heads_shows_captions(stage1, make_batch):
    net = stage1("itg")
    net.load(vision=False)
    assert stage1_lines(net, make_batch(3)[0], CAPTIONS) == [[Line(caption)] for caption in CAPTIONS]


def test_stage2_shows_what_was_generated():
    def asked(question_id, question, answer, truth):
        return dict(task="vqa", question_id=question_id, question=question, answer=answer, answers=[truth] * 10)

    predictions = [
        dict(task="caption", image_id=7, caption="a red star"),
        dict(task="caption", image_id=99, caption="of no sample"),
        asked(1, "what color ?", "red", "red"),
        asked(2, "how many ?", "3", "4"),
        asked(3, "one too many ?", "yes", "yes"),
        asked(4, "of no sample ?", "yes", "yes"),
    ]
    lines = stage2_lines(predictions, [7, 8], ["a red ring", "a star"], {1: 7, 2: 7, 3: 7, 4: 99}, questions=2)
    assert lines == [
        [
            Line("reference: a red ring"),
            Line("caption: a red star"),
            Line("what color ? → red", True),
            Line("how many ? → 3 (true: 4)", False),
        ],
        [Line("reference: a star")],
    ]


def test_colours_come_back():
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8))
    np.testing.assert_allclose(to_rgb(eval_view(image, 8)[None])[0], np.asarray(image) / 255, atol=1e-5)


def test_attention_shows_where_it_looks():
    """One query looks at the upper left patch, another at the lower right: there the tile is brightest."""
    maps = torch.zeros(1, 2, 2, 2)
    maps[0, 0, 0, 0] = maps[0, 1, 1, 1] = 0.3
    sheet = render(attention_sheet(np.full((1, 16, 16, 3), 0.2, dtype=np.float32), maps)).astype(float).mean(-1)
    tile, top = 76, sheet.shape[0] - 76
    corner = {
        (query, place): sheet[top + 5 + 50 * place :, :][:15, tile * query + 5 + 50 * place :][:, :15].mean()
        for query in (1, 2) for place in (0, 1)
    }  # fmt: skip
    assert corner[1, 0] > corner[1, 1] + 50 and corner[2, 1] > corner[2, 0] + 50


def test_texts_with_dollars_and_many_queries_are_drawn():
    images = np.zeros((3, 8, 8, 3), dtype=np.float32)
    sheet = render(sample_sheet(images, [[Line("costs $5 and $6", False)], [], [Line("word " * 60)]]))
    assert sheet.dtype == np.uint8 and sheet.std() > 10
    assert render(attention_sheet(images, torch.rand(3, 32, 4, 4))).shape == (3 * 3 * 76, 12 * 76, 3)
    assert render(query_bars(torch.tensor([3, 0, 1]), 0.5)).ndim == 3


@pytest.mark.parametrize("kept", [False, True], ids=["images", "features"])
def test_validation_and_test_leave_pictures(kept, stage1, root, tmp_path):
    net = stage1("itc", "itm")
    if kept:
        keep(root, net, tmp_path / "features")
    module = LitStage1(net, AdamWCosine(), rerank=2)
    loaded = data(root, features=str(tmp_path / "features") if kept else None)
    run = trainer(tmp_path)
    run.validate(module, loaded, verbose=False)
    assert 0 <= run.callback_metrics["queries/entropy"] <= 1
    run.test(module, loaded, verbose=False)
    run.logger.finalize("success")
    pictures, scalars = logged(tmp_path)
    assert set(pictures) == {
        f"{split}/{name}" for split in ("val", "test") for name in ("samples", "attention", "queries")
    }
    assert all(np.asarray(picture).std() > 10 for picture in pictures.values())
    assert "queries/entropy" in scalars and module.representation.query_wins.shape == (4,)


def test_without_itc_no_query_wins(stage1, root, tmp_path):
    run = trainer(tmp_path)
    run.validate(LitStage1(stage1("itm"), AdamWCosine(), rerank=2), data(root), verbose=False)
    run.logger.finalize("success")
    assert set(logged(tmp_path)[0]) == {"val/samples", "val/attention"}
    assert "queries/entropy" not in run.callback_metrics


def test_images_that_are_gone_leave_a_warning(stage1, root, tmp_path):
    net = stage1("itc")
    keep(root, net, tmp_path / "features")
    run = trainer(tmp_path)
    loaded = data(root, features=str(tmp_path / "features"), images="gone/{split}")
    with pytest.warns(UserWarning, match=r"no sample images .*gone/val.* is missing \(4 of 4\)"):
        run.validate(LitStage1(net, AdamWCosine(), rerank=2), loaded, verbose=False)
    run.logger.finalize("success")
    assert set(logged(tmp_path)[0]) == {"val/queries"}


def test_other_loggers_cost_nothing(stage1, root, tmp_path, monkeypatch):
    monkeypatch.setattr(Pictures, "_figures", lambda *_: pytest.fail("drawn for no one"))
    run = trainer(tmp_path, logger=CSVLogger(tmp_path))
    run.validate(LitStage1(stage1("itc"), AdamWCosine(), rerank=2), data(root), verbose=False)


@pytest.mark.parametrize("arguments", [{"samples": 0}, {"samples": -1}, {"questions": -1}])
def test_pictures_of_nothing_are_refused(arguments):
    with pytest.raises(ValueError, match=r"^Pictures: samples=.*: show at least 1 image, .* leave the callback out"):
        Pictures(**arguments)
    Pictures(samples=1, questions=0)
