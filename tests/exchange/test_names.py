"""Every weight finds its place on the other side, and means the same there."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lit_blip2.exchange import encoders, lavis, names
from lit_blip2.model.text import PackedText
from lit_blip2.model.vision import VisionEncoder, build, resize
from tests.exchange.conftest import VIT

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
    parts = lavis.read(lavis.state_of({}, ours, None), Path("vitl.pth"))
    assert parts.net["vision"] == {"model_args": {"depth": 2, "img_size": 8}, "drop_last_blocks": 0}
    assert all(torch.equal(parts.encoder[name], value) for name, value in ours.items())
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
