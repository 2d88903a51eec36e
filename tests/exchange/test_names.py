"""Every weight finds its place on the other side, and means the same there."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lit_blip2.exchange import encoders, lavis, names
from lit_blip2.model.text import PackedText
from lit_blip2.model.timm_network import build, resize
from lit_blip2.model.vision import VisionEncoder
from tests.exchange.tiny import VIT

IDS_22 = torch.tensor([[1, 5, 6, 7], [1, 8, 9, 10]])


@pytest.fixture
def moved(hf_retrieval, stage1):
    """(our network with Hugging Face's weights, what of theirs was used, what of ours it lacks)."""
    theirs = hf_retrieval.state_dict()
    encoder, seen = encoders.from_hf(theirs)
    ours, used = names.ours_from(theirs, "hf", names.rules(3))
    net = stage1(encoder)
    net.load_state_dict(ours, strict=False)
    return net, used | seen, {name for name, _ in net.named_parameters()} - ours.keys()


def test_each_of_their_weights_is_used_and_ours_lack_what_they_have_not(moved, hf_retrieval):
    net, used, missing = moved
    assert used.keys() == hf_retrieval.state_dict().keys()
    lacking = {name for name in missing if not name.startswith("vision.")}
    assert lacking == {"itc.temperature", *(name for name, _ in net.named_parameters() if name.startswith("itg."))}


@torch.no_grad()
def test_logits_of_both_heads_are_equal(moved, hf_retrieval):
    net, _, _ = moved
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    given = dict(pixel_values=images, input_ids=IDS_22, attention_mask=torch.ones_like(IDS_22))
    query_BQP, image = net.encode_images(net.vision(images))
    text = PackedText.from_lists(IDS_22.tolist())
    theirs = hf_retrieval(**given, use_image_text_matching_head=True)
    torch.testing.assert_close(net.match_logits(image, text), theirs.logits_per_image, rtol=0, atol=1e-5)
    cosine_BBQ = torch.einsum("bqp,cp->bcq", query_BQP, net.encode_texts(text))
    theirs = hf_retrieval(**given, use_image_text_matching_head=False)
    torch.testing.assert_close(cosine_BBQ.amax(-1), theirs.logits_per_image, rtol=0, atol=1e-5)


def test_the_way_back_is_equal_to_the_last_bit(hf_retrieval):
    theirs = hf_retrieval.state_dict()
    encoder, _ = encoders.from_hf(theirs)
    ours, _ = names.ours_from(theirs, "hf", names.rules(3))
    back, homeless = names.theirs_from(ours, "hf", names.rules(3))
    back |= encoders.to_hf(encoder)
    assert not homeless and back.keys() == theirs.keys()
    for key, value in back.items():
        if key.endswith("qkv.bias"):  # the keys' third is not kept: softmax does not see it
            assert torch.equal(value[[0, -1]], theirs[key][[0, -1]]) and not value.chunk(3)[1].any()
        else:
            assert torch.equal(value, theirs[key]), key


def test_lavis_names_go_both_ways_with_all_that_hugging_face_drops(stage1, hf_retrieval):
    net = stage1(encoders.from_hf(hf_retrieval.state_dict())[0])
    ours = {name: value for name, value in net.state_dict().items() if not name.startswith("vision.")}
    theirs, homeless = names.theirs_from(ours, "lavis", names.rules(3))
    assert not homeless
    assert theirs.keys() >= {
        "temp", "query_tokens", "ln_vision.bias", "Qformer.bert.encoder.layer.2.crossattention.self.key.weight",
        "Qformer.bert.encoder.layer.0.intermediate_query.dense.bias", "Qformer.cls.predictions.bias", "itm_head.weight",
        "Qformer.bert.embeddings.LayerNorm.weight", "Qformer.cls.predictions.transform.LayerNorm.bias",
    }  # fmt: skip
    again, used = names.ours_from(theirs, "lavis", names.rules(3))
    assert used.keys() == theirs.keys() and again.keys() == ours.keys()
    assert all(torch.equal(again[name], ours[name]) for name in ours)


@pytest.mark.parametrize("family, key", [("opt", "opt_proj"), ("t5", "t5_proj"), ("llm", "llm_proj")])
def test_stage_2_has_the_projection_of_its_language_model(family, key):
    theirs = {f"{key}.weight": torch.randn(3, 2), f"{key}.bias": torch.randn(3), "ln_vision.weight": torch.randn(4)}
    ours, used = names.ours_from(theirs, "lavis", names.rules(0, family))
    assert set(ours) == {"bridge.projection.weight", "bridge.projection.bias", "bridge.qformer.ln_vision.weight"}
    assert used.keys() == theirs.keys()


@torch.no_grad()
def test_positions_for_larger_images_are_interpolated_as_hugging_face_does(hf_retrieval, stage1, tmp_path):
    stage1(encoders.from_hf(hf_retrieval.state_dict())[0])  # writes the encoder's file
    file, sizes = str(tmp_path / "vit.safetensors"), dict(model_args=VIT, drop_last_blocks=0)
    larger = VisionEncoder("eva_giant_patch14_clip_224", file, image_size=20, **sizes)
    larger.load()
    images = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    embeddings = hf_retrieval.vision_model.embeddings
    positions = embeddings.interpolate_pos_encoding(torch.zeros(1, 26, 16), 20, 20)
    torch.testing.assert_close(larger.encoder.pos_embed, positions, rtol=0, atol=1e-6)
    theirs = hf_retrieval.vision_model(images, interpolate_pos_encoding=True).last_hidden_state
    norm = hf_retrieval.vision_model.post_layernorm
    ours = torch.nn.functional.layer_norm(larger(images), (16,), norm.weight, norm.bias, 1e-6)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_file_of_larger_positions_is_taken_as_it_is(hf_retrieval, stage1, tmp_path):
    """As a fine-tuned encoder's: there and back again would blur them."""
    encoder = encoders.from_hf(hf_retrieval.state_dict())[0] | {"pos_embed": torch.randn(1, 26, 16)}
    save_file({name: value.contiguous() for name, value in encoder.items()}, tmp_path / "large.safetensors")
    sizes = dict(model_args=VIT, drop_last_blocks=0, image_size=20)
    made = VisionEncoder("eva_giant_patch14_clip_224", str(tmp_path / "large.safetensors"), **sizes)
    made.load()
    assert torch.equal(made.encoder.pos_embed, encoder["pos_embed"])


def test_clips_vit_has_openais_names_as_timm_reads_them():
    """timm converts OpenAI's own files; what it makes of ours is what it had."""
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    torch.manual_seed(0)
    sizes = dict(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2)
    vit = timm.create_model("vit_large_patch14_clip_quickgelu_224", num_classes=0, **sizes)
    vit.prune_intermediate_layers([1], prune_norm=True)
    ours = {name: torch.randn_like(value) for name, value in vit.state_dict().items()}
    theirs = encoders.to_clip(ours)
    assert {"class_embedding", "transformer.resblocks.1.attn.in_proj_weight", "ln_pre.bias"} <= theirs.keys()
    again = checkpoint_filter_fn({f"visual.{key}": value for key, value in theirs.items()}, vit)
    back, used = encoders.from_clip(theirs)
    assert again.keys() == back.keys() == ours.keys() and used.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(again[name], value) and torch.equal(back[name], value), name
    foreign = lavis.read(lavis.state_of({}, ours, None), Path("vitl.pth"))
    assert foreign.net["vision"] == {"model_args": {"depth": 2, "img_size": 8}, "drop_last_blocks": 0}
    assert all(torch.equal(foreign.encoder[name], value) for name, value in ours.items())
    with pytest.raises(ValueError, match=r"holds visual_encoder\.surprise \(1 such\), which has no place"):
        lavis.read(lavis.state_of({}, ours, None) | {"visual_encoder.surprise": torch.ones(1)}, Path("vitl.pth"))


@pytest.mark.parametrize("size", [364, 490])
def test_positions_at_the_sizes_of_fine_tuning_are_hugging_faces(size):
    """26 x 26 and 35 x 35 of 16 x 16, the class token's left as it is."""
    from transformers import Blip2VisionConfig
    from transformers.models.blip_2.modeling_blip_2 import Blip2VisionEmbeddings

    embeddings = Blip2VisionEmbeddings(Blip2VisionConfig(hidden_size=16, image_size=224, patch_size=14))
    torch.nn.init.normal_(embeddings.position_embedding)
    vit = build("eva_giant_patch14_clip_224", dict(embed_dim=16, depth=1, num_heads=2, mlp_ratio=2.0), 0)
    vit.pos_embed = torch.nn.Parameter(embeddings.position_embedding.detach().clone())
    resize(vit, size)
    grid = size // 14
    theirs = embeddings.interpolate_pos_encoding(torch.zeros(1, grid * grid + 1, 16), size, size)
    assert vit.pos_embed.shape == (1, grid * grid + 1, 16)
    torch.testing.assert_close(vit.pos_embed, theirs, rtol=0, atol=1e-6)


def as_lavis(key: str, value: torch.Tensor, projection: str) -> dict[str, torch.Tensor]:
    """What LAVIS calls a weight of Hugging Face's, written apart from the package's own tables."""
    if key.endswith("self_attn.qkv.bias"):
        place = key.replace("vision_model.encoder.layers", "visual_encoder.blocks").removesuffix("self_attn.qkv.bias")
        third = len(value) // 3
        return {f"{place}attn.q_bias": value[:third], f"{place}attn.v_bias": value[2 * third :]}
    for theirs, lavis_s in (
        ("vision_model.post_layernorm", "ln_vision"), ("vision_model.encoder.layers", "visual_encoder.blocks"),
        ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
        ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
        ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
        ("self_attn.projection", "attn.proj"), ("self_attn.qkv", "attn.qkv"), ("layer_norm", "norm"),
        ("qformer.layernorm", "Qformer.bert.embeddings.LayerNorm"), ("qformer.encoder", "Qformer.bert.encoder"),
        ("attention.attention", "attention.self"), ("language_projection", projection),
        ("vision_projection", "vision_proj"), ("text_projection", "text_proj"),
    ):  # fmt: skip
        key = key.replace(theirs, lavis_s)
    return {f"Qformer.bert.{key}" if key.startswith("embeddings.") else key: value}


@torch.no_grad()
@pytest.mark.parametrize("projection", ["", "opt_proj"])
def test_a_file_of_lavis_made_by_another_map_is_what_transformers_computes(projection, hf_retrieval, stage1):
    state = hf_retrieval.state_dict()
    if projection:
        heads = ("vision_projection", "text_projection", "itm_head", "embeddings.")
        state = {key: value for key, value in state.items() if not key.startswith(heads)}
        state |= {"language_projection.weight": torch.randn(5, 24), "language_projection.bias": torch.randn(5)}
        state = {
            key: value for key, value in state.items() if not re.search(r"layer\.\d\.(output|intermediate)\.", key)
        }
    file = {}
    for key, value in state.items():
        file |= as_lavis(key, value, projection)
    file |= {} if projection else {"temp": torch.tensor(0.05)}
    foreign = lavis.read(file, Path("x.pth"))
    ours, _ = names.ours_from(state, "hf", names.rules(3, "opt" if projection else None))
    ours |= {} if projection else {"itc.temperature": torch.tensor(0.05)}
    assert foreign.trained.keys() == ours.keys() and foreign.fate.keys() == file.keys()
    assert all(torch.equal(foreign.trained[name], ours[name]) for name in ours)
    net, images = stage1(foreign.encoder), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    norm = hf_retrieval.vision_model.post_layernorm
    seen = torch.nn.functional.layer_norm(net.vision(images), (16,), norm.weight, norm.bias, 1e-6)
    torch.testing.assert_close(seen, hf_retrieval.vision_model(images).last_hidden_state, rtol=0, atol=1e-5)
    back = lavis.state_of(foreign.trained, foreign.encoder, foreign.family)
    assert all(torch.equal(back[key], value) for key, value in file.items())


def lavis_block(x_BND: torch.Tensor, weights: dict[str, torch.Tensor], place: str, heads: int) -> torch.Tensor:
    """A block of EVA-CLIP as LAVIS has it: biases for queries and values, none for keys, put together at each step."""
    own = {key.removeprefix(place): value for key, value in weights.items() if key.startswith(place)}
    layer_norm, linear = torch.nn.functional.layer_norm, torch.nn.functional.linear
    width = x_BND.shape[-1]
    normed_BND = layer_norm(x_BND, (width,), own["norm1.weight"], own["norm1.bias"], 1e-6)
    bias = torch.cat([own["attn.q_bias"], torch.zeros_like(own["attn.v_bias"]), own["attn.v_bias"]])
    qkv = (
        linear(normed_BND, own["attn.qkv.weight"], bias).reshape(*x_BND.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
    )
    logits = (qkv[0] * (width // heads) ** -0.5) @ qkv[1].transpose(-2, -1)
    seen_BND = (logits.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(x_BND.shape)
    x_BND = x_BND + linear(seen_BND, own["attn.proj.weight"], own["attn.proj.bias"])
    normed_BND = layer_norm(x_BND, (width,), own["norm2.weight"], own["norm2.bias"], 1e-6)
    hidden = torch.nn.functional.gelu(linear(normed_BND, own["mlp.fc1.weight"], own["mlp.fc1.bias"]))
    return x_BND + linear(hidden, own["mlp.fc2.weight"], own["mlp.fc2.bias"])


@torch.no_grad()
def test_eva_clip_of_a_lavis_file_computes_what_lavis_computes(stage1):
    """Patches, class token, positions and blocks written here; keys as LAVIS' file has them."""
    shapes = {
        n: v.shape for n, v in build("eva_giant_patch14_clip_224", VIT, 0).state_dict().items() if "k_bias" not in n
    }
    generator = torch.Generator().manual_seed(2)
    file = {f"visual_encoder.{n}": 0.2 * torch.randn(shape, generator=generator) for n, shape in shapes.items()}
    images = torch.randn(2, 3, 8, 8, generator=generator)
    own = {key.removeprefix("visual_encoder."): value for key, value in file.items()}
    patches = torch.nn.functional.conv2d(images, own["patch_embed.proj.weight"], own["patch_embed.proj.bias"], stride=4)
    x_BND = torch.cat([own["cls_token"].expand(2, -1, -1), patches.flatten(2).transpose(1, 2)], 1) + own["pos_embed"]
    for block in range(2):
        x_BND = lavis_block(x_BND, own, f"blocks.{block}.", heads=2)
    net = stage1(lavis.read(file, Path("x.pth")).encoder)
    torch.testing.assert_close(net.vision(images), x_BND, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (5,), (3, 3), (1, 7, 16)])
def test_a_wrong_size_in_a_file_of_lavis_is_no_traceback(hf_retrieval, shape):
    """Reading leaves it to the check of shapes, which names it."""
    file = {}
    for key, value in hf_retrieval.state_dict().items():
        file |= as_lavis(key, value, "")
    wrong = ("visual_encoder.pos_embed", "Qformer.bert.encoder.layer.0.attention.self.query.weight", "query_tokens")
    foreign = lavis.read(file | {key: torch.ones(shape) for key in wrong}, Path("x.pth"))
    assert foreign.encoder["pos_embed"].shape == shape
    assert foreign.trained["qformer.layers.0.attention.qkv.weight"].shape[0] == 1
    assert foreign.trained["qformer.query_tokens"].shape not in ((4, 24), shape)


def test_positions_that_do_not_count_up_are_refused():
    key = "Qformer.bert.embeddings.position_ids"
    with pytest.raises(ValueError, match=r"position_ids are not 0, 1, 2"):
        lavis.read({key: torch.ones(1, 3, dtype=torch.long)}, Path("x.pth"))
