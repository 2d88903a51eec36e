"""From a grid to distinct steps: what is shared, what is not run, what is refused."""

import json
import re
from datetime import UTC, datetime

import pytest
import torch
import yaml

from lit_blip2.ablation.folder import Folder, write
from lit_blip2.ablation.run import begin, fingerprint, plan, sharing, step
from lit_blip2.ablation.run.command import write_config
from lit_blip2.ablation.run.dry_run import dry_run
from lit_blip2.ablation.run.machine import wants_gpus
from lit_blip2.ablation.schema import Done, Failure, Plan
from lit_blip2.ablation.spec.read import read_grid
from lit_blip2.sources import PACKAGE, sources
from lit_blip2.terminal import duration

METRICS = {"a.yaml": ["retrieval/itc_txt_r1"], "b.yaml": ["vqa/accuracy", "vqa/type_*"], "c.yaml": ["vqa/accuracy"]}
GRID = """
steps:
  stage1: {fit: a.yaml}
  retrieval: {test: stage1}
  stage2: {fit: b.yaml, set: {model.init_from: $stage1}}
  vqa: {test: stage2}
axes:
  itc: {on: {}, off: {stage1.model.itc: null}}
  start: {stage1: {}, none: {stage2.model.init_from: null}}
control: {itc: on, start: stage1}
seeds: [0, 1]
metrics: [retrieval/itc_txt_r1, vqa/accuracy]
"""


def answer(request: dict) -> dict:
    """What lit_blip2.resolve would say: a config that holds the arguments; no retrieval without ITC."""
    _, file, *options = request["arguments"]
    if "--model.bad=1" in options:
        return {"error": "Option 'bad' is not accepted"}
    settings = dict(option.removeprefix("--model.").split("=", 1) for option in options)
    config = {
        "seed_everything": 0,
        "trainer": {"logger": None, "val_check_interval": 2},
        "data": {"init_args": {"seed": 0}},
    }
    metrics = [] if settings.get("itc") == "null" else METRICS[file]
    missing = [f"missing: {file}.json"] if request["command"] == "test" and not request["files"] else []
    told = {"metrics": metrics, "steps": 7, "missing": missing}
    return {"config": config | {"model": {"file": file} | settings}} | told


@pytest.fixture
def planned(tmp_path, monkeypatch):
    asked = []

    def make(text: str = GRID, known: dict[str, str] | None = None):
        monkeypatch.setattr(plan, "ask", lambda requests: asked.extend(requests) or [answer(each) for each in requests])
        (tmp_path / "trial.yaml").write_text(text)
        return plan.make_plan(read_grid(tmp_path / "trial.yaml"), known=known)

    make.asked = asked
    return make


def test_equal_steps_are_one_run(planned):
    made = planned()
    steps = {cell.name: cell.steps for cell in made.cells}
    assert steps["itc=on,start=stage1,seed=0"] == [
        "stage1/itc=on,seed=0", "retrieval/itc=on,seed=0",
        "stage2/itc=on,start=stage1,seed=0", "vqa/itc=on,start=stage1,seed=0",
    ]  # fmt: skip
    assert steps["itc=on,start=none,seed=1"] == [
        "stage1/itc=on,seed=1", "retrieval/itc=on,seed=1", "stage2/start=none,seed=1", "vqa/start=none,seed=1"
    ]  # fmt: skip
    assert made.uses()["stage1/itc=on,seed=0"] == 2 and made.uses()["stage2/start=none,seed=0"] == 2


def test_a_step_that_no_metric_needs_is_not_run(planned):
    made = planned()
    (cell,) = [cell for cell in made.cells if cell.name == "itc=off,start=none,seed=0"]
    assert cell.steps == ["stage2/start=none,seed=0", "vqa/start=none,seed=0"]
    assert cell.metrics == {"retrieval/itc_txt_r1": None, "vqa/accuracy": "vqa/start=none,seed=0"}


def test_a_file_that_has_come_since_the_sweep_began_is_an_output(planned, tmp_path, monkeypatch):
    """As a log that a callback of one's own writes where its config says."""
    monkeypatch.chdir(tmp_path)
    text = GRID.replace("{fit: b.yaml, set: {", "{fit: b.yaml, set: {model.log: hard.log, ")
    begun = planned(text)
    (tmp_path / "hard.log").write_text("row 7\n")
    sharing._paths.cache_clear()  # another start is another process
    assert planned(text).identity != begun.identity == planned(text, begun.files).identity
    assert "hard.log" in planned(text).files and "hard.log" not in planned(text, begun.files).files


def test_both_seeds_are_set(planned):
    config = planned().steps["stage1/itc=on,seed=1"].config
    assert config["seed_everything"] == 1 and config["data"]["init_args"]["seed"] == 1


def test_a_label_may_take_another_experiment(planned):
    made = planned(GRID.replace("none: {stage2.model.init_from: null}", "none: {stage2.fit: c.yaml}"))
    runs = made.steps["stage2/itc=on,start=none,seed=0"], made.steps["vqa/itc=on,start=none,seed=0"]
    assert [run.config["model"] for run in runs] == [{"file": "c.yaml", "init_from": "$stage1"}] * 2


def test_equal_requests_are_resolved_once(planned):
    planned()
    assert len(planned.asked) == 8  # two of each step: stage 1 and its test by itc, stage 2 and its test by start


def test_a_metric_of_a_pattern_is_known(planned):
    made = planned(GRID.replace("vqa/accuracy]", "vqa/type_count]"))
    assert made.cells[0].metrics["vqa/type_count"] == "vqa/itc=on,start=stage1,seed=0"


def test_a_metric_that_no_cell_can_write_is_refused(planned):
    with pytest.raises(ValueError, match=r"no cell can write: caption/ciderr\. Its steps write retrieval/itc_txt_r1"):
        planned(GRID.replace("vqa/accuracy]", "caption/ciderr]"))


EXPECTED = """
expect:
  text: ITC helps.
  comparisons: [{metric: METRIC, better: {itc: on}, than: {itc: off}, by: .05, at: STEP}]
"""


def expecting(metric: str, step: int) -> str:
    return GRID + EXPECTED.replace("METRIC", metric).replace("STEP", str(step))


def test_what_is_expected_stands_in_the_plan(planned):
    made = planned(expecting("vqa/accuracy", 4))
    assert made.expect == "ITC helps." and made.expected[0].than == {"itc": "off", "start": "stage1"}
    assert Plan.model_validate_json(made.model_dump_json()).expected == made.expected


def test_an_expectation_of_what_is_not_validated_is_refused(planned):
    with pytest.raises(ValueError, match=r"expect at 2, itc=on,start=stage1: .*metric 'vqa/acuracy' is not known, did"):
        planned(expecting("vqa/acuracy", 2))
    with pytest.raises(ValueError, match=r"expect at 2, itc=off,start=stage1: .*'retrieval/itc_txt_r1' is not known"):
        planned(expecting("retrieval/itc_txt_r1", 2))
    with pytest.raises(ValueError, match=r"expect at 3, itc=on,start=stage1: stage2 is not validated .* at 2, 4, 6\n"):
        planned(expecting("vqa/accuracy", 3))


def test_an_expectation_of_what_a_setting_cannot_have_is_refused(planned):
    text = expecting("retrieval/itc_txt_r1", 2).replace(", at: 2", "")
    with pytest.raises(ValueError, match=r"expect, itc=off,start=stage1: its cells cannot have retrieval/itc_txt_r1$"):
        planned(text)


def test_a_step_that_no_cell_runs_is_said(planned, tmp_path):
    assert planned().left_out == []
    text = GRID.replace("vqa: {test: stage2}", "vqa: {test: stage2}\n  again: {test: stage1}").replace(
        "metrics: [retrieval/itc_txt_r1, vqa/accuracy]", "metrics: [vqa/accuracy]"
    )
    said = [f"step {step}: no metric that is compared is of it, so no cell runs it" for step in ("retrieval", "again")]
    assert planned(text).left_out == said
    caption = "\n".join(dry_run(read_grid(tmp_path / "trial.yaml"), Folder(tmp_path / "none" / "sweep")).lines)
    assert caption.startswith("\n".join(f"left out: {line}" for line in said) + "\ntime: not known")


def test_a_test_s_figure_beside_a_validation_s_is_refused(planned, tmp_path):
    planned()
    grid = read_grid(tmp_path / "trial.yaml")
    of = {"retrieval/itc_txt_r1": "retrieval", "vqa/accuracy": None}
    plan.check_providers(grid, {"itc=on,seed=0": of, "itc=off,seed=0": of | {"retrieval/itc_txt_r1": None}})
    with pytest.raises(ValueError, match="itc_txt_r1 would come from retrieval in itc=on, stage1 in itc=off: one is a"):
        plan.check_providers(grid, {"itc=on,seed=0": of, "itc=off,seed=0": of | {"retrieval/itc_txt_r1": "stage1"}})


def test_a_dry_run_says_what_is_made_first_and_what_is_not_there_yet(planned, tmp_path):
    planned("prepare: [data make-mini --out data/mini]" + GRID)
    found = dry_run(read_grid(tmp_path / "trial.yaml"), Folder(tmp_path / "none" / "sweep"))
    assert found.starts and found.lines == [
        "first, if not done:",
        "  python -m lit_blip2 data make-mini --out data/mini",
        "time: not known, no stage1 of this size has been run here",
        "NOT THERE, and the sweep stops before its first step unless the commands above make it:",
        "  retrieval: missing: a.yaml.json",
        "  vqa: missing: b.yaml.json",
    ]
    assert [each["files"] for each in planned.asked] == [True] * 8 + [False] * 8
    planned(GRID)
    assert not dry_run(read_grid(tmp_path / "trial.yaml"), Folder(tmp_path / "none" / "sweep")).starts


def test_a_dry_run_has_a_line_for_each_setting_and_the_time_that_is_left(planned, tmp_path):
    """Of eight cells, whose stage 1 is done with ITC and whose other steps have been run beside this sweep."""
    made, here, beside = planned(), Folder(tmp_path / "sweeps" / "here"), Folder(tmp_path / "sweeps" / "beside")
    write(here.plan, made)
    write(beside.plan, made)
    now = datetime.now(UTC)
    how = {"steps": 7, "peak_memory_gib": 1.0, "attempts": 1, "began": now, "ended": now}
    for name, run in made.steps.items():
        folder = here if name.startswith("stage1/itc=on") else beside
        folder.run(name).mkdir(parents=True)
        write(folder.done(name), Done(key=run.key, seconds=60.0 if run.step == "stage2" else 10.0, **how))
    table, lines, _ = dry_run(read_grid(tmp_path / "trial.yaml"), here, workers=2)
    columns = [list(column.cells) for column in table.columns]
    assert columns[0] == [f"itc={itc},start={start}" for itc in ("on", "off") for start in ("stage1", "none")]
    assert columns[1] == ["0, 1"] * 4 and columns[3] == ["", "", "retrieval/itc_txt_r1", "retrieval/itc_txt_r1"]
    assert columns[2][:2] == ["stage1 x2, retrieval x2, stage2, vqa", "stage1 x2, retrieval x2, stage2 x2, vqa x2"]
    left = [run for name, run in made.steps.items() if not name.startswith("stage1/itc=on")]
    seconds = sum(60 if run.step == "stage2" else 10 for run in left) / 2
    assert f"time: about {duration(seconds)} on 2 workers, by what steps" in "\n".join(lines)


def test_a_dry_run_that_lacks_a_model_says_what_would_make_it(planned, tmp_path):
    text = GRID.replace("off: {stage1.model.itc: null}", "off: {stage1.model.bad: 1}")
    with pytest.raises(ValueError):
        planned("prepare: [data make-models --only bert]" + text)
    with pytest.raises(ValueError, match="a dry run does not:\n  python -m lit_blip2 data make-models --only bert"):
        dry_run(read_grid(tmp_path / "trial.yaml"), Folder(tmp_path / "none" / "sweep"))


def test_every_setting_that_is_refused_is_named_with_its_command(planned):
    text = GRID.replace("off: {stage1.model.itc: null}", "off: {stage1.model.bad: 1}")
    with pytest.raises(ValueError) as error:
        planned(text)
    assert "itc=off,start=stage1, step stage1 (and 3 more such steps): Option 'bad' is not accepted" in str(error.value)
    assert "--config a.yaml --model.bad=1" in str(error.value)


def test_what_is_wrong_in_each_setting_is_told_once(planned):
    text = GRID.replace("{fit: a.yaml}", "{fit: a.yaml, set: {model.bad: 1}}")
    with pytest.raises(ValueError) as error:
        planned(text)
    first, *more = str(error.value).splitlines()[1:]
    assert re.fullmatch(r"  - \S+, step stage1 \(and \d+ more such steps\): Option 'bad' is not accepted", first)
    assert len(more) == 1 and "--model.bad=1" in more[0]


def test_a_run_s_yaml_points_to_its_parent_and_writes_into_its_own_folder(planned, tmp_path):
    made, folder = planned(), Folder(tmp_path)
    write_config(made.steps["stage2/itc=on,start=stage1,seed=0"], folder)
    config = yaml.safe_load(folder.config("stage2/itc=on,start=stage1,seed=0").read_text())
    assert config["model"]["init_from"] == str(tmp_path / "runs/stage1/itc=on,seed=0")
    where = config["trainer"]["logger"]["init_args"]
    assert "/".join([where["save_dir"], where["name"], where["version"]]) == str(
        tmp_path / "runs/stage2/itc=on,start=stage1,seed=0"
    )


def test_the_key_changes_with_data_files_code_and_parents(planned, monkeypatch, tmp_path):
    def keys():
        for cached in (sharing._of_path, sharing._paths):
            cached.cache_clear()
        return {name: run.key for name, run in planned(text).steps.items()}

    data = tmp_path / "world"
    data.mkdir()
    (data / "captions.json").write_text("[1]")
    text = GRID.replace("fit: a.yaml", f"fit: a.yaml, set: {{model.root: {data}}}")
    first = keys()
    assert keys() == first
    (data / "captions.json").write_text("[2]")
    changed = keys()
    assert {name for name in first if first[name] == changed[name]} == {
        name for name in first if "start=none" in name
    }  # all else stands on stage 1, which names the folder
    monkeypatch.setattr(sharing, "code_digest", lambda config: "other")
    assert not set(keys().values()) & set(changed.values())


def test_what_a_step_shows_and_where_it_logs_decide_nothing():
    def key(*callbacks: str, **trainer) -> str:
        named = {"callbacks": [{"class_path": each} for each in callbacks]}
        return sharing.step_key("fit", {"trainer": named | trainer}, {}, {}, "")

    own = key("Checkpoints", "lightning.pytorch.callbacks.RichProgressBar")
    assert own == key("Checkpoints", "lit_blip2.lit.callbacks.StepProgressBar", logger="x") == key("Checkpoints")
    assert own not in (key(), key("Checkpoints", "EMA"), key("Checkpoints", max_steps=3))


def test_images_are_told_apart_by_size_and_texts_by_content(tmp_path):
    def digest(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return fingerprint.of_path(str(tmp_path))

    assert digest("a.json", b"1") != digest("a.json", b"2")
    assert digest("b.png", b"1") == digest("b.png", b"2") != digest("b.png", b"33")


def test_every_string_that_names_a_file_counts_and_what_is_written_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mini", "kept", "out", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "w.safetensors").touch()
    config = {
        "data": {"init_args": {"root": "mini", "features": "../kept"}},
        "model": {"weights": "w.safetensors", "absent": "x.bin", "empty": "", "long": "y" * 5000},
        "trainer": {"default_root_dir": "out", "logger": {"save_dir": "runs"}, "accelerator": "cpu"},
    }
    assert fingerprint.paths(config) == ["mini", "mini/../kept", "w.safetensors"]


def test_of_a_data_root_only_what_is_named_below_it_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mini/annotations/train.json", "mini/annotations/more.json", "mini/images/val/1.jpg", "w.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    data = {"root": "mini", "train": "annotations/train.json", "images": "images/{split}", "features": "features"}
    config = {"data": {"init_args": data}, "model": {"weights": "w.bin", "word": "."}}
    assert fingerprint.paths(config) == [".", "mini/annotations/train.json", "mini/images/val", "w.bin"]
    (tmp_path / "mini" / "features").mkdir()
    assert "mini/features" in fingerprint.paths(config)


def test_features_that_are_made_again_are_the_same(tmp_path):
    """They differ in their last bits, in the times of the images, and in the check sums of both."""

    def made(crc: int, shard: bytes, encoder: str = "vit", ids: bytes = b"ids", lock: str = "") -> str:
        section = tmp_path / "features" / "train"
        section.mkdir(parents=True, exist_ok=True)
        (section / "features.json").write_text(json.dumps({"made_by": {"encoder": encoder}, "crc32": {"a": crc}}))
        (section / "00000.safetensors").write_bytes(shard)
        (section / "image_ids.npy").write_bytes(ids)
        (tmp_path / "features" / ".lock").write_text(lock)
        return fingerprint.of_path(str(tmp_path / "features"))

    first = made(1, b"1")
    assert made(22, b"2", lock="held") == first
    assert first not in (made(1, b"1", encoder="vit_small"), made(1, b"1", ids=b"others"))


def test_files_behind_a_link_count(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "captions.json").write_text("[1]")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "real")
    before = fingerprint.of_path(str(tmp_path / "data"))
    (tmp_path / "real" / "captions.json").write_text("[2]")
    assert fingerprint.of_path(str(tmp_path / "data")) != before


def test_of_giants_samples_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "LARGEST_READ", 99)
    monkeypatch.setattr(fingerprint, "SAMPLE", 10)
    file, found = tmp_path / "weights.bin", set()
    for place in (0, 500, 995):
        content = bytearray(1000)
        content[place] = 1
        file.write_bytes(content)
        found.add(fingerprint.of_path(str(file)))
    assert len(found) == 3


def test_of_a_run_only_what_is_read_of_it_counts(tmp_path):
    run, saved = tmp_path / "mini_stage1" / "version_0", {"state_dict": {}, "global_step": 3, "config": "a: 1"}
    (run / "checkpoints").mkdir(parents=True)
    torch.save(saved, run / "checkpoints" / "last.ckpt")
    (run / "config.yaml").write_text("a: 1")
    before = [fingerprint.of_path(str(path)) for path in (run, run.parent)]
    (run / "events.out.tfevents.1").write_bytes(b"x")
    torch.save(saved | {"global_step": 2}, run / "checkpoints" / "step=2.ckpt")
    assert [fingerprint.of_path(str(path)) for path in (run, run.parent)] == before
    torch.save(saved | {"global_step": 4}, run / "checkpoints" / "last-v1.ckpt")
    assert not {fingerprint.of_path(str(path)) for path in (run, run.parent)} & {*before}


def test_gpus_are_wanted_only_by_runs_that_would_use_one(planned):
    made = planned()
    assert wants_gpus(made)
    for run in made.steps.values():
        run.config["trainer"]["accelerator"] = "cpu"
    assert not wants_gpus(made)


def test_a_run_of_another_key_is_not_taken_for_this_one(planned, tmp_path):
    run, folder = next(iter(planned().steps.values())), Folder(tmp_path)
    now = datetime.now(UTC)
    done = Done(key="another", seconds=1.0, steps=7, peak_memory_gib=1.0, began=now, ended=now, attempts=1)
    failure = Failure(key="another", step=run.name, message="x", log_tail=[])
    for file, saved in ((folder.done(run.name), done), (folder.failed(run.name), failure)):
        write(file, saved)
        with pytest.raises(ValueError, match="holds a run of other settings, data or sources"):
            step.run_step(run, folder, {}, lambda: False)
        file.unlink()


def test_a_step_does_not_begin_on_a_full_disk(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(step.shutil, "disk_usage", lambda root: type("Usage", (), {"free": 3 * 2**20}))
    with pytest.raises(OSError, match=r"3 MiB are free on the disk of .*, and a step needs 256: make room"):
        step.run_step(next(iter(planned().steps.values())), Folder(tmp_path), {}, lambda: False)
    assert not list(tmp_path.glob("runs/*"))


def test_a_sweep_of_other_libraries_is_refused(tmp_path, monkeypatch):
    known = Plan(name="x", axes={}, metrics=[], cells=[], steps={}, identity="", sources="", versions={"torch": "2.11"})
    monkeypatch.setattr(begin, "versions", lambda: {"torch": "2.15", "timm": "1.0"})
    with pytest.raises(ValueError, match=r"begun with torch 2\.11, now 2\.15: its cells would not be comparable"):
        begin.check_versions(known, Folder(tmp_path))


def test_sources_leave_the_sweep_s_own_room_out():
    files = [file for file in PACKAGE.rglob("*.py")]
    assert any("ablation" in file.parts for file in files) and len(sources()) == 16
