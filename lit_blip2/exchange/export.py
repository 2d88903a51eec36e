"""A run of this suite as LAVIS' checkpoint, or as a folder of Hugging Face's class.

What the other side has no place for lies beside it in lit_blip2.safetensors (the temperature, ITG's head), so that
importing an export loses nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from lit_blip2.checkpoint import find_checkpoint, read_checkpoint
from lit_blip2.data.transforms import CLIP_MEAN, CLIP_STD
from lit_blip2.data.whole import written_whole
from lit_blip2.exchange import encoders, lavis, names
from lit_blip2.exchange.hugging_face import LANGUAGE, SIDE_FILE
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.params import build_net


class Run(NamedTuple):
    """net: on meta, for its sizes. trained: names without `net.` -> weights. encoder: timm's names -> weights."""

    net: Any
    trained: dict[str, Tensor]
    encoder: dict[str, Tensor]
    config: dict


def read_run(checkpoint: Path) -> Run:
    """A checkpoint or run folder of one stage. Raises ValueError for others, FileNotFoundError for missing weights."""
    contents = read_checkpoint(find_checkpoint(checkpoint))
    config = yaml.safe_load(contents.get("config") or "") or {}
    net = build_net(config)
    trained = {name.removeprefix("net."): value for name, value in contents["state_dict"].items()}
    if any(name.startswith(("stage1.", "stage2.")) for name in trained):
        raise ValueError(f"{checkpoint} was trained in both stages at once: no class of another project holds both")
    if not any("qformer.query_tokens" in name for name in trained):
        raise ValueError(f"{checkpoint} has no Q-Former, and the classes of other projects have no other bridge")
    seen = net.vision
    vision = VisionEncoder(seen.name, seen.weights, model_args=seen.model_args, drop_last_blocks=seen.drop_last_blocks)
    vision.load()
    own = {name.removeprefix("vision.encoder."): value for name, value in trained.items() if name.startswith("vision.")}
    trained = {name: value for name, value in trained.items() if not name.startswith("vision.")}
    keyless = {name: value for name, value in vision.encoder.state_dict().items() if not name.endswith("k_bias")}
    return Run(net, trained, keyless | own, config)


def to_lavis(checkpoint: Path, out: Path) -> dict[str, str]:
    """Write OUT, a .pth of LAVIS. Returns of each weight what became of it."""
    run = read_run(checkpoint)
    family = None
    if "bridge.projection.weight" in run.trained:
        run.net.language.load()
        family = "t5" if run.net.language.encoder_decoder else "opt"
    state = lavis.state_of(run.trained, run.encoder if _is_eva(run.encoder) else {}, family)
    with written_whole(out) as part:
        torch.save({"model": {name: value.contiguous() for name, value in state.items()}}, part)
    fate = dict.fromkeys(state, "written")
    if not _is_eva(run.encoder):
        fate["the image encoder"] = f"left out: LAVIS reads {run.net.vision.name} from its own file"
    return fate


def to_hugging_face(checkpoint: Path, out: Path) -> dict[str, str]:
    """Write OUT, a folder for from_pretrained, with its processor. Returns of each weight what became of it.

    Raises ValueError for an encoder that is no EVA-CLIP ViT: Hugging Face's vision tower has no norm before its blocks,
    which CLIP's ViT-L needs.
    """
    run = read_run(checkpoint)
    if not _is_eva(run.encoder):
        raise ValueError(
            f"image encoder {run.net.vision.name} cannot go to Hugging Face's BLIP-2: its vision tower is EVA-CLIP's,"
            " and has no norm before the blocks, as CLIP's ViT-L has"
        )
    stage2 = "bridge.projection.weight" in run.trained
    qformer = run.net.bridge.qformer if stage2 else run.net.qformer
    rules = names.rules(len(qformer.layers), "opt" if stage2 else None)
    state, homeless = names.theirs_from(run.trained, "hf", rules)
    state |= encoders.to_hf(run.encoder)
    model, processor = (_generation if stage2 else _retrieval)(run, qformer)
    if stage2:
        state |= {LANGUAGE + name: value for name, value in run.net.language.model.state_dict().items()}
    report = model.load_state_dict(state, strict=False, assign=True)
    if lacking := report.missing_keys + report.unexpected_keys:
        raise ValueError(f"Hugging Face's class and this run differ in {lacking[:5]}")
    model.tie_weights()
    with written_whole(out) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)
        if homeless:
            save_file({name: run.trained[name].contiguous() for name in homeless}, part / SIDE_FILE)
    return dict.fromkeys(state, "written") | dict.fromkeys(homeless, f"no place there: in {SIDE_FILE} beside it")


def _is_eva(encoder: Mapping[str, Tensor]) -> bool:
    return "blocks.0.attn.q_bias" in encoder


def _sizes(run: Run, qformer: Any) -> dict[str, Any]:
    """Configurations of the encoder and of the Q-Former."""
    from transformers import Blip2QFormerConfig, Blip2VisionConfig

    first = qformer.layers[0]
    patch = run.encoder["patch_embed.proj.weight"]
    grid = int((run.encoder["pos_embed"].shape[1] - 1) ** 0.5)
    vision = Blip2VisionConfig(
        hidden_size=patch.shape[0], patch_size=patch.shape[-1], image_size=grid * patch.shape[-1],
        intermediate_size=len(run.encoder["blocks.0.mlp.fc1.bias"]), num_attention_heads=_heads(run),
        num_hidden_layers=1 + max(int(name.split(".")[1]) for name in run.encoder if name.startswith("blocks.")),
    )  # fmt: skip
    text = qformer.word_embeddings
    theirs = Blip2QFormerConfig(
        vocab_size=30523 if text is None else text.num_embeddings, hidden_size=qformer.hidden,
        num_hidden_layers=len(qformer.layers), num_attention_heads=first.attention.heads,
        intermediate_size=first.query_mlp.expand.out_features, encoder_hidden_size=qformer.vision_width,
        cross_attention_frequency=_cross_every(qformer), use_qformer_text_input=text is not None,
        max_position_embeddings=512 if text is None else qformer.position_embeddings.num_embeddings,
    )  # fmt: skip
    return dict(vision_config=vision.to_dict(), qformer_config=theirs.to_dict(), num_query_tokens=qformer.num_queries)


def _heads(run: Run) -> int:
    from lit_blip2.model.vision import build

    vision = run.net.vision
    return build(vision.name, vision.model_args, vision.drop_last_blocks, device="meta").blocks[0].attn.num_heads


def _cross_every(qformer: Any) -> int:
    crossed = [number for number, layer in enumerate(qformer.layers) if layer.cross is not None]
    return crossed[1] - crossed[0] if len(crossed) > 1 else len(qformer.layers)


def _retrieval(run: Run, qformer: Any) -> tuple[Any, Any]:
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    projection = len(run.trained["itc.image_projection.weight"])
    with torch.device("meta"):
        model = Blip2ForImageTextRetrieval(Blip2Config(**_sizes(run, qformer), image_text_hidden_size=projection))
    from lit_blip2.model.tokenizer import BertTokenizer

    tokenizer = BertTokenizer(run.net.tokenizer_path, qformer.word_embeddings.num_embeddings, run.net.max_text_tokens)
    return model.eval(), _processor(tokenizer.tokenizer, model.config, None)


def _generation(run: Run, qformer: Any) -> tuple[Any, Any]:
    """The language model gets one more word, <image>, which stands where the queries' outputs go."""
    from transformers import AddedToken, Blip2Config, Blip2ForConditionalGeneration

    language = run.net.language
    language.load()
    image = AddedToken("<image>", normalized=False, special=True)
    language.tokenizer.add_tokens([image], special_tokens=True)
    number = language.tokenizer.convert_tokens_to_ids("<image>")
    if number >= language.model.get_input_embeddings().num_embeddings:
        language.model.resize_token_embeddings(number + 1, mean_resizing=False)
    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(
            Blip2Config(**_sizes(run, qformer), text_config=language.model.config.to_dict(), image_token_index=number)
        )
    return model.eval(), _processor(language.tokenizer, model.config, qformer.num_queries)


def _processor(tokenizer: Any, config: Any, queries: int | None) -> Any:
    from transformers import Blip2Processor, BlipImageProcessorPil

    size = config.vision_config.image_size
    images = BlipImageProcessorPil(
        size={"height": size, "width": size}, image_mean=list(CLIP_MEAN), image_std=list(CLIP_STD)
    )
    return Blip2Processor(images, tokenizer, num_query_tokens=queries)


EXPORTS = {"lavis": to_lavis, "hf": to_hugging_face}
