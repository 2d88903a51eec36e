"""Low-rank changes of a frozen language model: nothing at first, they alone train, and merging keeps the function."""

from pathlib import Path

import pytest
import torch

from lit_blip2.model.language import LanguageModel
from lit_blip2.model.lora import merge_lora
from lit_blip2.network import kept_settings
from lit_blip2.settings import check_same

LORA = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.5}
PROMPTS, TARGETS = ["what is it ?"] * 2, ["a red circle", "blue"]


def loaded(folder, lora=None, **kwargs) -> LanguageModel:
    torch.manual_seed(0)
    language = LanguageModel(str(folder), **({"dtype": "float32"} | kwargs), lora=lora)
    language.load()
    return language


def loss(language: LanguageModel) -> torch.Tensor:
    return language.loss(None, language.tokenise(PROMPTS, TARGETS))[0]


def trained(language: LanguageModel) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in language.named_parameters() if p.requires_grad}


def test_at_first_they_change_nothing_and_they_alone_train(opt_folder):
    plain, changed = loaded(opt_folder), loaded(opt_folder, LORA)
    assert torch.equal(loss(plain), loss(changed))
    names = trained(changed)
    # Two layers' projections of 16 to 16, each by matrices of 2 x 16 and 16 x 2.
    assert len(names) == 4 and sum(p.numel() for p in names.values()) == 4 * 2 * 16 == changed.num_lora
    assert all(".lora_" in name for name in names)


def test_a_step_lowers_the_loss_and_merging_keeps_it(opt_folder):
    language = loaded(opt_folder, LORA | {"lora_dropout": 0.0})
    before = loss(language).mean()
    optimizer = torch.optim.Adam(trained(language).values(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        loss(language).mean().backward()
        optimizer.step()
    after = loss(language)
    assert after.mean() < before - 0.1
    words = language.generate(None, PROMPTS, num_beams=1)
    merge_lora(language.model)
    assert torch.allclose(loss(language), after, atol=1e-5)
    assert language.generate(None, PROMPTS, num_beams=1) == words
    assert language.model.state_dict().keys() == loaded(opt_folder).model.state_dict().keys()


@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_merging_into_a_shared_weight_leaves_the_other_layer_alone(opt_folder, layer):
    language = loaded(opt_folder, LORA | {"target_modules": [layer], "lora_dropout": 0.0})
    for parameter in trained(language).values():
        torch.nn.init.normal_(parameter)
    changed = loss(language)
    assert not torch.allclose(changed, loss(loaded(opt_folder)), atol=1e-2)
    merge_lora(language.model)
    torch.testing.assert_close(loss(language), changed)


@pytest.mark.parametrize(
    ("lora", "names"),
    [
        ({"modules_to_save": ["fc1"]}, r"fc1\.modules_to_save\.default\.weight \(2 such\)"),
        ({"bias": "all"}, r"\.bias \(\d+ such\)"),
        ({"trainable_token_indices": [1]}, "trainable_tokens_delta"),
    ],
)
def test_settings_that_would_train_more_are_refused(opt_folder, lora, names):
    with pytest.raises(ValueError, match=rf"lora would train .*{names}.* low-rank changes alone train here"):
        LanguageModel(str(opt_folder), lora=LORA | lora)


def test_changes_without_a_place_in_the_weights_are_not_merged():
    for lora, reason in (
        ({"target_modules": ["shared"]}, "shared cannot be merged: encoder and decoder share"),
        ({"target_modules": ["q"], "lora_bias": True}, "SelfAttention.q cannot be merged into it: .* no bias"),
    ):
        language = loaded("lit_blip2/mini/weights/t5", {"r": 2} | lora)
        with pytest.raises(ValueError, match=reason):
            merge_lora(language.model)


def test_their_dropout_alone_follows_training(opt_folder):
    language = loaded(opt_folder, LORA)
    language.train()
    modes = {name: module.training for name, module in language.model.named_modules()}
    assert any(modes.values()) and all("lora_dropout" in name for name, on in modes.items() if on)
    language.eval()
    assert not any(module.training for module in language.modules())


def test_beside_weights_of_16_bits_they_are_in_32(opt_folder):
    language = loaded(opt_folder, LORA, dtype="bfloat16")
    assert {p.dtype for p in trained(language).values()} == {torch.float32}
    assert loss(language).isfinite().all()


def test_what_cannot_be_changed_is_refused(opt_folder):
    with pytest.raises(ValueError, match="lora with bits=8, frozen=True"):
        LanguageModel(str(opt_folder), lora=LORA, bits=8)
    with pytest.raises(ValueError, match="no_such_layer"):
        LanguageModel(str(opt_folder), lora=LORA | {"target_modules": ["no_such_layer"]})
    with pytest.raises(ValueError, match=r"must be arguments of peft\.LoraConfig: .*'rank'"):
        LanguageModel(str(opt_folder), lora=LORA | {"rank": 2})


@pytest.mark.parametrize("extra", [{"use_rslora": True}, {"alpha_pattern": {"q_proj": 8}}, {"fan_in_fan_out": True}])
@pytest.mark.parametrize("older", [False, True])
def test_a_setting_that_one_side_names_alone_is_compared(opt_folder, extra, older):
    theirs, ours = ({"net.language." + k: v for k, v in LanguageModel(str(opt_folder), lora=lora).settings().items()}
                    for lora in (LORA, LORA | extra | {"lora_dropout": 0.0}))  # fmt: skip
    if older:  # a checkpoint with the settings that were given alone
        theirs = {name: value for name, value in theirs.items() if name.rpartition(".")[2] in ("model_type", *LORA)}
    theirs = kept_settings({"settings": theirs}, Path("x.ckpt"), ())
    with pytest.raises(ValueError, match=rf"other settings: net\.language\.lora\.{next(iter(extra))} .*, here"):
        check_same(theirs, ours, "x.ckpt")
    assert check_same(theirs, {name: theirs[name] for name in ours}, "x.ckpt") == []
    same = LanguageModel(str(opt_folder), lora=LORA | {"bias": "none", "use_rslora": False}).settings()
    assert check_same(theirs, {"net.language." + name: value for name, value in same.items()}, "x.ckpt") == []
