"""A folder made to be bad: every planted fault is found, and nothing else."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lit_blip2.commands import check
from lit_blip2.commands.data import main
from lit_blip2.data.annotations import entries
from lit_blip2.data.shards.indexing import index_shards
from tests.data.shards.test_shards import jpeg, sample, write_tar
from tests.data.test_images import png_of


@pytest.fixture(autouse=True)
def list_of_faults(tmp_path, monkeypatch):
    """Where `data check` writes, which would be the working folder."""
    monkeypatch.setattr(check, "FAULTS", tmp_path / "faults.csv")
    return tmp_path / "faults.csv"


@pytest.fixture
def bad(tmp_path):
    """A mixture of a table of files and of shards, as an experiment's YAML."""
    files, shards = tmp_path / "files", tmp_path / "web"
    files.mkdir()
    grey = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    Image.fromarray(grey).save(files / "deep.png")
    Image.new("CMYK", (8, 6)).save(files / "cmyk.jpg")
    Image.new("P", (8, 6)).save(files / "palette.png")
    Image.new("RGBA", (8, 6)).save(files / "alpha.png")
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    frames[0].save(files / "moves.gif", save_all=True, append_images=frames[1:])
    (files / "good.jpg").write_bytes(jpeg(7))
    (files / "again.jpg").write_bytes(jpeg(7))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(files / "cut.jpg")
    (files / "cut.jpg").write_bytes((files / "cut.jpg").read_bytes()[:900])
    (files / "empty.jpg").touch()
    (files / "words.jpg").write_text("no image")
    (files / "giant.png").write_bytes(png_of(20_000, 20_000))
    names = [*sorted(file.name for file in files.iterdir()), "gone.jpg"]
    (files / "mine.csv").write_text("image,caption\n" + "".join(f"{name},a {name}\n" for name in names))
    faulty = {"a": {"txt": b"no image"}, "b": {"jpg": jpeg(1)}, "c": sample(3, "fine"), "d": {"jpg": b"", "txt": b"x"}}
    write_tar(shards / "0.tar", faulty)
    index_shards(shards, workers=1)
    source = {
        "class_path": "lit_blip2.data.coco.COCO",
        "init_args": {"root": str(files), "images": ".", "train": "mine.csv"},
    }
    web = {"class_path": "lit_blip2.data.laion.LAION", "init_args": {"root": str(tmp_path), "shards": "web"}}
    init = {"sources": {"mine": source, "web": web}, "root": str(tmp_path)}
    config = tmp_path / "experiment.yaml"
    config.write_text(yaml.safe_dump({"data": {"class_path": "lit_blip2.data.mixture.Mixture", "init_args": init}}))
    return config


def test_texts_of_several_lines_are_told_and_are_no_fault(tmp_path, capsys):
    texts = {"a": b"a cow\ntwo cows", "b": b"one"}
    write_tar(tmp_path / "web" / "0.tar", {key: {"jpg": jpeg(3), "txt": text} for key, text in texts.items()})
    index_shards(tmp_path / "web", workers=1)
    web = {"class_path": "lit_blip2.data.laion.LAION", "init_args": {"root": str(tmp_path), "shards": "web"}}
    (tmp_path / "web.yaml").write_text(yaml.safe_dump({"data": web}))
    assert main(["check", "--config", str(tmp_path / "web.yaml"), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "captions: 3" in said and "web: 1 texts have several lines, and each line is read as a caption" in said


def test_every_planted_fault_is_found_and_nothing_else(bad, capsys):
    assert main(["check", "--config", str(bad), "--workers", "2"]) == 1
    said, error = capsys.readouterr()
    for line in (
        "mine, truncated: 1", "mine, empty: 1", "mine, not an image: 1", "mine, too large: 1", "mine, missing: 1",
        "web, empty: 1", "web, left out of the index, no image: 1",
        "web, left out of the index, no caption, or an empty one: 1",
    ):  # fmt: skip
        assert line in said, line
    assert "error: 8 problems in" in error
    assert "cut.jpg" in said and "0.tar/d.jpg" in said and "gone.jpg" in said
    assert "1 are copies of earlier ones" in said
    assert "images: 6 to 8 pixels wide" in said and ", 4 to 6 pixels high" in said
    assert "looked at 14 of 14 images" in said and "of 1 to 3 words" in said


def test_every_fault_is_a_row_of_a_file(bad, list_of_faults, capsys):
    main(["check", "--config", str(bad), "--workers", "1"])
    header, *rows = csv.reader(list_of_faults.open(newline=""))
    assert header == ["source", "problem", "file", "details"] and len(rows) == 8
    problems = {Path(file).name: (source, problem, details) for source, problem, file, details in rows}
    assert problems["cut.jpg"][:2] == ("mine", "truncated") and "get it again" in problems["cut.jpg"][2]
    assert problems["gone.jpg"] == ("mine", "missing", "") and problems["words.jpg"][1] == "not an image"
    assert f"8 problems in the data of {bad}, each a row of {list_of_faults}" in capsys.readouterr().err


def own_experiment(tmp_path, **settings) -> list[str]:
    """`data check` of three sound pictures of one's own."""
    (tmp_path / "photos").mkdir()
    for name in ("A.JPG", "b.JPG", "c.JPG"):
        (tmp_path / "photos" / name).write_bytes(jpeg(3))
    (tmp_path / "photos/captions.csv").write_text("image,caption\na.jpg,a\nb.jpg,b\nc.jpg,c\n")
    init = {"root": str(tmp_path / "photos"), "train": "captions.csv"} | settings
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"data": {"class_path": "lit_blip2.data.own.OwnData", "init_args": init}}))
    return ["check", "--config", str(file), "--workers=1"]


def test_where_all_are_missing_the_folder_and_what_it_holds_are_named(tmp_path, list_of_faults, capsys):
    given = own_experiment(tmp_path)
    assert main(given) == 1
    said, photos = capsys.readouterr().out, tmp_path / "photos"
    assert f"{photos}/a.jpg (there is A.JPG): none of the images of captions.csv is in {photos}" in said
    assert "which holds A.JPG, b.JPG, c.JPG, captions.csv" in said and "3 images are fewer than a batch" in said
    assert "it is called b.JPG" in list_of_faults.read_text()
    main([*given, "--data.images=elsewhere"])
    assert (
        f"{photos}/elsewhere (data.root and data.images), which is not there; {photos} holds" in capsys.readouterr().out
    )
    assert main([*given, "--data.train=nothing.csv"]) == 1
    error = capsys.readouterr().err
    assert "missing: " in error and "docs/own_data.md" in error and "mini" not in error


def test_a_list_of_faults_is_emptied_and_no_other_file_is_written_over(tmp_path, list_of_faults, capsys):
    given = own_experiment(tmp_path)
    assert main(given) == 1 and len(list_of_faults.read_text().splitlines()) == 4
    (tmp_path / "photos/captions.csv").write_text("image,caption\nA.JPG,a\n")
    assert main(given) == 0 and list_of_faults.read_text().splitlines() == ["source,problem,file,details"]
    table = tmp_path / "photos/captions.csv"
    assert main([*given, f"--out={table}"]) == 2 and table.read_text().startswith("image,caption")
    assert "captions.csv is there and no list of faults" in capsys.readouterr().err


def test_a_sample_is_looked_at_and_good_data_end_well(tiny, tmp_path, capsys):
    init = {"root": str(tiny), "train": "annotations/captions_train.json"}
    config = tmp_path / "experiment.yaml"
    config.write_text(yaml.safe_dump({"data": {"class_path": "lit_blip2.data.coco.COCO", "init_args": init}}))
    assert main(["check", "--config", str(config), "--sample", "3", "--workers", "1"]) == 0
    assert "looked at 3 of 8 images" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["--sample -3", "--sample 0", "--workers -1"])
def test_a_count_out_of_range_ends_before_anything_is_read(tmp_path, capsys, list_of_faults, given):
    config = own_experiment(tmp_path)
    assert main([*config, *given.split()]) == 2
    assert f"{given} must be at least" in capsys.readouterr().err and not list_of_faults.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": {}}, "no `data` in"),
        ({"data": {"class_path": "lit_blip2.data.coco.COCO"}}, "set data.train to a caption file"),
        ({"data": {"class_path": "lit_blip2.data.coco.COCO", "init_args": {"batch": 3}}}, "batch"),
    ],
)
def test_what_cannot_be_checked_says_why(tmp_path, capsys, content, words):
    (tmp_path / "x.yaml").write_text(json.dumps(content))
    assert main(["check", "--config", str(tmp_path / "x.yaml")]) == 2
    assert words in capsys.readouterr().err


def test_empty_captions_and_images_to_evaluate_on_are_problems_too(arguments, tmp_path, capsys):
    shutil.copytree(arguments["root"], tmp_path / "world")
    file = tmp_path / "world/annotations/captions_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["caption"] = " . "
    file.write_text(json.dumps(content))
    images = sorted((tmp_path / "world/images/val").iterdir())
    images[0].unlink()
    images[1].unlink()
    images[1].mkdir()
    source = {"class_path": "lit_blip2.data.coco.COCO", "init_args": arguments | {"root": str(tmp_path / "world")}}
    (tmp_path / "x.yaml").write_text(json.dumps({"data": source}))
    with pytest.warns(UserWarning, match="1 empty captions left out"):
        assert main(["check", "--config", str(tmp_path / "x.yaml"), "--workers=1"]) == 1
    said, error = capsys.readouterr()
    for line in ("coco, caption left out, empty: 1", "val, missing: 1", "val, cannot be opened: 1", "of 16 images"):
        assert line in said, line
    assert "error: 3 problems in" in error


def test_a_second_file_changes_the_first(bad, tmp_path, capsys):
    (tmp_path / "more.yaml").write_text("data: {init_args: {image_size: 0}}")
    assert main(["check", "--config", str(bad), "--config", str(tmp_path / "more.yaml")]) == 2
    assert "image_size=0" in capsys.readouterr().err
    (tmp_path / "more.yaml").write_text("data: [")
    assert main(["check", f"--config={tmp_path / 'more.yaml'}"]) == 2
    assert "more.yaml is not YAML" in capsys.readouterr().err


def checked(tmp_path, capsys, source) -> tuple[int, str]:
    (tmp_path / "x.yaml").write_text(json.dumps({"data": source}))
    status = main(["check", "--config", str(tmp_path / "x.yaml"), "--workers=1"])
    return status, "".join(capsys.readouterr())


def test_what_fit_would_end_on_in_a_file_ends_the_check_by_name(arguments, tmp_path, capsys):
    """Each file of the experiment in turn holds a value of another type, or is cut."""
    shutil.copytree(arguments["root"], tmp_path / "world")
    source = {"class_path": "lit_blip2.data.coco.COCO", "init_args": arguments | {"root": str(tmp_path / "world")}}
    assert checked(tmp_path, capsys, source)[0] == 0
    files = sorted((tmp_path / "world/annotations").iterdir())
    assert len(files) == 9
    for file in files:
        whole = file.read_text()
        content = json.loads(whole)
        rows = next(content[key] for key in ("pairs", "annotations", "questions") if key in content)
        first = rows[0]
        for broken, words in (
            (7, "entry 1 of .*: must be an object with keys, and is a number, 7"),
            (first | {"image_id": "1.5"}, "image_id must be a whole number of 64 bits, and is a text"),
            ({}, "is not there: its keys are"),
        ):
            rows[0] = broken
            file.write_text(json.dumps(content))
            status, said = checked(tmp_path, capsys, source)
            assert status == 1 and re.search(f"error: {file}.*{words}", said), said
        file.write_text(whole[:-20])
        status, said = checked(tmp_path, capsys, source)
        assert status == 1 and f"error: {file} is not JSON" in said
        file.write_text(whole)


def test_a_mixture_that_no_batch_can_hold_ends_the_check(arguments, tmp_path, capsys):
    root = {"root": arguments["root"], "images": "images/{split}"}
    sources = {
        "said": {"class_path": "lit_blip2.data.coco.COCO", "init_args": root | {"train": arguments["train"]}},
        "asked": {
            "class_path": "lit_blip2.data.questions.VQA",
            "init_args": root | {"train": {**arguments["vqa_val"], "images": arguments["val"]}},
        },
    }
    mixture = {"class_path": "lit_blip2.data.mixture.Mixture", "init_args": {"sources": sources, "root": root["root"]}}
    status, said = checked(tmp_path, capsys, mixture)
    assert status == 1 and "{'said': 'caption', 'asked': 'question, answer'}" in said


def test_an_empty_caption_to_evaluate_on_is_a_problem_too(arguments, tmp_path, capsys):
    shutil.copytree(arguments["root"], tmp_path / "world")
    file = tmp_path / "world/annotations/captions_val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["caption"] = None
    file.write_text(json.dumps(content))
    source = {"class_path": "lit_blip2.data.coco.COCO", "init_args": arguments | {"root": str(tmp_path / "world")}}
    with pytest.warns(UserWarning, match="1 empty captions left out"):
        status, said = checked(tmp_path, capsys, source)
    assert status == 1 and "val, caption left out, empty: 1" in said


@pytest.mark.parametrize(
    "change", [{"val": ""}, {"features": ""}, {"vqa_val": {"questions": "q.json", "annotations": ""}}]
)
def test_an_empty_name_is_no_file_and_not_none(arguments, tmp_path, capsys, change):
    source = {"class_path": "lit_blip2.data.coco.COCO", "init_args": arguments | change}
    status, said = checked(tmp_path, capsys, source)
    assert status == 2 and "an empty text names no file; write null where there is none" in said


def test_annotations_are_read_once(arguments, tmp_path, capsys, monkeypatch):
    """Also where the experiment names a network, whose tokenizer looks at the texts too."""
    read, real = [], entries.read_text
    monkeypatch.setattr(entries, "read_text", lambda path: read.append(str(path)) or real(path))
    with open("experiments/mini_stage1.yaml") as file:
        model = yaml.safe_load(file)["model"]
    (tmp_path / "experiment.yaml").write_text(
        yaml.safe_dump({"model": model, "data": {"class_path": "lit_blip2.data.coco.COCO", "init_args": arguments}})
    )
    main(["check", "--config", str(tmp_path / "experiment.yaml"), "--workers", "1"])
    assert "words of captions are unknown" in capsys.readouterr().out
    assert read and len(read) == len(set(read))


def test_every_faulty_file_has_a_line_of_its_own(arguments, tmp_path, capsys):
    """Five of nine files are faulty, each in another way; the images of the others are looked at all the same."""
    shutil.copytree(arguments["root"], tmp_path / "world")
    folder = tmp_path / "world/annotations"
    (folder / "captions_train.json").unlink()
    (folder / "captions_val.json").write_text('{"images": [')
    (folder / "questions_test.json").write_text('{"questions": 1, "questions": 2}')
    (folder / "answers_test.json").write_bytes(b'{"annotations": \xff}')
    (folder / "binding_test.json").write_text("[]")
    source = {"class_path": "lit_blip2.data.coco.COCO", "init_args": arguments | {"root": str(tmp_path / "world")}}
    status, said = checked(tmp_path, capsys, source)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status == 1 and "images looked at" in said and "make-mini" in said
    for name in ("captions_train", "captions_val", "questions_test", "answers_test", "binding_test"):
        assert len([line for line in lines if f"{folder}/{name}.json" in line]) == 1, (name, lines)


def test_every_source_of_a_mixture_is_read(bad, tmp_path, capsys):
    settings = yaml.safe_load(bad.read_text())
    settings["data"]["init_args"]["sources"]["mine"]["init_args"]["train"] = "elsewhere.csv"
    settings["data"]["init_args"]["weights"] = {"mine": 1.0, "web": 3.0}
    bad.write_text(yaml.safe_dump(settings))
    assert main(["check", "--config", str(bad), "--workers", "1"]) == 1
    said, error = capsys.readouterr()
    assert f"missing: {tmp_path / 'files/elsewhere.csv'}" in error and "web, empty: 1" in said


def test_settings_behind_an_experiment_change_it(tiny, tmp_path, capsys):
    init = {"root": "nowhere", "train": "annotations/captions_train.json", "max_caption_words": 50}
    config = tmp_path / "experiment.yaml"
    config.write_text(yaml.safe_dump({"data": {"class_path": "lit_blip2.data.coco.COCO", "init_args": init}}))
    given = ["check", "--config", str(config), "--workers=1", f"--data.root={tiny}"]
    assert main(given) == 0
    assert main([*given, "--data.init_args.max_caption_words", "2"]) == 0
    assert (
        "24 reach the limit of 2 words (data.max_caption_words), where longer ones are cut" in capsys.readouterr().out
    )
    assert main([*given, "--data.batch_size=0"]) == 2 and main([*given, "--data.batch=3"]) == 2
    refused, misspelt = capsys.readouterr().err.splitlines()
    assert "data.batch_size=0: each must be at least 1" in refused
    assert "error: --data.batch=3: " in misspelt and "Option 'batch' is not accepted" in misspelt


def test_settings_reach_the_network(tiny, tmp_path, capsys):
    given = ["check", "--config", "experiments/mini_stage1.yaml", "--workers=1", "--sample=2", f"--data.root={tiny}"]
    given += [
        "--data.max_unknown_words=1",
        "--data.val=null",
        "--data.test=null",
        "--data.binding_val=null",
        "--data.binding_test=null",
    ]
    assert main([*given, "--model.net.tokenizer=lit_blip2/mini/weights/bert"]) == 0
    assert "unknown to the tokenizer of the Q-Former" in capsys.readouterr().out
    main([*given, f"--model.net.tokenizer={tmp_path}"])
    assert "unknown words: not looked at, " in capsys.readouterr().out
    assert main([*given, "--model.net.itm.none=3"]) == 2
