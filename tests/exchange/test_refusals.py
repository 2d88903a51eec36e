"""What cannot become a run of this suite is an error that names it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Blip2Config, Blip2ForImageTextRetrieval

from lit_blip2.commands.convert import main
from lit_blip2.contents import DataError
from lit_blip2.exchange import hugging_face, lavis
from lit_blip2.exchange.export import to_hugging_face
from lit_blip2.exchange.foreign import ForeignModel
from lit_blip2.inference import load
from lit_blip2.pixels import CLIP_MEAN, CLIP_STD
from tests.exchange.tiny import BERT, randomise, rewritten, saved


def test_what_cannot_be_imported_says_why(generation, imported, tmp_path):
    _, folder = generation["opt"]
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    state = load_file(broken / "model.safetensors")
    save_file(state | {"surprise.weight": torch.zeros(1)}, broken / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds surprise\.weight \(1 such\), which has no place here"):
        hugging_face.read(broken)
    lacking = {name: value for name, value in state.items() if "layer.0.crossattention.output.dense.bias" not in name}
    save_file(lacking, broken / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing net\.bridge\.qformer\.layers\.0\.cross\.output\.bias"):
        imported(broken, "mini_opt")
    (broken / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-50])
    with pytest.raises(ValueError, match="is damaged or cut"):
        hugging_face.read(broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    with pytest.raises(ValueError, match="holds a BertModel: Blip2ForImageTextRetrieval, Blip2For"):
        hugging_face.read(broken)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda key: "language_model" in key and "fc1.weight" in key,
            "does not fit this model: missing net.language.model",
        ),
        (
            lambda key: "vision_model.encoder.layers.1.mlp.fc2.bias" in key,
            "missing net.vision.encoder.blocks.1.mlp.fc2.bias",
        ),
    ],
)
def test_a_frozen_weight_that_is_missing_is_named(generation, tmp_path, change, words, capsys):
    def without(state):
        return {key: value for key, value in state.items() if not change(key)}

    folder = rewritten(generation["opt"][1], tmp_path / "cut", without)
    assert (
        main("import", [str(folder), "--from=hf", f"--out={tmp_path / 'x'}", "--config=experiments/mini_opt.yaml"]) == 2
    )
    assert re.search(words, capsys.readouterr().err)


def test_a_frozen_weight_too_many_or_of_another_shape_is_named(generation, imported, tmp_path):
    more = rewritten(generation["opt"][1], tmp_path / "more", lambda s: s | {"language_model.surprise": torch.ones(1)})
    with pytest.raises(ValueError, match=r"does not fit this model: unexpected net\.language\.model\.surprise"):
        imported(more, "mini_opt")
    key = "vision_model.encoder.layers.0.mlp.fc1.bias"
    other = rewritten(generation["opt"][1], tmp_path / "other", lambda s: s | {key: torch.ones(5)})
    with pytest.raises(ValueError, match=r"does not fit .*vision\.encoder\.blocks\.0\.mlp\.fc1\.bias is \(5,\)"):
        imported(other, "mini_opt")


@pytest.mark.parametrize(
    ("part", "name", "value", "known"),
    [
        ("qformer_config", "hidden_act", "relu", "'gelu'"),
        ("vision_config", "hidden_act", "quick_gelu", "'gelu'"),
        ("vision_config", "layer_norm_eps", 0.01, "1e-06"),
        ("vision_config", "qkv_bias", False, "True"),
    ],
)
def test_what_the_parts_here_cannot_be_is_refused(generation, tmp_path, part, name, value, known):
    own = json.loads((generation["opt"][1] / "config.json").read_text())[part]
    folder = rewritten(generation["opt"][1], tmp_path / "other", **{part: own | {name: value}})
    with pytest.raises(ValueError, match=rf"{part}\.{name} is {value!r}, this package has {known}"):
        hugging_face.read(folder)


@pytest.mark.parametrize("file", ["processor_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    ("name", "value", "known"),
    [
        ("size", {"height": 16, "width": 16}, "{'height': 8, 'width': 8}"),
        ("size", 16, "{'height': 8, 'width': 8}"),
        ("do_normalize", False, "True"),
        ("do_center_crop", True, "False"),
        ("resample", 0, "3"),
    ],
)
def test_an_image_processor_that_makes_other_images_is_refused(generation, tmp_path, file, name, value, known):
    folder = rewritten(generation["opt"][1], tmp_path / "other")
    nested = {"image_processor": {name: value}} if file.startswith("processor") else {name: value}
    (folder / file).write_text(json.dumps(nested))
    with pytest.raises(ValueError, match=re.escape(f"{file}: {name} is {value!r}, an imported run's is {known}")):
        hugging_face.read(folder)


def test_a_published_image_processor_is_taken(generation, tmp_path):
    """Published folders have the one file for images and the other for the number of queries."""
    from transformers import BlipImageProcessorPil

    folder = rewritten(generation["opt"][1], tmp_path / "published")
    BlipImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    (folder / "processor_config.json").write_text('{"num_query_tokens": 4}')
    assert (
        hugging_face.read(folder).net["vision"].items() >= {"mean": list(CLIP_MEAN), "interpolation": "bicubic"}.items()
    )


def test_a_folder_that_does_not_say_how_its_images_look_is_told_of(generation, tmp_path):
    folder = rewritten(generation["opt"][1], tmp_path / "bare")
    for name in ("processor_config.json", "preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.warns(UserWarning, match=r"mean \[0\.48.*std \[0\.26.*interpolation bicubic"):
        vision = hugging_face.read(folder).net["vision"]
    assert (vision["mean"], vision["std"], vision["interpolation"]) == (list(CLIP_MEAN), list(CLIP_STD), "bicubic")
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    with pytest.warns(UserWarning, match="those of image encoder eva_giant_patch14_clip_224 are taken, std") as told:
        hugging_face.read(folder)
    assert "mean" not in str(told[0].message)


@pytest.mark.parametrize("file", ["processor_config.json", "preprocessor_config.json"])
def test_a_folders_own_mean_and_filter_come_in_and_go_out(generation, tmp_path, file, imported):
    folder = rewritten(generation["opt"][1], tmp_path / "other")
    looks = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 2}
    for name in ("processor_config.json", "preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / file).write_text(json.dumps({"image_processor": looks} if file.startswith("processor") else looks))
    run, out = imported(folder, "mini_opt"), tmp_path / "out"
    vision = load(run).net.vision
    assert (vision.mean, vision.std, vision.interpolation) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear")
    to_hugging_face(run, out)
    assert json.loads((out / "processor_config.json").read_text())["image_processor"].items() >= looks.items()
    (folder / "preprocessor_config.json").write_text('{"size": 8, "do_center_crop": null}')
    hugging_face.read(folder)


def test_one_number_for_all_colours_is_three_and_another_scale_is_refused(generation, tmp_path):
    folder = rewritten(generation["opt"][1], tmp_path / "one")
    (folder / "preprocessor_config.json").write_text('{"image_mean": 0.5, "image_std": 0.25, "resample": 3}')
    vision = hugging_face.read(folder).net["vision"]
    assert (vision["mean"], vision["std"]) == ([0.5] * 3, [0.25] * 3)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [123.7, 116.3, 103.5]}')
    with pytest.raises(ValueError, match=r"preprocessor_config\.json: mean=\(123\.7, 116\.3, 103\.5\)"):
        hugging_face.read(folder)


@pytest.mark.parametrize(
    "content",
    ["[]", "null", '{"architectures": ["Blip2ForConditionalGeneration"], "qformer_config": [1]}',
     '{"architectures": ["Blip2ForConditionalGeneration"], "text_config": {"model_type": "nope"}}'],
)  # fmt: skip
def test_a_broken_configuration_is_an_error_and_no_traceback(generation, tmp_path, content, capsys):
    folder = rewritten(generation["opt"][1], tmp_path / "broken")
    (folder / "config.json").write_text(content)
    arguments = [str(folder), "--from=hf", f"--out={tmp_path / 'x'}", "--config=experiments/mini_opt.yaml"]
    assert main("import", arguments) == 2
    assert re.search("holds no JSON object|is no configuration of a Blip2For", capsys.readouterr().err)


def test_a_network_that_does_not_fit_is_said(generation, tmp_path, capsys):
    text = Path("experiments/mini_opt.yaml").read_text().replace("objective: {", "surprise: 1\n      objective: {")
    (tmp_path / "odd.yaml").write_text(text)
    arguments = [str(generation["opt"][1]), "--from=hf", f"--out={tmp_path / 'x'}", f"--config={tmp_path}/odd.yaml"]
    assert main("import", arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}/odd.yaml: the settings of the network do not fit")
    assert "'surprise' is not accepted" in said


@pytest.mark.parametrize("content", ["[1]", "a: [", "model: {}"])
def test_an_experiment_that_is_none_is_said(generation, tmp_path, content, capsys):
    (tmp_path / "bad.yaml").write_text(content)
    arguments = [str(generation["opt"][1]), "--from=hf", f"--out={tmp_path / 'x'}", f"--config={tmp_path}/bad.yaml"]
    assert main("import", arguments) == 2
    assert "is no experiment with a network and data" in capsys.readouterr().err


SIZED = (
    "query_tokens", "qformer.encoder.layer.0.attention.attention.query.weight",
    "qformer.encoder.layer.0.crossattention.attention.key.bias", "vision_model.embeddings.position_embedding",
    "vision_model.encoder.layers.0.self_attn.qkv.bias", "language_projection.bias",
    "language_model.model.decoder.layers.0.fc1.weight",
)  # fmt: skip


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (72, 24), (3, 16)])
def test_all_weights_of_a_wrong_size_are_named_at_once(generation, imported, tmp_path, shape):
    folder = rewritten(
        generation["opt"][1], tmp_path / "sized", lambda s: s | {key: torch.ones(shape) for key in SIZED}
    )
    with pytest.raises(ValueError) as found:
        imported(folder, "mini_opt")
    for ours in ("query_tokens", "layers.0.attention.qkv.weight", "layers.0.cross.kv.bias", "encoder.pos_embed",
                 "blocks.0.attn.q_bias", "projection.bias", "layers.0.fc1.weight"):  # fmt: skip
        assert f"{ours} is (" in str(found.value)


def test_parts_whose_sizes_only_sum_up_are_not_taken(generation, imported, tmp_path):
    """20, 28 and 24 rows are as many as three times 24."""
    place = "qformer.encoder.layer.0.attention.attention"
    odd = {f"{place}.{part}.weight": torch.ones(rows, 24) for part, rows in (("query", 20), ("key", 28))}
    with pytest.raises(
        ValueError, match=r"layers\.0\.attention\.qkv\.weight is \(1, 1728\), the model's is \(72, 24\)"
    ):
        imported(rewritten(generation["opt"][1], tmp_path / "odd", lambda s: s | odd), "mini_opt")


def test_a_part_that_is_missing_leaves_ours_missing(generation, imported, tmp_path):
    key = "qformer.encoder.layer.0.attention.attention.query.weight"
    folder = rewritten(generation["opt"][1], tmp_path / "cut", lambda s: {k: v for k, v in s.items() if k != key})
    with pytest.raises(ValueError, match=r"missing net\.bridge\.qformer\.layers\.0\.attention\.qkv\.weight"):
        imported(folder, "mini_opt")


@pytest.mark.parametrize("command", [["import", "nowhere", "--from=hf"], ["export", "--checkpoint=nowhere", "--to=hf"]])
def test_nothing_is_written_over_and_that_is_said_first(command, tmp_path, capsys):
    assert main(command[0], [*command[1:], f"--out={tmp_path}"]) == 2
    assert f"{tmp_path} exists: remove it, or give another --out" in capsys.readouterr().err


def test_what_is_no_number_is_refused(generation, imported, tmp_path):
    broken = {"query_tokens": torch.full((1, 4, 24), torch.nan)}
    folder = rewritten(generation["opt"][1], tmp_path / "nan", lambda s: s | broken)
    with pytest.raises(ValueError, match=r"query_tokens \(1 such\) holds something else than finite numbers"):
        imported(folder, "mini_opt")


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_whole_numbers_among_weights_are_refused(generation, tmp_path, part):
    key = f"qformer.encoder.layer.0.attention.attention.{part}.weight"
    folder = rewritten(generation["opt"][1], tmp_path / "whole", lambda s: s | {key: (s[key] * 100).to(torch.int32)})
    with pytest.raises(ValueError, match=rf"{re.escape(key)} holds torch\.int32, where floating-point"):
        hugging_face.read(folder)


def test_a_folder_without_a_tokenizer_or_of_the_wrong_stage_says_so(generation, tmp_path, capsys):
    bare = rewritten(generation["opt"][1], tmp_path / "bare")
    for file in bare.glob("*token*"):
        file.unlink()
    out = f"--out={tmp_path / 'x'}"
    assert main("import", [str(bare), "--from=hf", out, "--config=experiments/mini_opt.yaml"]) == 2
    assert "token" in capsys.readouterr().err
    stage1 = "--config=experiments/mini_stage1.yaml"
    assert main("import", [str(generation["opt"][1]), "--from=hf", out, stage1]) == 2
    assert "the model is of stage 2, experiments/mini_stage1.yaml is not" in capsys.readouterr().err


def test_a_projection_for_another_family_is_refused(tmp_path, capsys):
    state = {
        "t5_proj.weight": torch.ones(128, 128),
        "t5_proj.bias": torch.ones(128),
        "ln_vision.weight": torch.ones(128),
    }
    torch.save({"model": state}, tmp_path / "x.pth")
    arguments = [
        str(tmp_path / "x.pth"),
        "--from=lavis",
        f"--out={tmp_path / 'x'}",
        "--config=experiments/mini_opt.yaml",
    ]
    assert main("import", arguments) == 2
    assert "was trained for a language model of kind t5, experiments/mini_opt.yaml has opt" in capsys.readouterr().err


def test_a_class_is_named_in_a_list_or_by_itself(generation, tmp_path):
    kind = "Blip2ForConditionalGeneration"
    assert hugging_face.read(rewritten(generation["opt"][1], tmp_path / "plain", architectures=kind)).language
    with pytest.raises(ValueError, match="holds a Bert:"):
        hugging_face.read(rewritten(generation["opt"][1], tmp_path / "other", architectures="Bert"))


@pytest.mark.parametrize("ours", [True, False])
def test_a_broken_tokenizer_is_named(generation, tmp_path, capsys, ours):
    """An export of ours says itself how a text ends; of others the tokenizer is asked."""
    folder = rewritten(generation["opt"][1], tmp_path / "broken")
    (folder / "tokenizer.json").write_text("{")
    if ours:
        (folder / "lit_blip2.json").write_text('{"end": null, "dtype": "float32"}')
    arguments = [str(folder), "--from=hf", f"--out={tmp_path / 'x'}", "--config=experiments/mini_opt.yaml"]
    assert main("import", arguments) == 2
    assert f"{folder} holds no tokenizer that can be read: save one there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("preprocessor_config.json", {"image_processor": [1]}, "image_processor is a list, [1], where an object"),
        ("processor_config.json", {"image_processor": "x"}, 'image_processor is a text, "x", where an object'),
        ("lit_blip2.json", {"vocab_size": "x"}, 'vocab_size is a text, "x", where a whole number is wanted'),
        ("lit_blip2.json", {"end": [1]}, "end is a list, [1], where a text or a list of texts is wanted"),
        ("lit_blip2.json", {"dtype": {"class_path": "os.system"}}, "dtype is an object, "),
    ],
)
def test_a_side_file_of_other_types_is_refused_by_its_name(generation, tmp_path, file, content, said):
    folder = rewritten(generation["opt"][1], tmp_path / "other")
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(DataError, match=re.escape(f"{folder / file}: {said}")):
        hugging_face.read(folder)


def test_an_export_with_several_ends_is_read(generation, tmp_path):
    folder = rewritten(generation["opt"][1], tmp_path / "ends")
    (folder / "lit_blip2.json").write_text('{"end": ["a", "b"], "dtype": "float32"}')
    assert hugging_face.read(folder).net["language"]["end"] == ["a", "b"]


def test_an_empty_list_of_ends_is_none(generation, tmp_path):
    own = json.loads((generation["opt"][1] / "config.json").read_text())["text_config"]
    folder = rewritten(generation["opt"][1], tmp_path / "eos", text_config=own | {"eos_token_id": []})
    assert hugging_face.read(folder).net["language"]["end"] is None


def test_a_retrieval_model_of_other_words_than_its_tokenizer_is_refused(hf_config, tmp_path, capsys):
    words = len(AutoTokenizer.from_pretrained(BERT))
    for more in (0, 1):
        sized = hf_config | {"qformer_config": hf_config["qformer_config"] | {"vocab_size": words + more}}
        model = Blip2ForImageTextRetrieval(Blip2Config(**sized, image_text_hidden_size=12))
        folder = saved(randomise(model), BERT, tmp_path / f"hf{more}")
        arguments = [
            str(folder),
            "--from=hf",
            f"--out={tmp_path / f'x{more}'}",
            "--config=experiments/mini_stage1.yaml",
        ]
        assert main("import", arguments) == 2 * more
    said = capsys.readouterr().err
    assert f"tokenizer {folder} has {words} words" in said and f"vocab_size={words + 1}" in said


def test_beside_weights_for_lavis_nothing_is_said_but_how_images_look_and_what_is_random(tmp_path):
    nothing = ForeignModel({}, {}, None, None, {}, {})
    file = tmp_path / "x.pth"
    looks = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    more = {"name": "hf-hub:a/b", "weights": "/etc/hostname", "model_args": {"pretrained": True}}
    torch.save({"model": {}, "lit_blip2": {"looks": looks | more}}, file)
    assert lavis.with_side(nothing, file).net == {"vision": looks}
    torch.save({"model": {}, "lit_blip2": {"looks": looks, "random": [{"a": 1}]}}, file)
    with pytest.raises(DataError, match=r"x\.pth: random is .*, where a list of texts is wanted"):
        lavis.with_side(nothing, file)
    torch.save({"model": {}, "lit_blip2": [1]}, file)
    with pytest.raises(DataError, match="says something else than how images look"):
        lavis.with_side(nothing, file)
