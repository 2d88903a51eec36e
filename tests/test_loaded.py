"""A loaded run: one or many images and texts, pictures of every kind, features, and what it refuses."""

import subprocess
import sys

import pytest
import torch
import yaml
from PIL import Image

import lit_blip2
from lit_blip2.checkpoint import trainable_state
from lit_blip2.config import Experiment
from lit_blip2.lit.callbacks.sample_texts import sample_scores
from lit_blip2.network import build_net
from tests.commands.test_ask import QUESTION, SIZE, VISION, folder, run_folder  # noqa: F401 (fixtures)

QUESTIONS = [QUESTION, "is there a red star ?", "where is the blue ring ?"]
TEXTS = ["a red star", "a blue ring", "a green cross at top"]


@pytest.fixture(scope="module")
def images():
    """Noise, black and blue, of unlike sizes."""
    noise_HW3 = torch.randint(256, (30, 40, 3), generator=torch.Generator().manual_seed(5)).byte()
    return [Image.fromarray(noise_HW3.numpy()), Image.new("RGB", (40, 30)), Image.new("RGB", (64, 20), "blue")]


@pytest.fixture(scope="module")
def stage1_file(folder, tmp_path_factory):  # noqa: F811
    """A checkpoint of a random stage 1 of the mini-world's words."""
    qformer = dict(num_queries=3, hidden=8, layers=1, heads=2, intermediate=8, dropout=0.0, vocab_size=62)
    net = dict(
        vision=dict(name="vit_tiny_patch16_224", weights=str(folder / "vit.pth"), model_args=VISION),
        qformer=qformer,
        tokenizer="lit_blip2/mini/weights/bert",
        itc=dict(projection=4),
        itm={},
    )
    model = dict(class_path="lit_blip2.lit.LitStage1", init_args=dict(net=dict(init_args=net)))
    config = dict(model=model, data=dict(init_args=dict(image_size=SIZE, eval_batch_size=2)))
    torch.manual_seed(2)
    net = build_net(Experiment(config, "a test"))
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    state = {f"net.{name}": value for name, value in trainable_state(net).items()}
    file = tmp_path_factory.mktemp("stage1") / "last.ckpt"
    torch.save({"state_dict": state, "config": yaml.safe_dump(config)}, file)
    return file


@pytest.fixture
def answering(run_folder):  # noqa: F811
    run = lit_blip2.load(run_folder, device="cpu")
    run.batch_size = 2
    return run


@pytest.fixture
def comparing(stage1_file):
    return lit_blip2.load(stage1_file, device="cpu")


def test_one_gives_one_and_a_list_gives_a_list(answering, images):
    alone = [answering.caption(each) for each in images]
    assert answering.caption(images) == alone and len(set(alone)) > 1 and answering.caption([]) == []
    one_question = [answering.ask(each, QUESTION) for each in images]
    assert answering.ask(images, QUESTION) == one_question
    own = [answering.ask(*each) for each in zip(images, QUESTIONS)]
    assert answering.ask(tuple(images), QUESTIONS) == own and len({*own, *one_question}) > 1
    assert answering.caption(images[:1]) == alone[:1]


def test_an_image_of_many_questions_is_looked_at_once(answering, images):
    seen, wanted = [], [answering.ask(images[0], each) for each in QUESTIONS]
    answering.batch_size = 3
    answering.net.vision.register_forward_hook(lambda part, given, output: seen.append(len(given[0])))
    assert answering.ask(images[0], QUESTIONS) == wanted and seen == [1]


def test_a_picture_and_its_file_are_the_same(answering, images, tmp_path):
    modes = {"L": "png", "LA": "png", "1": "png", "RGBA": "png", "P": "png", "CMYK": "tiff"}
    given = [images[0].convert(mode) for mode in modes]
    given[3].putalpha(Image.linear_gradient("L").resize(images[0].size))
    given[4].info["transparency"] = 3
    deep = Image.fromarray((torch.arange(30 * 40).reshape(30, 40) * 54).to(torch.uint16).numpy())
    assert deep.mode == "I;16"
    files = [tmp_path / f"{mode}.{kind}" for mode, kind in [*modes.items(), ("deep", "png")]]
    for picture, file in zip([*given, deep], files):
        picture.save(file)
    assert torch.equal(answering.pixels([*given, deep]), answering.pixels(files))
    assert torch.equal(answering.pixels([Image.open(file) for file in files]), answering.pixels(map(str, files)))


def test_a_picture_lies_as_its_exif_says(answering, images, tmp_path):
    turned, exif = images[0].transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # turn it clockwise by 90 degrees to see it upright
    turned.save(tmp_path / "turned.png", exif=exif)
    both = answering.pixels([tmp_path / "turned.png", Image.open(tmp_path / "turned.png")])
    assert torch.equal(both, answering.pixels([images[0]]).expand(2, -1, -1, -1))


def test_features_are_what_the_language_model_reads(answering, images):
    net, made = answering.net, answering.features(images)
    with torch.no_grad():
        wanted_IPW = net.bridge(net.vision(answering.pixels(images)))
    torch.testing.assert_close(made.soft_prompt, wanted_IPW)
    torch.testing.assert_close(net.bridge.projection(made.queries), made.soft_prompt)  # a loss may be made of them
    alone = answering.features(images[1])
    assert alone.queries.shape == made.queries.shape[1:]
    torch.testing.assert_close(alone.soft_prompt, made.soft_prompt[1])


def test_stage_1_compares(comparing, images):
    """As the pictures of its validation say it, of all pairs; texts as captions are read."""
    wanted = sample_scores(comparing.net, comparing.net.vision(comparing.pixels(images)), TEXTS)
    written = [text.upper() + " !" for text in TEXTS]
    cosine_IT = comparing.similarity(images, written)
    torch.testing.assert_close(cosine_IT, wanted["ITC"])
    torch.testing.assert_close(comparing.similarity(images[1], written), cosine_IT[1])
    torch.testing.assert_close(comparing.similarity(images, written[2]), cosine_IT[:, 2])
    assert comparing.similarity(images[1], written[2]).item() == pytest.approx(cosine_IT[1, 2].item(), rel=1e-4)
    assert comparing.match(images, written) == pytest.approx(wanted["ITM"].diag().tolist(), rel=1e-4)
    assert comparing.match(images[0], written) == pytest.approx(wanted["ITM"][0].tolist(), rel=1e-4)
    assert isinstance(comparing.match(images[0], written[0]), float)


def test_stage_1_has_query_outputs_and_no_soft_prompt(comparing, images):
    made = comparing.features(images)
    assert made.queries.shape == (3, 3, 8) and made.soft_prompt is None
    with torch.no_grad():
        image_BQP = comparing.net.itc.project_image(made.queries)
        torch.testing.assert_close(
            image_BQP, comparing.net.encode_images(comparing.net.vision(comparing.pixels(images)))[0]
        )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda run, image: run.match(image, "a star"), "is of stage 2, which has no ITM: load a run of stage 1"),
        (lambda run, image: run.similarity(image, "a star"), "is of stage 2, which has no ITC"),
        (
            lambda run, image: run.ask([image] * 2, ["a"] * 3),
            "2 images and 3 texts: give as many of both, or one alone",
        ),
        (lambda run, image: run.ask(image, " "), "the question is empty"),
        (lambda run, image: run.ask(image, "wo ist der Hund"), "100.0% of 4 words of the question 'wo ist der Hund'"),
        (lambda run, image: run.ask(image, "What COLOR?"), r"More words are known of 'what color \?'"),
        (lambda run, image: run.caption("tests"), "a folder .give the path of an image in it"),
        (lambda run, image: run.caption(3), "or the path of a file, not a int"),
        (lambda run, image: run.caption([torch.zeros(3, 4, 4)]), "not a Tensor: PIL.Image.fromarray makes"),
        (lambda run, image: run.caption("no.png"), "no image file 'no.png'"),
        (
            lambda run, image: run.caption(Image.new("F", (4, 4))),
            r"cannot read image \(a PIL image, F, 4 x 4\): pixels are fractions",
        ),
        (lambda run, image: run.features([]), "no image"),
    ],
)
def test_refusals_of_a_run_that_answers(answering, images, call, says):
    with pytest.raises((ValueError, TypeError, OSError), match=says):
        call(answering, images[0])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda run, image: run.caption(image), "is a stage-1 checkpoint, which has no language model"),
        (lambda run, image: run.ask(image, "a"), "is a stage-1 checkpoint, which has no language model"),
        (lambda run, image: run.match(image, "!"), "the text '!' holds no word"),
        (lambda run, image: run.similarity(image, "der Hund"), "of 2 words of the text 'der hund' are unknown"),
        (lambda run, image: run.similarity(image, []), "no text"),
    ],
)
def test_refusals_of_a_run_that_compares(comparing, images, call, says):
    with pytest.raises(ValueError, match=says):
        call(comparing, images[0])


def test_a_head_that_is_off_is_named(stage1_file, images, tmp_path):
    contents = torch.load(stage1_file, weights_only=True)
    config = yaml.safe_load(contents["config"])
    config["model"]["init_args"]["net"]["init_args"]["itm"] = None
    contents["state_dict"] = {name: each for name, each in contents["state_dict"].items() if ".itm." not in name}
    torch.save(contents | {"config": yaml.safe_dump(config)}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="was trained with itm=null: take a run of stage 1 that has it on"):
        lit_blip2.load(tmp_path / "last.ckpt", device="cpu").match(images[0], "a star")


def test_precision_is_the_runs_own_unless_another_is_given(stage1_file, images, tmp_path):
    contents = torch.load(stage1_file, weights_only=True)
    config = yaml.safe_load(contents["config"]) | {"trainer": {"precision": "16"}}
    torch.save(contents | {"config": yaml.safe_dump(config)}, tmp_path / "last.ckpt")
    half, full = (lit_blip2.load(tmp_path / "last.ckpt", "cpu", precision) for precision in (None, "32"))
    assert repr(half).endswith("16-mixed on cpu") and full.precision == "32-true"
    exact = lit_blip2.load(stage1_file, "cpu").features(images).queries
    assert torch.equal(full.features(images).queries, exact)
    near = half.features(images).queries
    assert not torch.equal(near.float(), exact) and torch.allclose(near.float(), exact, atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(device="tpu:7"), "device='tpu:7' is not available .*: use device='cpu'"),
        (dict(precision="int8"), "there is no precision 'int8': give precision='32-true' or 'bf16-mixed'"),
        (dict(allow=["other"]), "no checkpoint: 'no/run'"),
    ],
)
def test_what_is_not_there_is_told(stage1_file, arguments, says):
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        lit_blip2.load("no/run" if "allow" in arguments else stage1_file, **arguments)


@pytest.mark.run
def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, lit_blip2; print(sorted({'torch', 'numpy', 'PIL', 'lightning'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"
