"""lmms-eval's model: requests made by hand get what `ask` says. Skipped where lmms-eval is not installed."""

import numpy as np
import pytest
import torch
from PIL import Image

from lit_blip2 import inference
from tests.commands.test_ask import QUESTION, folder, run_folder  # noqa: F401 (fixtures)

pytest.importorskip("lmms_eval")

from lmms_eval.api.instance import Instance, unwrap_generation_output
from lmms_eval.models.registry_v2 import ModelRegistryV2

from lit_blip2.data.images import to_rgb
from lit_blip2.data.transforms import eval_view
from lit_blip2.harness import BLIP2, manifest

QUESTIONS = [QUESTION, "what color is the star ?", "is there a red star ?"]
CHOICES = ["a red star", "a blue ring below a red star", "no"]


@pytest.fixture(scope="module")
def pictures():
    """Three images, the second without a third channel."""
    rng = np.random.default_rng(3)
    images = [Image.fromarray(rng.integers(256, size=(30, 40, 3), dtype=np.uint8)) for _ in range(3)]
    return [images[0], images[1].convert("L"), images[2]]


@pytest.fixture
def make(run_folder, pictures):  # noqa: F811
    """The model with a task of three documents, as the evaluator hands it over."""

    def make(**arguments) -> BLIP2:
        options = ",".join(f"{name}={value}" for name, value in {"checkpoint": run_folder, **arguments}.items())
        model = BLIP2.create_from_arg_string(options, {"batch_size": 2, "device": "cpu"})
        model.task_dict["few"] = {"test": pictures}
        return model

    return make


def request(kind: str, doc_id: int, text: str, second, look=lambda document: [document]) -> Instance:
    arguments = (text, second, look, doc_id, "few", "test")
    return Instance(kind, arguments, idx=0, metadata=dict(task="few", doc_id=doc_id, repeats=1))


def generation(*questions: str, look=lambda document: [document], **wishes) -> list[Instance]:
    return [request("generate_until", i, text, dict(wishes), look) for i, text in enumerate(questions)]


def test_it_is_found_and_is_a_model_of_the_harness():
    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    assert registry.get_model_class("lit_blip2") is BLIP2


def test_batches_answer_as_ask_does(make, run_folder, pictures, tmp_path):  # noqa: F811
    """Three requests in batches of two, of a run whose form and beams the task leaves alone."""
    wanted = []
    for place, (picture, question) in enumerate(zip(pictures, QUESTIONS)):
        picture.save(tmp_path / f"{place}.png")
        wanted.append(inference.load(run_folder).ask(tmp_path / f"{place}.png", question))
    assert make().generate_until(generation(*QUESTIONS, until=[])) == wanted
    assert len(set(wanted)) == 3 and all(wanted)


def test_the_tasks_wishes_are_kept(make, pictures):
    """Length, beams, ends and the form of the question: each as the network itself writes it."""
    model = make()
    pixels = torch.stack([eval_view(to_rgb(each), model.run.image_size) for each in pictures])
    prompts = [f"Question: {question} Answer:" for question in QUESTIONS]
    wanted = model.run.write(pixels, prompts, max_new_tokens=6, num_beams=3, length_penalty=2.0)
    wishes = dict(max_new_tokens=6, num_beams=3, length_penalty=2.0, temperature=0, do_sample=False, top_p=1.0)
    assert model.generate_until(generation(*QUESTIONS, **wishes)) == wanted
    stop = wanted[0].split()[2]
    cut = model.generate_until(generation(*QUESTIONS, **wishes, until=[stop, ""]))
    assert cut == [text.split(stop)[0].strip() for text in wanted] != wanted
    assert model.generate_until(generation(*QUESTIONS, **wishes, until=stop)) == cut
    captions = make(question="a").generate_until(generation(*QUESTIONS, **wishes))
    how = dict(max_new_tokens=6, num_beams=3, length_penalty=2.0)
    assert captions == model.run.write(pixels, ["a"] * 3, **how) != wanted


def test_requests_of_other_wishes_stay_in_order(make):
    """A batch has one way of searching; the answers come in the order of the requests all the same."""
    long, short = (generation(*QUESTIONS, max_new_tokens=length, num_beams=1) for length in (6, 1))
    model = make()
    mixed = model.generate_until([long[0], short[0], short[1], long[2]])
    apart = [model.generate_until(each) for each in (long, short)]
    assert mixed == [apart[0][0], apart[1][0], apart[1][1], apart[0][2]]


def test_choices_are_scored_as_the_evaluator_reads_them(make, pictures):
    """A loss and a flag per choice, which the evaluator leaves a pair; an image is looked at once for its choices."""
    model, seen = make(), []
    model.run.net.vision.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    asked = [request("loglikelihood", i, QUESTION, f" {choice}") for i in range(2) for choice in CHOICES]
    model.batch_size = 6
    pairs = [unwrap_generation_output(each)[0] for each in model.loglikelihood(asked)]
    assert seen == [2]
    pixels = torch.stack([eval_view(to_rgb(each), model.run.image_size) for each in pictures[:2]])
    for place, (loss, greedy) in enumerate(pairs):
        prompts, choice = [f"Question: {QUESTION} Answer:"], [CHOICES[place % 3]]
        alone, flag = model.run.score(pixels[place // 3][None], prompts, choice)
        assert loss == pytest.approx(alone.item(), rel=1e-5) and greedy is bool(flag)
    called = [request("loglikelihood", 0, QUESTION, lambda document: CHOICES[0])]
    assert unwrap_generation_output(model.loglikelihood(called)[0])[0][0] == pytest.approx(pairs[0][0], rel=1e-5)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (dict(look=lambda document: []), "task few, document 0: its images are none, and this model looks at exactly"),
        (dict(look=lambda document: [document] * 2), "task few, document 0: its images are Image, Image"),
        (dict(look=lambda document: ["film.mp4"]), "task few, document 0: its images are str"),
        (dict(temperature=0.7), r"task few samples its answers \(temperature=0.7\)"),
        (dict(do_sample=True), r"task few samples its answers \(temperature=1\)"),
        (dict(max_new_tokens=999), r"task few, among documents \[0\]: .* 64 positions.*--gen_kwargs max_new_tokens=10"),
    ],
)
def test_what_cannot_be_answered_is_named(make, asked, says):
    with pytest.raises(ValueError, match=says):
        make().generate_until(generation(QUESTION, **asked))


def test_other_refusals(make, monkeypatch):
    with pytest.raises(NotImplementedError, match="task few has several rounds"):
        make().generate_until_multi_round(generation(QUESTION))
    with pytest.raises(ValueError, match=r"task few, document 1: its images are none"):
        arguments = ("", CHOICES[0])  # as mutual information asks
        make().loglikelihood(
            [Instance("loglikelihood", arguments, idx=0, metadata=dict(task="few", doc_id=1, repeats=1))]
        )
    with pytest.raises(ValueError, match="batch_size='auto'"):
        BLIP2("no/run", batch_size="auto")
    with pytest.raises(FileNotFoundError, match="no checkpoint: 'no/run'"):
        make(checkpoint="no/run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="device='cpu' with several processes"):
        make()
