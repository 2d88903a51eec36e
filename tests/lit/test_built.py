"""What callbacks and subclasses may do to a network that has been built, and what no checkpoint would tell."""

import copy

import lightning as L
import pytest
import torch
from torch import nn

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.lit.built import Built
from lit_blip2.lit.stage2 import LitStage2

pytestmark = pytest.mark.filterwarnings("ignore")
LIVE = "--data.features=null"
EMA = "--trainer.callbacks+=lit_blip2.lit.callbacks.EMA"


class Change(L.Callback):
    """Does to the network, at one hook of a fit, what a callback of one's own might do."""

    def __init__(self, what: str, at: str = "on_fit_start"):
        self.what = what
        setattr(self, at, self.change)

    @torch.no_grad()
    def change(self, trainer, pl_module, *_):
        net = pl_module.net
        if self.what == "other weights":
            state = net.language.model.state_dict()
            net.language.model.load_state_dict({name: 1.5 * value for name, value in state.items()})
        if self.what == "one number":
            net.language.model.get_input_embeddings().weight.data[7, 3] += 0.25
        if self.what == "a changed copy":
            net.vision.encoder = copy.deepcopy(net.vision.encoder)
            net.vision.encoder.blocks[1].mlp.fc1.bias.add_(1)
        if self.what == "a wrapped layer":
            net.bridge.projection = nn.Sequential(net.bridge.projection, nn.LayerNorm(net.language.width))
        if self.what == "a freed encoder":
            net.vision.requires_grad_(True)
        if self.what == "a freed layer":
            net.language.model.model.decoder.layers[0].requires_grad_(True)


def change(what: str, at: str = "on_fit_start") -> str:
    given = f"what: '{what}', at: {at}"
    return f"--trainer.callbacks+={{class_path: tests.lit.test_built.Change, init_args: {{{given}}}}}"


@pytest.mark.parametrize(
    ("what", "at", "also", "message"),
    [
        (
            "other weights",
            "on_fit_start",
            [],
            r": net\.language is frozen, .*--model\.net\.language\.weights",
        ),
        ("one number", "on_train_start", [], r"embed_tokens\.weight changed"),
        ("other weights", "on_train_batch_end", [], r": net\.language is frozen"),
        ("a changed copy", "on_fit_start", [LIVE], r"fc1\.bias changed .*--model\.net\.vision\.weights"),
        ("a wrapped layer", "on_fit_start", [], r"hold net\.bridge\.projection\.0\.\w+, .* lack net\.bridge\.proj"),
        ("a wrapped layer", "on_fit_start", [EMA], r"would hold net\.bridge\.projection\.0"),
        ("a wrapped layer", "on_train_start", [EMA], r"would hold net\.bridge\.projection\.0"),
        ("a wrapped layer", "on_train_epoch_start", [EMA], r"EMA averages weights of a layer that is gone"),
        ("a wrapped layer", "on_train_batch_end", [], r"would hold net\.bridge\.projection\.0"),
        ("a freed encoder", "on_fit_start", [LIVE], r"--model\.net\.vision\.frozen=false"),
        ("a freed encoder", "on_train_batch_end", [LIVE], r"--model\.net\.vision\.frozen=false"),
        ("a freed layer", "on_fit_start", [], r"--model\.net\.language\.frozen=false"),
    ],
)
def test_what_no_checkpoint_would_tell_is_refused(fit, stage1_run, what, at, also, message):
    with pytest.raises(ValueError, match=message):
        fit("mini_opt", f"--model.init_from={stage1_run}", change(what, at), *also)


class OwnStage2(LitStage2):
    """Frees the biases of the language model, and adds a layer, wherever it is set up."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        for name, parameter in self.net.language.model.named_parameters():
            parameter.requires_grad_(name.endswith("fc1.bias"))
        self.net.bridge.projection = nn.Sequential(self.net.bridge.projection, nn.LayerNorm(self.net.language.width))


def test_a_subclass_may_free_and_add_what_it_does_for_every_command(fit, stage1_run):
    own = "--model=tests.lit.test_built.OwnStage2"
    run = fit("mini_opt", own, f"--model.init_from={stage1_run}", EMA)
    state = read_checkpoint(run)["state_dict"]
    assert "net.bridge.projection.1.weight" in state
    assert sum(name.startswith("net.language.") for name in state) == 1
    fit("mini_opt", own, f"--ckpt_path={run}", command="validate", runs=run.parents[1])


class Part(nn.Module):
    """A frozen part that tells a signature, with two layers that share a weight."""

    frozen = True

    def __init__(self):
        super().__init__()
        self.signature = {"signs": "", "numbers": []}
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.requires_grad_(False)


def test_the_same_weights_may_move_be_copied_wrapped_and_compiled():
    module = L.LightningModule()
    module.part, module.teacher = Part(), nn.Linear(2, 2)
    module.teacher.frozen = True  # no file tells its weights: it may be an average that changes at each step
    built = Built.of(module)
    for change in (
        lambda: module.to(torch.float64).to(torch.float32),
        lambda: setattr(module, "part", copy.deepcopy(module.part)),
        lambda: setattr(module.part, "a", nn.Sequential(module.part.a)),
        lambda: module.part.compile(),
        lambda: nn.init.zeros_(module.teacher.weight),
        lambda: setattr(module.part.a[0], "bias", nn.Parameter(module.part.a[0].bias.clone(), requires_grad=False)),
    ):
        change()
        built.check(module)
    module.part.a = nn.Identity()
    with pytest.raises(ValueError, match=r"changed .*: part is frozen"):
        built.check(module)


def test_a_part_that_nothing_had_loaded_may_be_loaded_later():
    """An encoder whose features are cached."""
    module = L.LightningModule()
    module.part = Part()
    layer, module.part.a, module.part.b = module.part.a, None, None
    built = Built.of(module)
    module.part.a = layer
    built.check(module)
