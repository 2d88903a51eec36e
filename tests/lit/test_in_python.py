"""What `lit_blip2.load` gives is what the run's own evaluation makes; and docs/python.md, line by line."""

import json
import shutil
from pathlib import Path

import lightning as L
import pytest
import torch

import lit_blip2
from lit_blip2.data.coco import COCO
from lit_blip2.lit import LitStage1, LitStage2
from lit_blip2.lit.callbacks.sample_texts import sample_scores
from tests.page import form, outputs

QUIET = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
ASKED = {"questions": "annotations/questions_test.json", "annotations": "annotations/answers_test.json"}
PAGE = Path("docs/python.md")


@pytest.fixture
def data(world):
    """The test images in their files, whose features a run may have cached in 16 bits."""

    def make(**settings) -> COCO:
        return COCO(
            root=str(world), test="annotations/captions_test.json", image_size=64, eval_batch_size=4, **settings
        )

    return make


@pytest.fixture
def images(world):
    """image id -> file."""
    listed = json.loads((world / "annotations/captions_test.json").read_text())["images"]
    return {each["id"]: world / "images/test" / each["file_name"] for each in listed}


def test_captions_and_answers_are_those_of_the_runs_test(fit, stage1_run, data, images, tmp_path):
    """Of a run with a soft prompt so loud that the language model hears which image it is."""
    loud = ["--model.net.bridge.init_args.projection_std=1", "--trainer.max_steps=2"]
    made = fit("mini_opt", f"--model.init_from={stage1_run}", *loud, language="lit_blip2/mini/weights/opt")
    module, trainer = LitStage2.load_from_checkpoint(made), L.Trainer(default_root_dir=tmp_path, **QUIET)
    trainer.test(module, datamodule=data(vqa_test=ASKED), verbose=False)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    captions, answers = ([each for each in rows if each["task"] == task] for task in ("caption", "vqa"))
    run = lit_blip2.load(made)
    assert len(captions) == 6 and len(answers) > 6 and len({each["caption"] for each in captions}) > 1
    assert run.caption([images[each["image_id"]] for each in captions]) == [each["caption"] for each in captions]
    questions, files = zip(*((each["question"], images[each["image_id"]]) for each in answers))
    assert run.ask(files, questions) == [each["answer"] for each in answers]


def test_predict_returns_the_rows_that_it_writes(stage2_run, data, tmp_path):
    module, trainer = LitStage2.load_from_checkpoint(stage2_run), L.Trainer(default_root_dir=tmp_path, **QUIET)
    by_task = trainer.predict(module, datamodule=data(vqa_test=ASKED))
    written = [json.loads(line) for line in (tmp_path / "predict.jsonl").read_text().splitlines()]
    rows = [row for batches in by_task for batch in batches for row in batch]
    assert sorted(map(json.dumps, rows)) == sorted(map(json.dumps, written)) and len(by_task) == 2
    assert all(Path(row["image"]).stem == f"{row['image_id']:012}" for row in written)  # as the mini-world names them


def test_similarity_is_what_retrieval_ranks_by_and_match_is_itms(stage1_run, data, images, tmp_path):
    module, trainer = LitStage1.load_from_checkpoint(stage1_run), L.Trainer(default_root_dir=tmp_path, **QUIET)
    datamodule = data()
    trainer.test(module, datamodule=datamodule, verbose=False)
    found, captions = module.representation.retrieved, datamodule.tables["test"]["caption"]
    texts = [text for row in range(len(captions)) for text in captions.of(row)]
    files, run = [images[number] for number in found.ids_I.tolist()], lit_blip2.load(stage1_run)
    pairs_P2 = found.candidates.pairs_P2
    cosine_IT = run.similarity(files, texts)
    assert cosine_IT.shape == (6, len(texts))
    torch.testing.assert_close(cosine_IT[tuple(pairs_P2.T)], found.cosine_P)
    wanted = sample_scores(module.net.eval(), module.net.vision(run.pixels(files)), texts)["ITM"]
    probabilities = [run.match(file, texts) for file in files]
    torch.testing.assert_close(torch.tensor(probabilities), wanted)


def test_a_module_goes_on_where_its_run_stands(stage1_run, stage2_run):
    """Weights, arguments and steps are the run's; those that are given are put in their place; of another class there
    is none."""
    state = torch.load(stage1_run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    module = LitStage1.load_from_checkpoint(stage1_run, rerank=5)
    assert module.representation.rerank == 5 and module.trained_steps == 4 and module.optimization.warmup_steps == 1
    own = module.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    assert LitStage2.load_from_checkpoint(stage2_run).init_from is None  # else a fit would read stage 1 over it
    again = LitStage1.load_from_checkpoint(stage1_run / "checkpoints/last.ckpt", net=module.net)
    assert again.net is module.net and again.representation.rerank == 3
    with pytest.raises(TypeError, match="cannot be called on an instance"):
        module.load_from_checkpoint(stage1_run)
    with pytest.raises(ValueError, match=r"last\.ckpt is a run of lit_blip2\.lit\.LitStage2, not of LitStage1"):
        LitStage1.load_from_checkpoint(stage2_run)


def test_every_line_of_the_page_runs(stage1_run, stage2_run, world, tmp_path):
    """In a folder as `make demo` leaves it; each output has the form that the page shows."""
    for name, run in (("mini_stage1", stage1_run), ("mini_opt", stage2_run)):
        shutil.copytree(run, tmp_path / f"runs/{name}/version_0")
    shutil.copytree(world, tmp_path / "data/mini")
    test = tmp_path / "data/mini/images/test"
    shutil.copy(min(test.glob("*.png")), test / "000000012983.png")
    made = outputs(PAGE, tmp_path)
    assert len(made) == PAGE.read_text().count("```python") > 12
    for code, told, left in made:
        assert form(left) == form(told), code
