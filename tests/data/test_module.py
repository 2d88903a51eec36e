import json
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from lit_blip2.contents import DataError
from lit_blip2.data.annotations.captions import read_captions
from lit_blip2.data.batches.evaluation import Pixels
from lit_blip2.data.batches.loaders import eval_loaders, train_loader
from lit_blip2.data.batches.pairs import CachedPairs, FilePairs
from lit_blip2.data.batches.training import TrainPairs
from lit_blip2.data.coco import COCO
from lit_blip2.data.features.store import FeatureStore
from lit_blip2.data.module import VQAFiles
from lit_blip2.data.transforms import eval_view
from lit_blip2.data.visual_genome import VisualGenome
from tests.data.cached import write_store


class Recorder(L.LightningModule):
    """Learns nothing and notes every batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.evaluated = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch["step"], batch["row"].tolist(), batch["image_id"].tolist(), batch["caption"]))
        return self.weight * batch["image"].float().mean()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.evaluated.append(batch["task"])

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.evaluated.append(batch["task"])

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return batch["image_id"].tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder, **options):
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", devices=1)
    return L.Trainer(default_root_dir=folder, **{**quiet, "enable_checkpointing": False, **options})


@pytest.fixture
def pairs(tiny):
    source = Pixels(tiny / "images/train", 8)
    captions = read_captions(tiny / "annotations/captions_train.json")
    return TrainPairs(FilePairs("coco", captions, source, augment=True), seed=5)


def test_training_batch(pairs):
    batch = next(iter(train_loader(pairs, batch_size=4, start_step=3, num_steps=9)))
    assert set(batch) == {"image", "caption", "image_id", "row", "step", "micro_batch", "seed", "task"}
    assert batch["image"].shape == (4, 3, 8, 8) and batch["image"].dtype == torch.uint8
    assert batch["image_id"].dtype == torch.int64 and batch["row"].tolist() == [0, 1, 2, 3]
    assert (batch["step"], batch["seed"], batch["task"]) == (3, 5, "train")
    for image_id, caption in zip(batch["image_id"].tolist(), batch["caption"]):
        assert caption.startswith(f"image {image_id}, take ")


def assert_equal_batches(first, second):
    assert len(first) == len(second) > 0
    for a, b in zip(first, second):
        assert a["caption"] == b["caption"] and a["step"] == b["step"]
        for name in ("image", "image_id", "row"):
            assert torch.equal(a[name], b[name])


def test_workers_change_nothing(pairs):
    alone, helped = (list(train_loader(pairs, 4, 0, 5, num_workers=workers)) for workers in (0, 2))
    assert_equal_batches(alone, helped)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(0, 10**6),
    world_size=st.sampled_from([1, 2, 4]),
    accumulate=st.sampled_from([1, 2]),
    workers=st.sampled_from([0, 0, 0, 1, 2]),
)
def test_ranks_and_workers_hold_the_rows_of_the_same_global_batch(pairs, start, world_size, accumulate, workers):
    """Images, captions and ids, wherever a run begins."""
    steps = (start, start + 2)
    whole = list(train_loader(pairs, 8, *steps))
    split = [
        list(
            train_loader(pairs, 8, *steps, rank=rank, world_size=world_size, accumulate=accumulate, num_workers=workers)
        )
        for rank in range(world_size)
    ]
    micro = [part for parts in zip(*split, strict=True) for part in parts]  # step by step, micro-batch by micro-batch
    assert len(micro) == 2 * accumulate * world_size
    for step, batch in enumerate(whole):
        mine = micro[step * accumulate * world_size : (step + 1) * accumulate * world_size]
        assert [caption for part in mine for caption in part["caption"]] == batch["caption"]
        for name in ("image", "image_id", "row"):
            assert torch.equal(torch.cat([part[name] for part in mine]), batch[name])


def test_captions_and_crops_change_with_the_epoch(pairs):
    batches = list(train_loader(pairs, 8, 0, 20))  # the 8 images of the set, 20 times
    captions = {c for batch in batches for i, c in zip(batch["image_id"].tolist(), batch["caption"]) if i == 101}
    assert len(captions) == 3
    views = torch.stack([batch["image"][batch["image_id"] == 101][0] for batch in batches])
    assert len(views.unique(dim=0)) > 10


def test_features_stand_in_for_images(pairs, tiny):
    source = CachedPairs(pairs.source, FeatureStore(tiny / "features/train"))
    batch = next(iter(train_loader(TrainPairs(source, 0), 4, 0, 1)))
    assert "image" not in batch and batch["features"].dtype == torch.float16
    assert batch["features"].shape == (4, 3, 2)
    assert batch["features"][:, 0, 0].tolist() == batch["image_id"].tolist()


def test_evaluation_batches(arguments, tmp_path):
    data = COCO(**arguments, augment=True)
    data.trainer = trainer(tmp_path)
    data.setup("validate")
    batches = {task: list(loader) for task, loader in data.val_dataloader().items()}
    assert list(batches) == ["caption", "vqa", "binding"]
    for task, rows in batches.items():
        assert {batch["task"] for batch in rows} == {task}
    caption, vqa, binding = (batches[task][0] for task in batches)
    assert caption["captions"][0] == [f"image 201, take {k}" for k in range(3)]
    assert caption["image"].shape == (4, 3, 8, 8)
    assert vqa["image_id"].tolist() == [201, 201, 202, 202]
    assert torch.equal(vqa["image"][0], vqa["image"][1]) and torch.equal(vqa["image"][0], caption["image"][0])
    assert vqa["question"][:2] == ["what 1 ?", "what 2 ?"] and vqa["question_id"][:2] == [1201, 2201]
    assert vqa["question_type"][0] == "kind 1" and vqa["answers"][0] == ["red"] * 10
    assert binding["caption"] == ["image 201"]
    assert torch.equal(binding["image"][0], caption["image"][0])
    assert torch.equal(binding["swapped_image"][0], caption["image"][1])


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_ranks_share_evaluation_rows_without_repeats(tiny, arguments, tmp_path, world):
    data = COCO(**arguments)
    data.setup("validate")
    source = Pixels(tiny / "images/val", 8)
    for task, count in {"caption": 5, "vqa": 10, "binding": 1}.items():
        of_ranks = [list(eval_loaders(data.tables["val"], source, 2, rank, world)[task]) for rank in range(world)]
        rows = [row for batches in of_ranks for batch in batches if "row" in batch for row in batch["row"].tolist()]
        assert sorted(rows) == list(range(count))
        assert all(of_ranks)  # a rank without a batch would be waited for


def test_fit_runs_exactly_the_steps_and_resumes_where_it_stopped(arguments, tmp_path):
    whole, first, rest = Recorder(), Recorder(), Recorder()
    trainer(tmp_path, max_steps=6, limit_val_batches=0).fit(whole, COCO(**arguments))
    assert [step for step, *_ in whole.seen] == list(range(6))
    stopped = trainer(tmp_path, max_steps=6, limit_val_batches=0, callbacks=[StopAfter(3)])
    stopped.fit(first, COCO(**arguments))
    stopped.save_checkpoint(tmp_path / "three.ckpt")
    resumed = trainer(tmp_path, max_steps=6, limit_val_batches=0)
    resumed.fit(rest, COCO(**arguments), ckpt_path=tmp_path / "three.ckpt")
    assert len(first.seen) == 3 and first.seen + rest.seen == whole.seen
    assert resumed.global_step == 6


def test_without_a_trainer_batches_are_those_of_a_runs_first_steps(arguments, tmp_path):
    """One epoch of them, however often it is asked for; evaluation as in `validate`; setup comes first."""
    trained, alone = Recorder(), COCO(**arguments)
    trainer(tmp_path, max_steps=6, limit_val_batches=0).fit(trained, COCO(**arguments))
    for loader in (alone.train_dataloader, alone.val_dataloader):
        with pytest.raises(ValueError, match=r"read yet: call setup\("):
            loader()
    alone.setup("fit")
    batches = list(alone.train_dataloader())
    assert len(batches) == len(alone.pairs) // alone.batch_size > 1
    seen = [(b["step"], b["row"].tolist(), b["image_id"].tolist(), b["caption"]) for b in batches]
    assert seen == trained.seen[: len(seen)] and len(list(alone.train_dataloader())) == len(batches)
    assert {task: len(loader) for task, loader in alone.val_dataloader().items()}.keys() == {
        "caption",
        "vqa",
        "binding",
    }
    alone.teardown("fit")


class StopAfter(L.Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.steps


def test_a_finished_run_can_be_prolonged_without_a_warning(arguments, tmp_path, recwarn):
    whole, first, rest = Recorder(), Recorder(), Recorder()
    trainer(tmp_path, max_steps=5, limit_val_batches=0).fit(whole, COCO(**arguments))
    short = trainer(tmp_path, max_steps=2, limit_val_batches=0)
    short.fit(first, COCO(**arguments))
    short.save_checkpoint(tmp_path / "two.ckpt")
    trainer(tmp_path, max_steps=5, limit_val_batches=0).fit(rest, COCO(**arguments), ckpt_path=tmp_path / "two.ckpt")
    assert first.seen + rest.seen == whole.seen
    assert not [w for w in recwarn if "not resumable" in str(w.message)]


def test_accumulation_splits_the_same_batches(arguments, tmp_path):
    whole, split = Recorder(), Recorder()
    trainer(tmp_path, max_steps=4, limit_val_batches=0).fit(whole, COCO(**arguments))
    trainer(tmp_path, max_steps=4, limit_val_batches=0, accumulate_grad_batches=2).fit(split, COCO(**arguments))
    halves = zip(split.seen[::2], split.seen[1::2], strict=True)
    assert [(a[0], *(x + y for x, y in zip(a[1:], b[1:]))) for a, b in halves] == whole.seen
    assert all(a[0] == b[0] for a, b in zip(split.seen[::2], split.seen[1::2]))


class Notes(Recorder):
    """Leaves what its rank saw in a file."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_fit_end(self):
        (self.folder / f"rank{self.global_rank}.json").write_text(json.dumps(self.seen))


def test_two_processes_see_the_batches_of_one(arguments, tmp_path):
    whole = Recorder()
    trainer(tmp_path, max_steps=3, limit_val_batches=0).fit(whole, COCO(**arguments))
    options = dict(devices=2, strategy="ddp_fork", use_distributed_sampler=False)
    trainer(tmp_path, max_steps=3, **options).fit(Notes(tmp_path), COCO(**arguments))
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    joined = [(a[0], *(x + y for x, y in zip(a[1:], b[1:]))) for a, b in zip(*ranks, strict=True)]
    assert joined == whole.seen


def test_dealing_rows_twice_is_refused(arguments, tmp_path):
    with pytest.raises(Exception, match=r"set trainer\.use_distributed_sampler to false"):
        trainer(tmp_path, max_steps=3, devices=2, strategy="ddp_fork").fit(Recorder(), COCO(**arguments))


def test_short_epochs_go_on_instead_of_starting_over(arguments, tmp_path):
    recorder = Recorder()
    trainer(tmp_path, max_steps=6, limit_train_batches=2, limit_val_batches=0).fit(recorder, COCO(**arguments))
    assert [step for step, *_ in recorder.seen] == list(range(6))


def test_validate_test_and_predict_run_all_tasks(arguments, tmp_path):
    recorder, data = Recorder(), COCO(**arguments)
    runner = trainer(tmp_path)
    runner.validate(recorder, data, verbose=False)
    assert recorder.evaluated == ["caption"] * 2 + ["vqa"] * 3 + ["binding"]
    recorder.evaluated.clear()
    runner.test(recorder, data, verbose=False)
    assert recorder.evaluated == ["caption", "vqa", "vqa", "binding"]
    captions, questions, pairs = runner.predict(recorder, data)
    assert captions == [[301, 302, 303]] and questions == [[301, 301, 302, 302], [303, 303]] and pairs == [[301]]


def test_a_fit_without_evaluation_files_trains(arguments, tmp_path):
    recorder = Recorder()
    data = COCO(root=arguments["root"], train=arguments["train"], image_size=8, batch_size=4)
    trainer(tmp_path, max_steps=2).fit(recorder, data)
    assert len(recorder.seen) == 2


def test_all_missing_files_are_named_at_once(arguments, tmp_path):
    arguments |= dict(root=str(tmp_path), features="kept")
    with pytest.raises(FileNotFoundError) as error:
        COCO(**arguments, augment=False).setup("fit")
    message = str(error.value).replace(str(tmp_path), "")
    for name in ("captions_train", "captions_val", "questions_val", "answers_val", "binding_val"):
        assert name in message
    assert "kept/train/features.json" in message and "kept/val/features.json" in message
    assert "_test" not in message and "make-mini" in message


def test_a_wrong_image_folder_shows_in_setup(arguments):
    with pytest.raises(FileNotFoundError, match=r"elsewhere/val/000000000201\.png"):
        COCO(**arguments | {"images": "elsewhere/{split}"}).setup("fit")


def test_features_that_lack_images_are_refused(arguments, tiny, tmp_path):
    for split, ids in {"train": range(101, 109), "val": range(203, 206)}.items():
        write_store(tmp_path / "some" / split, ids, np.zeros((len(ids), 1, 1, 1)), {})
    with pytest.raises(ValueError, match=r"val lacks the features of 2 images, among them \[201, 202"):
        COCO(**arguments | {"features": str(tmp_path / "some"), "augment": False}).setup("fit")


def test_augmenting_features_is_warned_about(arguments):
    with pytest.warns(UserWarning, match="augment has no effect"):
        COCO(**arguments, features="features").setup("fit")


def test_fit_needs_training_captions_and_steps(arguments, tmp_path):
    with pytest.raises(ValueError, match=r"set data\.train"):
        COCO(**arguments | {"train": None}).setup("fit")
    with pytest.raises(ValueError, match=r"set trainer\.max_steps"):
        trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(Recorder(), COCO(**arguments))


def test_the_constructor_is_a_schema(arguments):
    parser = ArgumentParser()
    parser.add_subclass_arguments(COCO, "data")
    config = parser.parse_object({"data": {"class_path": "lit_blip2.data.coco.COCO", "init_args": arguments}})
    assert parser.instantiate(config).data.vqa["val"]["questions"] == "annotations/questions_val.json"
    arguments["vqa_val"] = {"question": "a mistyped key"}
    with pytest.raises(SystemExit):
        parser.parse_args([f"--data={json.dumps({'class_path': 'lit_blip2.data.coco.COCO', 'init_args': arguments})}"])


class Encoder:
    """An image encoder of 16 pixels, or of twice as many."""

    size, interpolation = 16, "bilinear"

    def output_shape(self, image_size: int) -> tuple[int, int]:
        if image_size % 16:
            raise ValueError(f"does not take data.image_size={image_size}")
        return 1, 1


def looking(arguments, size: int | None) -> COCO:
    """A data module before a run whose network has that encoder."""
    data = COCO(**arguments | {"image_size": size})
    net = SimpleNamespace(vision=Encoder())
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(net=net))
    return data


@pytest.mark.parametrize(("asked", "made"), [(None, 16), (16, 16), (32, 32)])
def test_images_are_made_as_the_encoder_wants_them(arguments, asked, made):
    data = looking(arguments | {"augment": False}, asked)
    data.setup("fit")
    source, file = data.pixels("val"), data.tables["val"]["caption"].files[0]
    wanted = eval_view(source.read(file), made, "bilinear")
    assert torch.equal(source.load([file], np.array([0]))[0], wanted)
    trained = data.pairs.view(0, np.random.default_rng(0))
    assert torch.equal(trained, eval_view(data.pairs.image(0), made, "bilinear"))
    assert not torch.equal(trained, eval_view(data.pairs.image(0), made, "bicubic"))


def test_a_size_that_the_encoder_does_not_take_is_refused_before_the_run(arguments):
    with pytest.raises(ValueError, match=r"does not take data\.image_size=24"):
        looking(arguments, 24).setup("fit")


def test_without_an_encoder_images_have_224_pixels(arguments):
    data = COCO(**arguments | {"image_size": None})
    data.setup("fit")
    assert data.image_size == 224


def test_a_number_of_workers_below_0_is_refused():
    with pytest.raises(ValueError, match=r"data\.num_workers=-1 must be at least 0, where the training process loads"):
        COCO(num_workers=-1)


def test_a_folder_and_an_empty_name_are_no_annotations(tmp_path):
    for name in ("notes", "notes.csv", "notes.jsonl"):
        (tmp_path / name).mkdir()
        data = COCO(str(tmp_path), train=name, val=name, vqa_val={"questions": name}, binding_val=name)
        with pytest.raises(DataError, match=rf"{name} is a folder: give the path of a file"):
            data.train_pairs()
        data.read("val", faults := [])
        assert len(faults) == 3 and "is a folder" in faults[0] and "is a folder" in faults[2]
    for make in (lambda: COCO(train=""), lambda: VisualGenome(regions="")):
        with pytest.raises(ValueError, match=r"data\.(train|regions): an empty text names no file; write null"):
            make()


def test_files_of_questions_may_be_null():
    given = {"questions": "annotations/questions_val.json", "annotations": None, "images": None}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--vqa", type=VQAFiles)
    assert parser.parse_args([f"--vqa={json.dumps(given)}"]).vqa == given
    assert COCO().files_of(given)[1:] == [None, None]
