"""A small world on disk and a short run of stage 1 on it, made once a session."""

import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from lit_blip2.cli import main
from lit_blip2.commands.mini import make_mini
from lit_blip2.lit.callbacks.pictures import Pictures
from lit_blip2.mini.vocabulary import t5_tokenizer

SHORT = [
    "--model.optimization.warmup_steps=1", "--trainer.max_steps=4", "--trainer.val_check_interval=2",
    "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    "--trainer.callbacks=[{class_path: RichProgressBar}, {class_path: ModelCheckpoint, "  # the bar must not clash
    "init_args: {save_last: true, save_top_k: -1, every_n_train_steps: 2}}]",
]  # fmt: skip


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mini"
    make_mini(folder, train=24, val=6, test=6, workers=1)
    return folder


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory):
    """A random T5 with the mini-world's words."""
    torch.manual_seed(0)
    folder, tokenizer = tmp_path_factory.mktemp("t5"), t5_tokenizer()
    sizes = dict(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    ids = dict(eos_token_id=tokenizer.eos_token_id, pad_token_id=0, decoder_start_token_id=0)
    T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes, **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def fit(world, opt_folder, tmp_path_factory):
    """Run a command of an experiment on the small world; gives the run's folder. Drawing takes a third of the time."""

    def run(experiment: str, *arguments: str, command="fit", runs=None, language=opt_folder, pictures=False):
        runs = runs or tmp_path_factory.mktemp("runs")
        common = [f"--trainer.logger.save_dir={runs}", f"--data.root={world}", "--data.eval_batch_size=4"]
        if experiment in ("mini_stage1", "mini_retrieval", "mini_joint"):
            common += ["--model.rerank=3"]
        if experiment not in ("mini_stage1", "mini_retrieval"):
            common += [f"--model.net.language.name={language}"]
        size = ["--data.batch_size=8"]
        with pytest.MonkeyPatch.context() as patch:
            if not pictures:
                patch.setattr(Pictures, "_show", lambda *_: None)
            main([command, "--config", f"experiments/{experiment}.yaml", *common, *size, *SHORT, *arguments])
        return max((runs / experiment).glob("version_*"), key=lambda folder: int(folder.name.split("_")[1]))

    return run


def digests(run: Path) -> dict[str, str]:
    """Of every file of a run, by its path in the run's folder."""
    files = (file for file in run.rglob("*") if file.is_file())
    return {str(file.relative_to(run)): sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="session")
def shared():
    """Give a trained run to several tests, for reading: one that writes into it fails the session (modes of files do
    not stop root)."""
    before = {}

    def share(run: Path) -> Path:
        before[run] = digests(run)
        return run

    yield share
    for run, files in before.items():
        written = {file for file, _ in digests(run).items() ^ files.items()}
        assert not written, f"tests share {run}, and one wrote {sorted(written)} there: give it a copy (own_copy)"


@pytest.fixture
def own_copy(tmp_path):
    """A copy of a shared run, for a test that evaluates it and so writes into its folder."""
    return lambda run: shutil.copytree(run, tmp_path / "own" / run.parent.name / run.name)


@pytest.fixture(scope="session")
def stage1_run(fit, shared):
    return shared(fit("mini_stage1"))


@pytest.fixture(scope="session")
def stage2_run(fit, shared, stage1_run):
    return shared(fit("mini_opt", f"--model.init_from={stage1_run}"))
