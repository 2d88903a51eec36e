"""The image encoder: second-to-last block, frozen or not."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from lit_blip2.model.vision import VisionEncoder

NAME = "vit_tiny_patch16_224"
ARGS = dict(img_size=32, patch_size=16, embed_dim=24, depth=3, num_heads=2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    safetensors.torch.save_file(timm.create_model(NAME, num_classes=0, **ARGS).state_dict(), file)
    return str(file)


def loaded(weights, **kwargs) -> VisionEncoder:
    encoder = VisionEncoder(NAME, weights, model_args=ARGS, **kwargs)
    encoder.load()
    return encoder


def test_output_is_that_of_the_second_to_last_block(weights):
    full = timm.create_model(NAME, num_classes=0, **ARGS).eval()
    full.load_state_dict(safetensors.torch.load_file(weights))
    images = torch.randn(2, 3, 32, 32)
    second_to_last = full.forward_intermediates(images, indices=[1], norm=False, return_prefix_tokens=True)[1][0]
    patches = second_to_last[0].flatten(2).transpose(1, 2)
    expected = torch.cat([second_to_last[1], patches], dim=1)
    torch.testing.assert_close(loaded(weights)(images), expected)
    assert loaded(weights).width == 24


def test_last_block_on_request(weights):
    images = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(loaded(weights)(images), loaded(weights, drop_last_blocks=0)(images))


def test_parameters_are_known_before_loading(weights):
    encoder = VisionEncoder(NAME, weights, model_args=ARGS)
    assert encoder.encoder is None
    counted = encoder.num_parameters
    encoder.load()
    assert counted == sum(p.numel() for p in encoder.parameters())


def test_frozen_stays_in_eval_without_gradients(weights):
    encoder = loaded(weights)
    torch.nn.ModuleList([encoder]).train()
    assert not any(module.training for module in encoder.modules())
    assert not encoder(torch.randn(1, 3, 32, 32)).requires_grad
    assert not any(p.requires_grad for p in encoder.parameters())


def test_unfrozen_learns(weights):
    encoder = loaded(weights, frozen=False).train()
    encoder(torch.randn(1, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_fingerprint_follows_weights_and_layer(weights, tmp_path):
    other = tmp_path / "other.safetensors"
    torch.manual_seed(1)
    safetensors.torch.save_file(timm.create_model(NAME, num_classes=0, **ARGS).state_dict(), other)
    prints = [
        VisionEncoder(NAME, file, model_args=ARGS, drop_last_blocks=drop).fingerprint()
        for file, drop in ((weights, 1), (str(other), 1), (weights, 0))
    ]
    assert prints[0] != prints[1] and prints[0] != prints[2]
    assert prints[0] == VisionEncoder(NAME, weights, model_args=ARGS).fingerprint()


def test_missing_weights_say_how_to_get_them():
    with pytest.raises(FileNotFoundError, match=r"eva_giant.*hf download timm/eva_giant.*vision.weights"):
        VisionEncoder("eva_giant_patch14_clip_224").load()
    with pytest.raises(FileNotFoundError, match=r"no file or folder 'nowhere.safetensors'"):
        VisionEncoder("eva_giant_patch14_clip_224", "nowhere.safetensors").load()


def test_too_many_blocks_dropped_is_named(weights):
    with pytest.raises(ValueError, match=r"drop_last_blocks=3.*3 blocks"):
        VisionEncoder(NAME, weights, model_args=ARGS, drop_last_blocks=3)


def test_low_precision_is_for_frozen_weights():
    with pytest.raises(ValueError, match="trainable weights stay float32"):
        VisionEncoder("eva_giant_patch14_clip_224", frozen=False, dtype="bfloat16")


def test_evas_file_of_lavis_gives_timms_features(tmp_path):
    """eva_vit_g.pth holds plain tensors of half precision, all blocks, and a head and a norm that nobody uses."""
    torch.manual_seed(0)
    sizes = dict(img_size=8, patch_size=4, embed_dim=16, depth=3, num_heads=2, mlp_ratio=2.0)
    whole = timm.create_model("eva_giant_patch14_clip_224", **sizes).half()
    state = {name: value for name, value in whole.state_dict().items() if not name.endswith("k_bias")}
    torch.save(state, tmp_path / "eva_vit_g.pth")
    safetensors.torch.save_file({name: value.float() for name, value in state.items()}, tmp_path / "timm.safetensors")
    images_BCHW = torch.randn(2, 3, 8, 8)
    features = []
    for file in ("eva_vit_g.pth", "timm.safetensors"):
        encoder = VisionEncoder("eva_giant_patch14_clip_224", str(tmp_path / file), model_args=sizes)
        encoder.load()
        features.append(encoder(images_BCHW))
    assert features[0].shape == (2, 5, 16) and torch.equal(*features)
    assert features[0].std() > 0.1


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_file_of_the_asked_size_is_taken_as_it_is(tmp_path, suffix):
    """Its positions are not interpolated to the model's own size and back."""
    torch.manual_seed(0)
    large = ARGS | {"img_size": 48}
    state = timm.create_model(NAME, num_classes=0, **large).state_dict()
    file = tmp_path / f"vit.{suffix}"
    safetensors.torch.save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    encoder = VisionEncoder(NAME, str(file), image_size=48, model_args=ARGS)
    encoder.load()
    assert torch.equal(encoder.encoder.pos_embed, state["pos_embed"])


def test_a_cut_file_is_said(weights, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(Path(weights).read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"cut\.safetensors is damaged or cut"):
        VisionEncoder(NAME, str(tmp_path / "cut.safetensors"), model_args=ARGS).load()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {"x": torch.ones(2)}, r"lacks cls_token \(\d+ such\)"),
        (
            lambda s: {k: v for k, v in s.items() if k != "blocks.1.mlp.fc1.weight"},
            r"lacks blocks\.1\.mlp\.fc1\.weight \(1",
        ),
        (lambda s: {k: v for k, v in s.items() if k != "pos_embed"}, r"lacks pos_embed \(1 such\)"),
        (lambda s: s | {"pos_embed": s["pos_embed"] * torch.nan}, r"holds no finite numbers in pos_embed \(1 such\)"),
        (lambda s: s | {"cls_token": torch.ones(1, 1, 25)}, r"other\.safetensors: Error\(s\)[\s\S]*cls_token"),
    ],
)
def test_a_file_that_does_not_hold_the_encoder_is_refused(weights, tmp_path, change, words):
    """timm leaves what a file lacks random; of the block and the norm that are left out, nothing is asked."""
    state = safetensors.torch.load_file(weights)
    safetensors.torch.save_file(change(state), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=words):
        loaded(str(tmp_path / "other.safetensors"))
    used = {key: value for key, value in state.items() if not key.startswith(("blocks.2.", "norm."))}
    safetensors.torch.save_file(used, tmp_path / "used.safetensors")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(str(tmp_path / "used.safetensors"))(images), loaded(weights)(images))


def test_what_is_no_file_of_weights_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is a folder: point --model\.net\.vision\.weights to the file in it"):
        loaded(str(tmp_path))
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth holds a list, where weights by name are wanted"):
        loaded(str(tmp_path / "list.pth"))


def test_checkpointed_blocks_give_the_same_gradients(weights):
    images, seen = torch.randn(2, 3, 32, 32), []
    for checkpointing in (False, True):
        encoder = loaded(weights, frozen=False, checkpointing=checkpointing).train()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x):
            loss = encoder(images).square().sum()
        loss.backward()
        seen.append((sum(kept), {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}))
    (plain, expected), (less, found) = seen
    assert less < 0.6 * plain
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_checkpointing_a_frozen_encoder_is_refused():
    with pytest.raises(ValueError, match="checkpointing=true with frozen=true"):
        VisionEncoder(NAME, model_args=ARGS, checkpointing=True)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_what_is_no_vit_is_said(name):
    with pytest.raises(ValueError, match=f"image encoder {name} has no blocks of one kind .*only timm's ViTs"):
        VisionEncoder(name)


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("nope", {}, r"encoder nope with model_args=\{\}: Unknown model"),
        (NAME, {"size": 3}, "unexpected keyword .*'size'"),
    ],
)
def test_an_unknown_name_or_argument_is_said(name, args, words):
    with pytest.raises(ValueError, match=words):
        VisionEncoder(name, model_args=args)


def test_an_encoder_without_absolute_positions_is_not_resized():
    with pytest.raises(ValueError, match=r"image_size=64: beit_base_patch16_224 has no absolute position embeddings"):
        VisionEncoder("beit_base_patch16_224", image_size=64, model_args=dict(embed_dim=16, depth=2, num_heads=2))


class Spy:
    """A pickle that would run code when it is read."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("image_size", [None, 64])
def test_a_pickle_with_code_in_it_is_refused_and_nothing_is_run(tmp_path, monkeypatch, image_size):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Spy()}, "bad.pth")
    encoder = VisionEncoder(NAME, "bad.pth", model_args=ARGS, image_size=image_size)
    with pytest.raises(ValueError, match="it holds more than tensors; nothing in it was executed") as found:
        encoder.load()
    assert not Path("executed").exists() and "weights_only" not in str(found.value)


def test_a_file_that_timm_has_downloaded_is_found_by_name(weights, tmp_path, monkeypatch):
    """As huggingface_hub lays it out: a folder of the repository, and in it one of each revision."""
    import shutil

    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    encoder = VisionEncoder(NAME, model_args=ARGS)
    with pytest.raises(FileNotFoundError, match="none given"):
        encoder.weights_file()
    repository = tmp_path / f"models--{timm.get_pretrained_cfg(NAME).hf_hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("abc")
    (repository / "snapshots/abc").mkdir(parents=True)
    shutil.copy(weights, repository / "snapshots/abc/model.safetensors")
    images = torch.randn(1, 3, 32, 32)
    encoder.load()
    assert torch.equal(encoder(images), loaded(weights)(images))
