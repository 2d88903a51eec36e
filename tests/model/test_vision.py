"""The image encoder: second-to-last block, frozen or not."""

import json
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from lit_blip2.model.timm_network import asks_for_same, same_network
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.network import as_asked_here
from lit_blip2.pixels import CLIP_MEAN, CLIP_STD, normalise

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


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "visual.trunk.", "module.visual.trunk."]
)
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_positions_are_found_under_whatever_name_timm_reads_them(tmp_path, prefix, wrapper):
    """What training on several ranks or a compiled network put in front is no part of a size."""
    torch.manual_seed(0)
    made = {size: timm.create_model(NAME, num_classes=0, **ARGS | {"img_size": size}).state_dict() for size in (32, 48)}
    for size, state in made.items():
        named = {f"{prefix}{name}": value for name, value in state.items()}
        torch.save({wrapper: named} if wrapper else named, tmp_path / f"{size}.pth")
    same, larger = (VisionEncoder(NAME, str(tmp_path / f"{n}.pth"), image_size=48, model_args=ARGS) for n in (48, 32))
    for encoder in (same, larger):
        encoder.load()
    assert torch.equal(same.encoder.pos_embed, made[48]["pos_embed"])
    grid = made[32]["pos_embed"][:, 1:].unflatten(1, (2, 2)).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(3, 3), mode="bicubic", align_corners=False)
    torch.testing.assert_close(larger.encoder.pos_embed[:, 1:], grid.flatten(2).mT)


def test_images_of_another_size_than_was_asked_for_are_refused():
    encoder = VisionEncoder("test_vit", weights="random", image_size=64)
    with pytest.raises(ValueError, match=r"data\.image_size=96, and .*vision\.image_size=64: set both"):
        encoder.output_shape(96)
    assert encoder.output_shape(64) == (17, 64)
    assert VisionEncoder("test_vit", weights="random").output_shape(96) == (37, 64)


def test_a_file_of_openais_clip_is_resized_as_others_are(tmp_path):
    args = ARGS | {"pre_norm": True, "depth": 2}
    theirs = {
        "visual.class_embedding": torch.randn(24),
        "visual.positional_embedding": torch.randn(5, 24),
        "visual.conv1.weight": torch.randn(24, 3, 16, 16),
    }
    for norm in ("ln_pre", "ln_post", *(f"transformer.resblocks.{n}.ln_{i}" for n in (0, 1) for i in (1, 2))):
        theirs |= {f"visual.{norm}.weight": torch.randn(24), f"visual.{norm}.bias": torch.randn(24)}
    for block in (0, 1):
        for name, shape in {"attn.in_proj_": (72, 24), "attn.out_proj.": (24, 24), "mlp.c_fc.": (96, 24)}.items():
            at = f"visual.transformer.resblocks.{block}.{name}"
            theirs |= {f"{at}weight": torch.randn(shape), f"{at}bias": torch.randn(shape[0])}
        at = f"visual.transformer.resblocks.{block}.mlp.c_proj."
        theirs |= {f"{at}weight": torch.randn(24, 96), f"{at}bias": torch.randn(24)}
    for prefix in ("", "module."):
        torch.save({f"{prefix}{name}": value for name, value in theirs.items()}, tmp_path / "clip.pth")
        encoder = VisionEncoder("vit_base_patch16_clip_224", str(tmp_path / "clip.pth"), image_size=48, model_args=args)
        encoder.load()
        grid = theirs["visual.positional_embedding"][1:].unflatten(0, (2, 2)).permute(2, 0, 1)[None]
        grid = torch.nn.functional.interpolate(grid, size=(3, 3), mode="bicubic", align_corners=False)
        torch.testing.assert_close(encoder.encoder.pos_embed[:, 1:], grid.flatten(2).mT)


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
    with pytest.raises(FileNotFoundError, match=r"is a folder without model\.safetensors: point --model\.net"):
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
def test_a_network_without_blocks_is_not_cut(name):
    with pytest.raises(ValueError, match=f"drop_last_blocks=1: {name} has no blocks of one width.* with 0 its last"):
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


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "cait_xxs24_224", "xcit_nano_12_p16_224"])
def test_an_encoder_without_positions_to_interpolate_is_not_resized(name):
    with pytest.raises(
        ValueError, match=rf"image_size=64: {name} has no absolute .* leave it null and give model_args"
    ):
        VisionEncoder(name, image_size=64, model_args=dict(embed_dim=16, depth=2, num_heads=2))


def test_a_network_of_maps_takes_any_size_without_being_told():
    with pytest.raises(
        ValueError, match=r"image_size=64: convnext_atto has no .* leave it null and set data\.image_size"
    ):
        VisionEncoder("convnext_atto", image_size=64, drop_last_blocks=0)
    assert VisionEncoder("convnext_atto", drop_last_blocks=0).output_shape(64)[0] == 4


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


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("vit_small_patch14_dinov2", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("deit_tiny_patch16_224", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("vit_base_patch16_siglip_224", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("vit_base_patch16_224", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("vit_base_patch32_clip_224.openai", CLIP_MEAN, CLIP_STD),
    ],
)
def test_each_encoder_has_its_own_mean_and_deviation(name, mean, std):
    encoder = VisionEncoder(name, model_args=ARGS)
    assert (encoder.mean, encoder.std, encoder.interpolation, encoder.size) == (mean, std, "bicubic", 32)


def test_published_encoders_have_clips_and_their_own_size():
    encoder = VisionEncoder("eva_giant_patch14_clip_224")
    assert (encoder.mean, encoder.std, encoder.interpolation, encoder.size) == (CLIP_MEAN, CLIP_STD, "bicubic", 224)
    assert VisionEncoder("vit_small_patch14_dinov2", model_args={"depth": 2}).size == 518


def test_pixels_are_normalised_with_what_the_folder_of_the_weights_says_or_the_settings(weights, tmp_path):
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    file = tmp_path / "vit.safetensors"
    file.write_bytes(Path(weights).read_bytes())
    card = {"mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.1], "interpolation": "bilinear"}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": card}))
    own, beside, told = loaded(weights), loaded(str(file)), loaded(str(file), mean=[0.1, 0.2, 0.3])
    assert own.mean == (0.5, 0.5, 0.5) and beside.interpolation == "bilinear"
    for encoder, mean, std in (
        (own, 0.5, 0.5),
        (beside, card["mean"], card["std"]),
        (told, [0.1, 0.2, 0.3], card["std"]),
    ):
        mean_311, std_311 = (torch.tensor(each).expand(3).view(3, 1, 1) for each in (mean, std))
        torch.testing.assert_close(encoder(pixels), encoder((pixels / 255 - mean_311) / std_311), rtol=0, atol=1e-5)
    prints = [each.fingerprint() for each in (own, beside, told)]
    assert prints[0] != prints[1] != prints[2]
    assert prints[1].items() >= card.items()


def test_pixels_follow_the_type_of_trainable_weights(weights):
    encoder = loaded(weights, frozen=False).to(torch.bfloat16)
    assert encoder(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).dtype == torch.bfloat16


def test_the_mini_worlds_encoder_has_clips():
    args = dict(img_size=64, patch_size=2, embed_dim=128, depth=4, num_heads=4)
    encoder = VisionEncoder("vit_tiny_r_s16_p8_224", "lit_blip2/mini/weights/vit.safetensors", model_args=args)
    assert (encoder.mean, encoder.std, encoder.size) == (CLIP_MEAN, CLIP_STD, 64)


TINY = dict(embed_dim=24, depth=3, num_heads=2)
BLOCKS = {  # of each family with blocks, arguments that make it small; tokens in front of the patches
    "vit_base_patch16_224": (TINY, 1),
    "vit_base_patch16_siglip_224": (TINY, 0),  # pools by attention, in a head that is not used
    "vit_base_patch16_rpn_224": (TINY, 0),  # averages
    "vit_relpos_small_patch16_224": (TINY, 0),
    "vit_base_patch14_reg4_dinov2": (TINY | {"img_size": 28}, 5),
    "deit3_small_patch16_224": (TINY, 1),
    "deit_tiny_distilled_patch16_224": (TINY, 2),
    "beit_base_patch16_224": (TINY, 1),
    "eva02_tiny_patch14_224": (TINY, 1),
    "vit_small_plus_patch16_dinov3": (TINY | {"img_size": 32}, 5),
    "cait_xxs24_224": (TINY, 0),
    "xcit_nano_12_p16_224": (TINY, 0),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("drop", [0, 1])
def test_of_every_family_with_blocks_a_blocks_output_comes_out(name, drop, tmp_path):
    args, prefix = BLOCKS[name]
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=0, **args).eval()
    safetensors.torch.save_file(whole.state_dict(), tmp_path / "x.safetensors")
    encoder = VisionEncoder(name, str(tmp_path / "x.safetensors"), model_args=args, drop_last_blocks=drop)
    encoder.load()
    seen = []
    whole.blocks[2 - drop].register_forward_hook(lambda module, given, output: seen.append(output))
    images = torch.randn(2, 3, encoder.size, encoder.size)
    with torch.no_grad():
        whole.forward_features(images)
    torch.testing.assert_close(encoder(images), seen[0])
    tokens, width = encoder.output_shape(encoder.size)
    assert seen[0].shape == (2, tokens, width) and encoder.width == width == 24
    assert (tokens - prefix) ** 0.5 % 1 == 0


MAPS = [
    "resnet10t",
    "convnext_atto",
    "efficientnet_lite0",
    "regnetx_002",
    "swin_tiny_patch4_window7_224",
    "test_byobnet",
]


@pytest.mark.parametrize("name", MAPS)
def test_feature_maps_become_tokens_row_by_row(name):
    with pytest.warns(UserWarning, match="RANDOM"):
        encoder = VisionEncoder(name, "random", drop_last_blocks=0)
    encoder.load()
    images = torch.randint(0, 256, (1, 3, encoder.size, encoder.size), dtype=torch.uint8)
    found = encoder(images)
    assert found.shape[1:] == encoder.output_shape(encoder.size) and found.shape[2] == encoder.width
    made = encoder.encoder.forward_features(normalise(images, encoder.mean, encoder.std))
    side = int(found.shape[1] ** 0.5)
    row_HW = made[0, 1] if made.shape[3] == encoder.width else made[0, :, 1].T
    torch.testing.assert_close(found[0, side : 2 * side], row_HW)


@pytest.mark.parametrize(
    "name",
    ["samvit_base_patch16_224", "crossvit_9_240", "twins_svt_small", "hiera_tiny_224", "levit_128s", "coat_tiny",
     "mvitv2_tiny", "pit_ti_224", "volo_d1_224", "tnt_s_legacy_patch16_224", "efficientformer_l1"],
)  # fmt: skip
def test_what_gives_neither_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"^image encoder {name} cannot be used: .*Take one of timm's ViTs"):
        VisionEncoder(name, drop_last_blocks=0)


def test_batch_normalisation_stays_frozen():
    VisionEncoder("resnet10t", drop_last_blocks=0)
    with pytest.raises(ValueError, match="frozen=false: image encoder resnet10t has batch normalisation"):
        VisionEncoder("resnet10t", drop_last_blocks=0, frozen=False)


def test_a_file_without_running_statistics_is_refused(tmp_path):
    state = timm.create_model("resnet10t", num_classes=0).state_dict()
    del state["bn1.running_var"]
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    with pytest.raises((ValueError, RuntimeError), match=r"bn1\.running_var"):
        VisionEncoder("resnet10t", str(tmp_path / "x.safetensors"), drop_last_blocks=0).load()


def test_random_weights_are_the_same_each_time_and_said():
    torch.manual_seed(3)
    state, made = torch.get_rng_state(), []
    for frozen in (True, False):
        with pytest.warns(UserWarning, match=rf"image encoder {NAME} has RANDOM weights"):
            encoder = VisionEncoder(NAME, "random", model_args=ARGS, frozen=frozen)
        encoder.load()
        made.append(encoder)
        assert encoder.fingerprint()["weights_sha256"] == "random"
    assert torch.equal(torch.get_rng_state(), state)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(made[0](images), made[1].eval()(images).detach()) and made[0](images).std() > 0.1


def test_weights_that_are_not_loaded_are_told_apart_all_the_same(tmp_path):
    """Cached features stand for an encoder that is never made; a checkpoint still says through which it looked."""
    one, other = (VisionEncoder("test_vit", weights="random"), VisionEncoder("test_vit", weights="random"))
    one.load()
    assert one.settings() == other.settings() and "weights" in one.settings() and other.encoder is None
    assert "weights" not in VisionEncoder("test_vit", weights=str(tmp_path / "none")).settings()
    safetensors.torch.save_file({k: v + 1 for k, v in one.encoder.state_dict().items()}, tmp_path / "model.safetensors")
    moved = VisionEncoder("test_vit", weights=str(tmp_path))
    assert moved.settings()["weights"] != one.settings()["weights"]


def written(folder: Path, name: str, args: dict, **card) -> Path:
    """Random weights of a timm network, in a folder as timm's on the hub."""
    torch.manual_seed(0)
    state = timm.create_model(name, num_classes=0, **args).state_dict()
    safetensors.torch.save_file(state, folder / "model.safetensors")
    if card:
        (folder / "config.json").write_text(json.dumps({"architecture": name} | card))
    return folder / "model.safetensors"


def test_images_are_as_large_as_the_folder_of_the_weights_says(tmp_path):
    args = {"embed_dim": 24, "depth": 2, "num_heads": 2}
    card = {"pretrained_cfg": {"input_size": [3, 96, 96]}}
    file = str(written(tmp_path, "test_vit", args | {"img_size": 96}, **card))
    encoder = VisionEncoder("test_vit", file, model_args=args)
    encoder.load()
    held = safetensors.torch.load_file(file)["pos_embed"]
    assert encoder.size == 96 and torch.equal(encoder.encoder.pos_embed, held)
    assert VisionEncoder("test_vit", file, image_size=64, model_args=args).size == 64
    assert VisionEncoder("test_vit", file, model_args=args | {"img_size": 128}).size == 128
    (tmp_path / "map").mkdir()
    maps = written(tmp_path / "map", "convnext_atto", {}, **card)
    assert VisionEncoder("convnext_atto", str(maps), drop_last_blocks=0).size == 96


def test_positions_are_interpolated_in_one_way_whoever_asks_for_another_size(weights, tmp_path):
    images = torch.randn(1, 3, 48, 48)
    asked, argument = (
        VisionEncoder(NAME, weights, image_size=48, model_args=ARGS),
        VisionEncoder(NAME, weights, model_args=ARGS | {"img_size": 48}),
    )
    torch.save({"state_dict": safetensors.torch.load_file(weights)}, tmp_path / "wrapped.pth")
    unasked = {name: value for name, value in ARGS.items() if name != "img_size"}
    wrapped = VisionEncoder(NAME, str(tmp_path / "wrapped.pth"), image_size=48, model_args=unasked)
    for encoder in (asked, argument, wrapped):
        encoder.load()
    before = safetensors.torch.load_file(weights)["pos_embed"]
    grid = before[:, 1:].unflatten(1, (2, 2)).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(3, 3), mode="bicubic", align_corners=False)
    expected = torch.cat([before[:, :1], grid.flatten(2).mT], dim=1)
    for encoder in (asked, argument, wrapped):
        torch.testing.assert_close(encoder.encoder.pos_embed, expected)
        assert torch.equal(encoder(images), asked(images))


def test_positions_of_another_size_are_told_of_where_nobody_asks(weights):
    unasked = {name: value for name, value in ARGS.items() if name != "img_size"}
    encoder = VisionEncoder(NAME, weights, model_args=unasked)
    with pytest.warns(UserWarning, match=rf"of 32 pixels, {NAME} has 224: .*image_size=224 if that is meant, or 32"):
        encoder.load()


@pytest.mark.parametrize(
    ("given", "words"), [({}, "'num_heads': 2, 'act_layer': 'silu'"), ({"num_heads": 2}, "'silu'")]
)
def test_weights_of_a_network_built_otherwise_are_refused(tmp_path, given, words):
    """Neither heads nor the activation show in shapes."""
    sizes = {"img_size": 32, "embed_dim": 24, "depth": 3}
    args = sizes | {"num_heads": 2, "act_layer": "silu", "drop_path_rate": 0.1, "qkv_bias": True}
    file = str(written(tmp_path, NAME, args, model_args=args))
    with pytest.raises(ValueError, match=rf"config\.json says that .* with \{{.*{words}.*set those too"):
        VisionEncoder(NAME, file, model_args=sizes | given)
    VisionEncoder(NAME, file, model_args=sizes | {"num_heads": 2, "act_layer": "silu"}).load()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_quantised_weights_are_refused(weights, tmp_path, suffix):
    state = safetensors.torch.load_file(weights)
    state["blocks.1.attn.qkv.weight"] = (state["blocks.1.attn.qkv.weight"] * 10).to(torch.int8)
    file = tmp_path / f"whole.{suffix}"
    safetensors.torch.save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    with pytest.raises(ValueError, match=r"holds whole numbers in blocks\.1\.attn\.qkv\.weight \(1 such\)"):
        loaded(str(file))


def test_a_file_with_a_moving_average_says_which_weights_are_read(weights, tmp_path):
    state = safetensors.torch.load_file(weights)
    averaged = {name: value + 1 for name, value in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": averaged}, tmp_path / "both.pth")
    with pytest.warns(
        UserWarning, match=r"holds state_dict_ema and state_dict: the weights of state_dict_ema are read"
    ):
        encoder = loaded(str(tmp_path / "both.pth"))
    assert torch.equal(encoder.encoder.cls_token, averaged["cls_token"])


def test_patches_of_another_size_are_told_of(tmp_path):
    args = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}
    file = str(written(tmp_path, NAME, args | {"patch_size": 8}))
    with pytest.warns(UserWarning, match=rf"has patches of 8 pixels, image encoder {NAME} of 16: timm resamples them"):
        VisionEncoder(NAME, file, model_args=args).load()


@pytest.mark.parametrize("positions", [torch.ones(()), torch.ones(5), torch.ones(1, 4, 24)])
def test_positions_that_are_no_square_behind_a_class_token_are_refused_by_name(weights, tmp_path, positions):
    state = safetensors.torch.load_file(weights) | {"pos_embed": positions}
    safetensors.torch.save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=r"odd\.safetensors"):
        loaded(str(tmp_path / "odd.safetensors"))


DEFAULTS = [
    {"mlp_ratio": 4.0},
    {"qkv_bias": True},
    {"act_layer": "gelu"},
    {"drop_path_rate": 0.2},
    {"init_values": None},
]


@pytest.mark.parametrize("more", DEFAULTS)
def test_arguments_that_spell_out_a_default_make_the_same_network(weights, more):
    assert same_network(NAME, ARGS | more, ARGS)
    known = VisionEncoder(NAME, weights, model_args=ARGS | more).fingerprint()
    plain = VisionEncoder(NAME, weights, model_args=ARGS)
    assert plain.fingerprint(known) == known != plain.fingerprint()


OTHERS = [
    {"act_layer": "relu"},
    {"qk_norm": True},
    {"no_embed_class": True},
    {"mlp_ratio": 3},
    {"norm_layer": "rmsnorm"},
]


@pytest.mark.parametrize("more", [*OTHERS, {"nope": 1}, {"pretrained": True}, {"act_layer": ["x"]}])
def test_arguments_that_make_another_network_do_not(weights, more):
    assert not asks_for_same(NAME, ARGS | more, ARGS)
    plain = VisionEncoder(NAME, weights, model_args=ARGS)
    assert plain.fingerprint(plain.fingerprint() | {"model_args": ARGS | more}) == plain.fingerprint()


def test_settings_of_a_network_that_was_asked_for_otherwise(weights):
    ours = {f"vision.{name}": value for name, value in VisionEncoder(NAME, weights, model_args=ARGS).settings().items()}
    theirs = ours | {"vision.model_args": ours["vision.model_args"] | {"mlp_ratio": 4}}
    assert as_asked_here(theirs, ours) == ours
    other = ours | {"vision.model_args": {**ours["vision.model_args"], "act_layer": "relu"}}
    assert as_asked_here(other, ours) == other
    renamed = theirs | {"vision.name": "vit_small_patch16_224"}
    assert as_asked_here(renamed, ours) == renamed


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"init_values": 0.1}, r"blocks\.0\.ls1\.gamma \(6 such\)"),
        ({"qk_norm": True}, r"blocks\.0\.attn\.q_norm\.\w+ \(12 such\)"),
        ({"depth": 4}, r"blocks\.3\.\S+ \(12 such\)"),
        ({"pre_norm": True, "patch_size": 16}, r"(lacks patch_embed\.proj\.bias|holds norm_pre\.\w+)"),
        ({"reg_tokens": 4, "no_embed_class": True}, "x.safetensors"),
    ],
)
def test_weights_that_the_network_has_no_place_for_are_refused(tmp_path, theirs, words):
    """Without them it computes another function."""
    whole = timm.create_model(NAME, **ARGS | theirs)
    safetensors.torch.save_file(whole.state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=words):
        loaded(str(tmp_path / "x.safetensors"))


def test_a_file_of_dinov2_under_a_name_without_layer_scale_is_refused(tmp_path):
    sizes = {"img_size": 28, "embed_dim": 24, "depth": 3, "num_heads": 2}
    whole = timm.create_model("vit_small_patch14_dinov2", **sizes)
    safetensors.torch.save_file(whole.state_dict() | {"mask_token": torch.zeros(1, 24)}, tmp_path / "x.safetensors")
    VisionEncoder("vit_small_patch14_dinov2", str(tmp_path / "x.safetensors"), model_args=sizes).load()
    other = VisionEncoder(NAME, str(tmp_path / "x.safetensors"), model_args=sizes | {"patch_size": 14})
    with pytest.raises(ValueError, match=r"ls1\.gamma \(6 such\), for which .* has no place: give the name"):
        other.load()


@pytest.mark.parametrize(
    "beside",
    [
        "head.weight", "head_dist.bias", "fc_norm.weight", "head.mlp.0.weight", "decoder_blocks.0.norm1.weight",
        "decoder_pos_embed", "mask_token", "lm_head.weight", "text.token_embedding.weight", "logit_scale",
        "transformer.resblocks.0.ln_1.weight", "positional_embedding", "attn_pool.q.weight", "text_projection",
        "AuxLogits.fc.weight", "blocks.0.attn.relative_position_index", "blocks.0.mlp.fc1.total_ops",
    ],
)  # fmt: skip
def test_what_a_file_holds_beside_its_encoder_is_left_out(weights, tmp_path, beside):
    """Classifiers, decoders of pretraining and the text half of a CLIP are no part of the features."""
    state = safetensors.torch.load_file(weights)
    safetensors.torch.save_file(state | {beside: torch.ones(2)}, tmp_path / "more.safetensors")
    assert torch.equal(loaded(str(tmp_path / "more.safetensors")).encoder.cls_token, state["cls_token"])


def test_a_classifier_is_left_out_where_timm_expects_none(tmp_path):
    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 28}
    whole = timm.create_model("eva02_tiny_patch14_336", **sizes)
    safetensors.torch.save_file(whole.state_dict(), tmp_path / "x.safetensors")
    encoder = VisionEncoder("eva02_tiny_patch14_224", str(tmp_path / "x.safetensors"), model_args=sizes)
    encoder.load()
    assert "head.weight" in whole.state_dict() and torch.equal(encoder.encoder.cls_token, whole.cls_token)


SWIN = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}


@pytest.mark.parametrize(
    ("theirs", "ours", "args", "drop", "table"),
    [
        ("beit_base_patch16_384", "beit_base_patch16_224", TINY, 1, "47 x 47"),
        ("swin_base_patch4_window12_384", "swin_base_patch4_window7_224", SWIN, 0, "23 x 23"),
    ],
)
def test_tables_of_relative_positions_of_another_size_are_told_of(tmp_path, theirs, ours, args, drop, table):
    state = timm.create_model(theirs, num_classes=0, **args).state_dict()
    safetensors.torch.save_file({name: value + 0.1 for name, value in state.items()}, tmp_path / "x.safetensors")
    file = tmp_path / "x.safetensors"
    with pytest.warns(UserWarning, match=rf"a table of positions of {table}, image encoder {ours} at 224 pixels has"):
        VisionEncoder(ours, str(file), model_args=args, drop_last_blocks=drop).load()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        VisionEncoder(theirs, str(file), model_args=args, drop_last_blocks=drop).load()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_swins_second_version_tells_its_window_by_its_coordinates(tmp_path, suffix):
    """It has no table to resample: by the same weights it computes one for each window."""
    whole, name = timm.create_model("swinv2_tiny_window16_256", num_classes=0, **SWIN), "swinv2_tiny_window{}_256"
    state = whole.state_dict() | {key: each for key, each in whole.named_buffers() if key.endswith("coords_table")}
    file = str(tmp_path / f"x.{suffix}")
    safetensors.torch.save_file(state, file) if suffix == "safetensors" else torch.save({"model": state}, file)
    with pytest.warns(
        UserWarning, match=r"table of positions of 31 x 31, image encoder swinv2_tiny_window8_256 at 256"
    ):
        VisionEncoder(name.format(8), file, model_args=SWIN, drop_last_blocks=0).load()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        VisionEncoder(name.format(16), file, model_args=SWIN, drop_last_blocks=0).load()


def test_a_depth_cuts_a_deeper_file_where_no_block_is_dropped(tmp_path):
    """All of three blocks are the first three of four; of three less one nobody can tell what is meant."""
    torch.manual_seed(0)
    state = timm.create_model(NAME, num_classes=0, **ARGS | {"depth": 4}).state_dict()
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    images = torch.randn(1, 3, 32, 32)
    cut, whole = (
        loaded(str(tmp_path / "x.safetensors"), drop_last_blocks=0),
        VisionEncoder(NAME, str(tmp_path / "x.safetensors"), model_args=ARGS | {"depth": 4}),
    )
    whole.load()
    assert torch.equal(cut(images), whole(images))
