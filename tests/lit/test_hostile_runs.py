"""Runs of somebody else's making, given to every command that reads one, each in a process of its own: nothing that
they name is imported, and one line says what would have been."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

PROJECT = Path.cwd()
HOSTILE = """
import os
from pathlib import Path

Path(__file__).with_name("ran").touch()

from lit_blip2.lit import LitStage1, LitStage2
from lit_blip2.model.bridge import QFormerBridge


class Stage1(LitStage1):
    pass


class Stage2(LitStage2):
    pass


class Bridge(QFormerBridge):
    pass
"""


@pytest.fixture
def here(tmp_path):
    """A working folder that holds the module that hostile runs name."""
    (tmp_path / "hostile.py").write_text(HOSTILE)
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    return tmp_path


class Pickled:
    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def hostile(run: Path, here: Path, name: str, place: str = "model") -> Path:
    """A copy of a run whose checkpoints and config.yaml name a class of another module: as the model, or as the bridge.
    Its weights fit, and it keeps no settings, so its network is built to be compared."""
    copy = shutil.copytree(run, here / "sent" / run.parent.name / run.name)
    for file in copy.rglob("*.ckpt"):
        contents = torch.load(file, weights_only=True)
        config = yaml.safe_load(contents["config"])
        if place == "bridge":
            config["model"]["init_args"]["net"]["init_args"]["bridge"]["class_path"] = name
        else:
            config["model"]["class_path"] = name
        config["trainer"]["callbacks"] = [{"class_path": "hostile.Callback"}]
        config["data"]["class_path"] = "hostile.Data"
        contents |= {"config": yaml.safe_dump(config), "hyper_parameters": {"_class_path": name, "_instantiator": name}}
        del contents["settings"]
        torch.save(contents, file)
        (copy / "config.yaml").write_text(contents["config"])
    return copy


def told(here: Path, *arguments: object, status: tuple[int, ...] = (1, 2)) -> str:
    """What a command writes to standard error; it imported nothing of this folder."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "lit_blip2", *map(str, arguments)]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert not (here / "ran").exists()
    assert done.returncode in status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def check_refused(said: str, name: str) -> None:
    (line,) = [line for line in said.splitlines() if "--allow" in line]
    assert f" names {name}, " in line and f"add --allow {name}," in line and "last.ckpt" in line


def experiment(name: str, world: Path, here: Path, language: Path | None = None) -> list[str]:
    own = [f"--data.root={world}", f"--trainer.logger.save_dir={here}/runs", "--data.batch_size=8"]
    own += ["--trainer.max_steps=4", "--model.optimization.warmup_steps=1", "--trainer.val_check_interval=2"]
    own += [f"--model.net.language.name={language}"] if language else ["--model.rerank=3"]
    return ["--config", str(PROJECT / f"experiments/{name}.yaml"), *own]


ASK = ["ask", "--checkpoint", "{run}", "image.png", "what color is the star ?"]
CAPTION = ["caption", "--checkpoint", "{run}/checkpoints/last.ckpt", "image.png"]
EXPORT = ["export", "--checkpoint", "{run}", "--out", "out", "--to"]


@pytest.mark.run
@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("model", ASK),
        ("bridge", [*EXPORT, "lavis"]),
        pytest.param("bridge", CAPTION, marks=pytest.mark.slow),
        pytest.param("model", [*EXPORT, "hf"], marks=pytest.mark.slow),
    ],
)
def test_a_run_is_asked_and_exported_without_its_code(stage2_run, here, place, command):
    name = {"model": "hostile.Stage2", "bridge": "hostile.Bridge"}[place]
    run = hostile(stage2_run, here, name, place)
    check_refused(told(here, *(each.format(run=run) for each in command)), name)


@pytest.mark.run
@pytest.mark.slow
def test_the_encoder_alone_is_exported_without_what_is_named_beside_it(stage2_run, here):
    run = hostile(stage2_run, here, "hostile.Bridge", "bridge")
    told(here, *(each.format(run=run) for each in [*EXPORT, "timm"]), status=(0,))


@pytest.mark.run
def test_params_does_not_import_what_a_runs_config_names(stage2_run, here):
    run = hostile(stage2_run, here, "hostile.Bridge", "bridge")
    assert "config.yaml names hostile.Bridge, " in told(here, "params", "--config", run / "config.yaml")


@pytest.mark.run
@pytest.mark.slow
@pytest.mark.parametrize("command", ["fit", "validate", "test", "--model.init_from"])
def test_a_run_is_evaluated_and_gone_on_from_without_its_code(stage1_run, world, here, command):
    run = hostile(stage1_run, here, "hostile.Stage1")
    how = [f"{command}={run}"] if command.startswith("--") else [f"--ckpt_path={run}"]
    command = "fit" if command.startswith("--") else command
    check_refused(told(here, command, *experiment("mini_stage1", world, here), *how), "hostile.Stage1")


@pytest.mark.run
@pytest.mark.slow
def test_predict_and_text_from_take_no_code_either(stage1_run, stage2_run, world, opt_folder, here):
    mini_opt = experiment("mini_opt", world, here, opt_folder)
    run = hostile(stage2_run, here, "hostile.Bridge", "bridge")
    check_refused(told(here, "predict", *mini_opt, f"--ckpt_path={run}"), "hostile.Bridge")
    texts = hostile(stage1_run, here, "hostile.Stage1")
    mini_vqa = experiment("mini_vqa", world, here, opt_folder)
    said = told(here, "fit", *mini_vqa, f"--model.init_from={stage2_run}", f"--model.text_from={texts}")
    check_refused(said, "hostile.Stage1")


@pytest.mark.run
@pytest.mark.slow
def test_report_and_compare_read_no_names(stage2_run, here):
    """Nor do they open a pickle in the place of numbers."""
    run, harmful = hostile(stage2_run, here, "hostile.Bridge", "bridge"), Pickled()
    harmful.file = here / "ran"
    np.savez(run / "items.npz", **{"vqa/accuracy:values": np.array([harmful], dtype=object)})
    told(here, "report", run)
    told(here, "compare", run, run)


@pytest.mark.run
@pytest.mark.slow
def test_a_pickle_in_the_place_of_a_checkpoint_is_not_run(stage1_run, world, here):
    run, harmful = hostile(stage1_run, here, "hostile.Stage1"), Pickled()
    harmful.file = here / "ran"
    file = run / "checkpoints" / "last.ckpt"
    torch.save(torch.load(file, weights_only=True) | {"more": harmful}, file)
    told(here, "ask", "--checkpoint", file, "image.png", "what ?")
    (here / "plain.ckpt").write_bytes(pickle.dumps(harmful))
    told(here, "caption", "--checkpoint", "plain.ckpt", "image.png")
    command = [sys.executable, "-m", "lit_blip2", "test", *experiment("mini_stage1", world, here)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run([*command, f"--ckpt_path={file}"], cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode and not (here / "ran").exists()


@pytest.mark.run
@pytest.mark.slow
def test_a_run_of_ones_own_classes_is_asked_with_allow_and_tested_with_its_yaml(
    stage1_run, stage2_run, world, opt_folder, here
):
    """What is refused of a stranger is one's own here."""
    (here / "hostile.py").rename(here / "mine.py")
    run = hostile(stage2_run, here, "mine.Bridge", "bridge")
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}

    def works(*arguments: object) -> str:
        command = [sys.executable, "-m", "lit_blip2", *map(str, arguments)]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert works("caption", "--checkpoint", run, "--allow", "mine", "image.png").strip()
    own = yaml.safe_load((PROJECT / "experiments/mini_opt.yaml").read_text())
    net = own["model"]["init_args"]["net"]
    net.get("init_args", net)["bridge"]["class_path"] = "mine.Bridge"
    (here / "mine.yaml").write_text(yaml.safe_dump(own))
    _, _, *more = experiment("mini_opt", world, here, opt_folder)
    works("test", "--config", "mine.yaml", *more, f"--ckpt_path={run}")
    mini_opt = experiment("mini_opt", world, here, opt_folder)
    works("validate", *mini_opt, f"--ckpt_path={run}", "--allow=mine.Bridge")


@pytest.mark.run
@pytest.mark.slow
@pytest.mark.parametrize("name", ["pictures", ".test.0.0.jsonl", "checkpoints/last.ckpt"])
def test_nothing_is_read_or_written_through_a_link_of_a_run(stage1_run, world, here, name):
    """A folder, or a file that is yet to be made, in which a test would leave something."""
    run = shutil.copytree(stage1_run, here / "sent/stage1/version_0")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(here / "theirs")
    if name.endswith("ckpt"):
        shutil.copy(stage1_run / name, here / "theirs")
    said = told(here, "test", *experiment("mini_stage1", world, here), f"--ckpt_path={run}")
    (line,) = [line for line in said.splitlines() if "by a link" in line]
    assert f"version_0/{name} leads out of {run}, to {here / 'theirs'}" in line
    assert name.endswith("ckpt") or not (here / "theirs").exists()
