"""A run of this suite as LAVIS' checkpoint, or as a folder of Hugging Face's class.

What Hugging Face's class has no place for (the temperature, ITG's head) lies beside it in lit_blip2.safetensors, from
where an import takes it again.
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
from lit_blip2.exchange.encoders import is_clip
from lit_blip2.exchange.hugging_face import EMBEDDINGS, LANGUAGE, SIDE_FILE, renamed
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.lora import merge_lora
from lit_blip2.model.tokenizer import BertTokenizer
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.params import build_net

ZEROS = "zeros: nobody reads what the last layer makes of a text"


class Run(NamedTuple):
    """net: on meta, for its sizes. trained: names without `net.` -> weights. encoder: timm's names -> weights."""

    net: Any
    trained: dict[str, Tensor]
    encoder: dict[str, Tensor]
    trains_encoder: bool


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
    return Run(net, trained, keyless | own, bool(own))


def to_lavis(checkpoint: Path, out: Path) -> dict[str, str]:
    """Write OUT, a .pth of LAVIS. Returns of each weight what became of it."""
    run = read_run(checkpoint)
    family = None
    if "bridge.projection.weight" in run.trained:
        kind = run.net.language.config["model_type"]
        family = "t5" if kind == "t5" else "llm" if run.net.reads_prompts or kind != "opt" else "opt"
    if family is not None and run.net.language.lora:
        raise ValueError(
            f"{checkpoint} trained low-rank changes of its language model (lora), for which LAVIS has no place"
        )
    instructed = family is not None and run.net.reads_prompts
    trained = names.with_unread(run.trained, len(run.net.bridge.qformer.layers)) if instructed else run.trained
    known = _is_eva(run.encoder) or is_clip(run.encoder)
    if not known and run.trains_encoder:
        raise ValueError(f"{checkpoint} trained its image encoder, {run.net.vision.name}, which LAVIS does not know")
    state = lavis.state_of(trained, run.encoder if known else {}, family)
    with written_whole(out) as part:
        torch.save({"model": {name: value.contiguous() for name, value in state.items()}}, part)
    fate = told(lavis.read(state, out).fate)
    if not known:
        fate["the image encoder"] = f"left out: LAVIS knows no {run.net.vision.name}"
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
    instructed = stage2 and run.net.reads_prompts
    trained = names.with_unread(run.trained, len(qformer.layers)) if instructed else run.trained
    trained = {name: value for name, value in trained.items() if not name.startswith("language.")}
    state, homeless = names.theirs_from(trained, "hf", rules)
    state |= encoders.to_hf(run.encoder)
    ours, used = names.ours_from(state, "hf", rules)
    used = names.without_unread(ours, used, len(qformer.layers))[1] if instructed else used
    fate = told(used | encoders.from_hf(state)[1])
    model, processor = (_generation if stage2 else _retrieval)(run, qformer)
    if instructed:
        back = {ours: theirs for theirs, ours in EMBEDDINGS.items()}
        state = {renamed(name, back): value for name, value in state.items()}
        fate = {renamed(name, back): what for name, what in fate.items()}
    if stage2:
        own = {LANGUAGE + name: value for name, value in run.net.language.model.state_dict().items()}
        state |= own
        fate |= dict.fromkeys(own, "the language model's own, with a row for <image> where it had none")
    report = model.load_state_dict(state, strict=False, assign=True)
    if lacking := report.missing_keys + report.unexpected_keys:
        raise ValueError(f"Hugging Face's class and this run differ in {lacking[:5]}")
    model.tie_weights()
    with written_whole(out) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)
        if homeless:
            save_file({name: run.trained[name].contiguous() for name in homeless}, part / SIDE_FILE)
    return fate | dict.fromkeys(homeless, f"no place there: in {SIDE_FILE} beside it")


def told(fate: Mapping[str, str]) -> dict[str, str]:
    """What importing the export would say of each weight, in the words of an export."""
    return {key: ZEROS if what == names.UNREAD else f"from {what}" for key, what in fate.items()}


def _is_eva(encoder: Mapping[str, Tensor]) -> bool:
    return "blocks.0.attn.q_bias" in encoder


def _sizes(run: Run, qformer: Any) -> dict[str, Any]:
    """Fields of Hugging Face's configurations: of the encoder, of the Q-Former, and how many queries."""
    first, text = qformer.layers[0], qformer.word_embeddings
    patch = run.encoder["patch_embed.proj.weight"]
    grid = int((run.encoder["pos_embed"].shape[1] - 1) ** 0.5)
    vision = dict(
        hidden_size=patch.shape[0], patch_size=patch.shape[-1], image_size=grid * patch.shape[-1],
        intermediate_size=len(run.encoder["blocks.0.mlp.fc1.bias"]), num_attention_heads=_heads(run),
        num_hidden_layers=1 + max(int(name.split(".")[1]) for name in run.encoder if name.startswith("blocks.")),
    )  # fmt: skip
    theirs = dict(
        vocab_size=30523 if text is None else text.num_embeddings, hidden_size=qformer.hidden,
        num_hidden_layers=len(qformer.layers), num_attention_heads=first.attention.heads,
        intermediate_size=first.query_mlp.expand.out_features, encoder_hidden_size=qformer.vision_width,
        cross_attention_frequency=_cross_every(qformer), hidden_dropout_prob=qformer.dropout.p,
        attention_probs_dropout_prob=first.attention.attention_dropout,
        max_position_embeddings=512 if text is None else qformer.position_embeddings.num_embeddings,
    )  # fmt: skip
    return dict(vision_config=vision, qformer_config=theirs, num_query_tokens=qformer.num_queries)


def _heads(run: Run) -> int:
    from lit_blip2.model.vision import build

    vision = run.net.vision
    return build(vision.name, vision.model_args, vision.drop_last_blocks, device="meta").blocks[0].attn.num_heads


def _cross_every(qformer: Any) -> int:
    crossed = [number for number, layer in enumerate(qformer.layers) if layer.cross is not None]
    return crossed[1] - crossed[0] if len(crossed) > 1 else len(qformer.layers)


def _retrieval(run: Run, qformer: Any) -> tuple[Any, Any]:
    from transformers import Blip2Config, Blip2ForImageTextRetrieval, Blip2Processor

    sizes, projection = _sizes(run, qformer), len(run.trained["itc.image_projection.weight"])
    sizes["qformer_config"] |= {"use_qformer_text_input": True}
    with torch.device("meta"):
        model = Blip2ForImageTextRetrieval(Blip2Config(**sizes, image_text_hidden_size=projection))
    tokenizer = BertTokenizer(run.net.tokenizer_path, qformer.word_embeddings.num_embeddings, run.net.max_text_tokens)
    return model.eval(), Blip2Processor(_images(model.config), tokenizer.tokenizer)


def _generation(run: Run, qformer: Any) -> tuple[Any, Any]:
    import transformers

    family = "InstructBlip" if run.net.reads_prompts else "Blip2"
    config_of, class_of, processor_of = (
        getattr(transformers, family + part) for part in ("Config", "ForConditionalGeneration", "Processor")
    )
    language = run.net.language
    language.load()
    own = {name.removeprefix("language.model."): value for name, value in run.trained.items()}
    language.model.load_state_dict(
        {name: own[name] for name in own if name in language.model.state_dict()}, strict=False
    )
    if language.lora:
        merge_lora(language.model)
    language.tokenizer.padding_side = "right" if language.encoder_decoder else "left"  # of a batch to generate from
    number = _add_image_word(language)
    config = config_of(**_sizes(run, qformer), text_config=language.model.config.to_dict(), image_token_index=number)
    with torch.device("meta"):
        model = class_of(config)
    model.generation_config.eos_token_id = language.end_ids()
    readers = [language.tokenizer]
    if run.net.reads_prompts:
        run.net.bridge.load()
        readers.append(run.net.bridge.tokenizer.tokenizer)
    return model.eval(), processor_of(_images(config), *readers, num_query_tokens=qformer.num_queries)


def _add_image_word(language: LanguageModel) -> int:
    """One more word, <image>, which stands where the queries' outputs go; its number."""
    from transformers import AddedToken

    image = AddedToken("<image>", normalized=False, special=True)
    language.tokenizer.add_tokens([image], special_tokens=True)
    number = language.tokenizer.convert_tokens_to_ids("<image>")
    if number >= language.model.get_input_embeddings().num_embeddings:
        language.model.resize_token_embeddings(number + 1, mean_resizing=False)
    return number


def _images(config: Any) -> Any:
    """What makes a photo the encoder's input."""
    from transformers import BlipImageProcessorPil

    size = config.vision_config.image_size
    return BlipImageProcessorPil(
        size={"height": size, "width": size}, image_mean=list(CLIP_MEAN), image_std=list(CLIP_STD)
    )


EXPORTS = {"lavis": to_lavis, "hf": to_hugging_face}
