"""Stage 2 tied to a prompter: the term by hand, and a run.

Legend: B images, Q soft prompt positions, D language model width.
"""

from pathlib import Path

import pytest
import torch

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.inference import load
from lit_blip2.lit import AlignedStage2
from lit_blip2.lit.aligned import alignment
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.prompter import Prompter, save_prompter

pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_mean_of_squares_by_hand():
    prompt_BQD, wanted_BQD = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]]), torch.tensor([[[1.0, 4.0]], [[3.0, 0.0]]])
    assert alignment(prompt_BQD.requires_grad_(), wanted_BQD).item() == (0 + 4 + 9 + 0) / 4
    with pytest.raises(ValueError, match=r"soft prompts of \[1, 2\] numbers, the reference of \[3, 2\]"):
        alignment(prompt_BQD, torch.zeros(2, 3, 2))


@pytest.fixture
def reference(tmp_path, opt_folder):
    """Makes a prompter for a language model, of so many positions."""

    def make(num_tokens: int = 24, folder=opt_folder) -> str:
        language = LanguageModel(str(folder), dtype="float32")
        language.load()
        sizes = dict(num_tokens=num_tokens, hidden=8, layers=1, heads=2)
        save_prompter(Prompter(112, language.width, **sizes), tmp_path, language.signature)
        return str(tmp_path)

    return make


def aligned(reference: str, weight: float = 2.0) -> list[str]:
    own = ["--model.init_from=null", f"--model={AlignedStage2.__module__}.{AlignedStage2.__name__}"]
    return [*own, f"--model.reference={reference}", f"--model.align_weight={weight}"]


@pytest.mark.run
def test_a_run_learns_to_meet_the_reference_and_is_read_without_it(fit, reference, monkeypatch, world):
    seen, losses = [], AlignedStage2.losses
    monkeypatch.setattr(AlignedStage2, "losses", lambda self, batch: seen.append(losses(self, batch)) or seen[-1])
    run = fit("mini_opt", *aligned(folder := reference(), 50.0))
    for each in seen:
        torch.testing.assert_close(each["total"], each["lm"] + 50 * each["align"])
    assert seen[-1]["align"] < seen[0]["align"]
    checkpoint = read_checkpoint(run)
    assert all(key.startswith("net.bridge.") for key in checkpoint["state_dict"])
    for file in Path(folder).iterdir():
        file.unlink()
    fit("mini_opt", *aligned(folder), f"--ckpt_path={run}", command="test", runs=run.parent.parent)
    image = next((world / "images/test").iterdir())
    assert isinstance(load(run).caption(image), str)
    module = AlignedStage2.load_from_checkpoint(run, vqa_num_beams=2)
    assert (module.align_weight, module.generation.answering["num_beams"]) == (50.0, 2)


@pytest.mark.run
def test_a_reference_that_does_not_fit_is_refused(fit, reference, opt_folder):
    other = "lit_blip2/mini/weights/opt"
    with pytest.raises(ValueError, match="trained with the weights of another language model"):
        fit("mini_opt", *aligned(reference(folder=other)))
    with pytest.raises(ValueError, match=r"soft prompts of \[24, 16\] numbers, the reference of \[5, 16\]"):
        fit("mini_opt", *aligned(reference(5)))
