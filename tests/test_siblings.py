"""What experiments of one kind may differ in: a slip in one of them is a difference that nobody allowed."""

from pathlib import Path

import pytest
import yaml


def flat(value: object, key: str = "") -> dict[str, object]:
    """Settings by dotted key; init_args left out, callbacks by their class."""
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        value = {each["class_path"].split(".")[-1]: each for each in value}
    if not isinstance(value, dict) or not value:
        return {key: value}
    below = [flat(each, key if name == "init_args" else f"{key}.{name}".strip(".")) for name, each in value.items()]
    return {name: each for found in below for name, each in found.items()}


def differing(first: str, second: str, folder: Path = Path("experiments")) -> set[str]:
    """Keys in which two experiments say different things, or only one of them says anything."""
    one, other = (flat(yaml.safe_load((folder / f"{name}.yaml").read_text())) for name in (first, second))
    return {key for key in one.keys() | other.keys() if one.get(key, ...) != other.get(key, ...)}


ENCODER = {"model.net.vision.name", "model.net.vision.weights"}
LANGUAGE = {"model.net.language.name", "model.net.language.weights"}
T5 = {"model.net.language.end", "model.question"}  # FlanT5 has an end of its own, and the paper asks it otherwise
START, BATCH, DECAY = {"model.init_from"}, {"data.batch_size"}, {"model.optimization.layer_decay"}
PEAK, OBJECTIVE = {"model.optimization.lr"}, {"model.net.objective.class_path"}
LENGTH = {"trainer.max_steps", "trainer.val_check_interval"}
SHORTER = BATCH | LENGTH | {"model.optimization.warmup_steps"}
SMALL = BATCH | LENGTH | {"trainer.limit_val_batches"}
TUNED = START | DECAY | LENGTH | {"data.features", "model.net.vision.frozen", "model.optimization.warmup_steps"}
QUESTIONS = {f"data.vqa_{split}.{what}" for split in ("val", "test") for what in ("questions", "annotations")}
SIBLINGS = {
    ("vitg_stage1", "vitl_stage1"): ENCODER | BATCH,
    ("vitg_stage1", "vitb_stage1"): ENCODER | SHORTER,
    ("vitg_opt27", "vitg_opt67"): LANGUAGE,
    ("vitg_opt27", "vitl_opt27"): START | ENCODER,
    ("vitg_opt27", "vitb_opt125m"): START | ENCODER | LANGUAGE | SHORTER,
    ("vitg_opt27", "vitg_flant5xl"): LANGUAGE | T5 | BATCH | OBJECTIVE,
    ("vitg_flant5xl", "vitg_flant5xxl"): LANGUAGE,
    ("vitg_flant5xl", "vitl_flant5xl"): START | ENCODER,
    ("vitg_opt27_caption", "vitg_opt67_caption"): START | LANGUAGE | DECAY,
    ("vitg_opt27_caption", "vitg_flant5xl_caption"): START | LANGUAGE | T5,
    ("vitg_opt27_vqa", "vitg_opt67_vqa"): START | LANGUAGE | DECAY,
    ("vitg_opt27_vqa", "vitg_flant5xl_vqa"): START | LANGUAGE | T5,
    ("vitg_retrieval", "vitl_retrieval"): START | ENCODER | DECAY | PEAK | {"model.optimization.betas"},
    ("instructblip_flant5xl", "instructblip_vicuna7b"): LANGUAGE | BATCH,
    ("mini_stage1", "small_stage1"): SMALL | {"model.net.qformer.num_queries"},
    ("mini_stage1", "mini_retrieval"): TUNED | PEAK | {"model.net.itg"},
    ("mini_opt", "small_opt"): SMALL | START | {"model.net.bridge.qformer.num_queries", "model.no_image"},
    ("mini_opt", "mini_t5"): OBJECTIVE | {"model.net.language.name", "model.net.bridge.projection_std"},
    ("mini_opt", "mini_caption"): TUNED | BATCH | QUESTIONS | {"model.net.prompt"},
}


@pytest.mark.parametrize("pair", SIBLINGS, ids=" and ".join)
def test_siblings_differ_in_nothing_else(pair):
    assert differing(*pair) == SIBLINGS[pair]


def test_every_experiment_has_a_sibling():
    alone = {"mini_joint", "mini_vqa", "own_data_opt", "own_data_stage1"}  # each the only one of its kind
    shipped = {file.stem for file in Path("experiments").glob("*.yaml")}
    assert shipped == {name for pair in SIBLINGS for name in pair} | alone


def test_a_slip_in_one_sibling_is_seen(tmp_path):
    for name, layers in (("vitg_opt27", 12), ("vitg_opt67", 21)):
        text = Path(f"experiments/{name}.yaml").read_text()
        (tmp_path / f"{name}.yaml").write_text(text.replace("layers: 12", f"layers: {layers}"))
    assert differing("vitg_opt27", "vitg_opt67", tmp_path) == LANGUAGE | {"model.net.bridge.qformer.layers"}
