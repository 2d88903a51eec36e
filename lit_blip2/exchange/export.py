"""A run of this suite as LAVIS' checkpoint, or as a folder of Hugging Face's class; its image encoder as timm's file.

What Hugging Face's class has no place for (the temperature, ITG's head; how a target ends) lies beside it in
lit_blip2.safetensors and lit_blip2.json, from where an import takes it again.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from lit_blip2.checkpoint import carried, check_fits, read_checkpoint
from lit_blip2.config import Experiment
from lit_blip2.exchange import encoders, lavis, names
from lit_blip2.exchange.hugging_face import LANGUAGE, SIDE_FILE, SIDE_SETTINGS, VISION_ONLY
from lit_blip2.model.bridge import QFormerBridge
from lit_blip2.model.instructed import InstructedBridge
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.lora import merge_lora
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.network import check_kept, random_parts, sketch, sketch_encoder
from lit_blip2.objectives.joint import Joint
from lit_blip2.objectives.stage2 import Stage2
from lit_blip2.pixels import Looks
from lit_blip2.runs import find_checkpoint
from lit_blip2.whole_files import written_whole

ZEROS = "zeros: nobody reads what the last layer makes of a text"
LN_VISION = "vision_model.post_layernorm."


class Run(NamedTuple):
    """What an export needs of a run.

    file, contents: the checkpoint and what it holds. net: the network, on the meta device but for its encoder. trained:
    weights that trained, by names without `net.`; the encoder's are not among them. encoder: all weights of the
    encoder, trained or not, by timm's names. trains_encoder: whether some of these trained. kind: encoders.EVA, CLIP or
    None. stage2: whether it is of stage 2, not of stage 1."""

    file: Path
    contents: dict[str, Any]
    net: Any
    trained: dict[str, Tensor]
    encoder: dict[str, Tensor]
    trains_encoder: bool
    kind: str | None
    stage2: bool

    @property
    def reads_prompts(self) -> bool:
        return self.stage2 and self.net.reads_prompts

    @property
    def qformer(self) -> Any:
        return self.net.bridge.qformer if self.stage2 else self.net.qformer

    @property
    def random_parts(self) -> list[str]:
        return random_parts(self.net)

    def with_unread(self) -> dict[str, Tensor]:
        """What trains, and zeros for the feed-forward that a bridge that reads prompts lacks and others have."""
        return names.with_unread(self.trained, len(self.qformer.layers)) if self.reads_prompts else self.trained


def read_run(checkpoint: Path, allow: Sequence[str]) -> Run:
    """A checkpoint or run folder of one stage. Raises ValueError for others, FileNotFoundError for missing weights."""
    file, contents, net, trained, encoder = _read(checkpoint, allow)
    if isinstance(net, Joint):
        raise ValueError(f"{checkpoint} was trained in both stages at once: no class of another project holds both")
    _check_bridge(net, checkpoint)
    others = {name: value for name, value in trained.items() if not name.startswith("vision.")}
    trains_encoder = len(others) < len(trained)
    return Run(
        file, contents, net, others, encoder, trains_encoder, encoders.kind_of(net.vision), isinstance(net, Stage2)
    )


def _check_bridge(net: Any, checkpoint: Path) -> None:
    """Raises ValueError for a bridge, or a Q-Former, that the classes of other projects have no place for."""
    if isinstance(net, Stage2) and not isinstance(net.bridge, QFormerBridge | InstructedBridge):
        raise ValueError(
            f"{checkpoint} has a {type(net.bridge).__name__}, and the classes of other projects have no other bridge "
            "than a Q-Former"
        )
    if (net.bridge if isinstance(net, Stage2) else net).qformer.windows:
        raise ValueError(
            f"{checkpoint} has a Q-Former with windows=true, and in the classes of other projects every query sees the "
            "whole image"
        )


def _read(
    checkpoint: Path, allow: Sequence[str], build: Callable[[Experiment], Any] = sketch
) -> tuple[Path, dict, Any, dict[str, Tensor], dict[str, Tensor]]:
    """The checkpoint's file and contents, the network on meta but for its encoder, what trained without `net.`, and all
    the encoder's weights. build: sketch, or sketch_encoder. Raises ValueError where the encoder is not the run's any
    more."""
    file = find_checkpoint(checkpoint)
    contents = read_checkpoint(file)
    net = build(carried(contents, file, allow))
    trained = {name.removeprefix("net."): value for name, value in contents["state_dict"].items()}
    net.vision.dtype = torch.float32  # as exact as its file, whatever the run computed in
    net.vision.load()
    check_kept(contents, net, file)
    own = {name.removeprefix("vision.encoder."): value for name, value in trained.items() if name.startswith("vision.")}
    read = net.vision.encoder.state_dict()
    keyless = {name: value for name, value in read.items() if not name.endswith("k_bias")}
    return file, contents, net, trained, keyless | own


def to_timm(checkpoint: Path, out: Path, allow: Sequence[str] = ()) -> dict[str, str]:
    """Write OUT, a folder with the run's image encoder, as timm's on the hub: config.json and model.safetensors, for
    another run's model.net.vision.weights. Blocks that the run leaves out and the last norm are not in it: timm's own
    create_model reads it with pretrained_strict=False. Returns weight -> what became of it."""
    _, _, net, trained, encoder = _read(checkpoint, allow, sketch_encoder)
    vision, random = net.vision, bool(random_parts(net.vision))
    args = vision.model_args | ({"depth": vision.used_blocks} if vision.drop_last_blocks else {})
    card = {"architecture": vision.name, "num_classes": 0, "model_args": args}
    card |= {"pretrained_cfg": {**looks_of(vision)._asdict(), "input_size": [3, vision.size, vision.size]}}
    card |= {"random": True} if random else {}
    with written_whole(out) as part:
        part.mkdir()
        save_file({name: value.contiguous() for name, value in encoder.items()}, part / "model.safetensors")
        (part / "config.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    left = "RANDOM, as it was made" if random else "as in its file"
    return {name: "trained" if f"vision.encoder.{name}" in trained else left for name in encoder}


def looks_of(vision: VisionEncoder) -> Looks:
    return Looks(vision.mean, vision.std, vision.interpolation)


def to_lavis(checkpoint: Path, out: Path, allow: Sequence[str] = ()) -> dict[str, str]:
    """Write OUT, a .pth of LAVIS. Returns weight -> what became of it."""
    run = read_run(checkpoint, allow)
    if run.stage2 and run.net.language.lora:
        raise ValueError(
            f"{checkpoint} trained low-rank changes of its language model (lora), for which LAVIS has no place"
        )
    if run.kind is None and run.trains_encoder:
        raise ValueError(f"{checkpoint} trained its image encoder, {run.net.vision.name}, which LAVIS does not know")
    family = names.family_of(run.net) if run.stage2 else None
    state = lavis.state_of(run.with_unread(), {} if run.kind is None else run.encoder, family)
    with written_whole(out) as part:
        torch.save({"model": {name: value.contiguous() for name, value in state.items()}} | _side(run, out), part)
    fate = told(lavis.read(state, out).fate)
    if run.kind is None:
        fate["the image encoder"] = f"left out: LAVIS knows no {run.net.vision.name}"
    return fate


def _side(run: Run, out: Path) -> dict[str, Any]:
    """What LAVIS has no place for, to be kept beside its weights. Warns of each, because LAVIS does not read it."""
    looks, random, side = looks_of(run.net.vision), run.random_parts, {}
    if looks != lavis.LOOKS:
        side["looks"] = {"mean": list(looks.mean), "std": list(looks.std), "interpolation": looks.interpolation}
        warnings.warn(
            f"{out}: LAVIS prepares images with {lavis.LOOKS}, this run did so with {looks}: set LAVIS' processors to "
            "the same; an import here takes them from the file",
            stacklevel=3,
        )
    if random:
        side["random"] = random
        warnings.warn(f"{out} is of a run beside RANDOM weights: {', '.join(random)}", stacklevel=3)
    return {lavis.SIDE: side} if side else {}


def to_hugging_face(checkpoint: Path, out: Path, allow: Sequence[str] = ()) -> dict[str, str]:
    """Write OUT, a folder for from_pretrained, with its processor. Returns weight -> what became of it.

    Raises ValueError for an encoder that is no EVA-CLIP ViT (Hugging Face's vision tower has no norm before its blocks,
    which CLIP's ViT-L needs), and for what else the class has no place for.
    """
    run = read_run(checkpoint, allow)
    _check_class(run, checkpoint)
    state, homeless, fate = _renamed(run)
    kept = _settings(run)
    if run.stage2:
        language = _read_language(run)
        words = kept["vocab_size"] = language.model.get_input_embeddings().num_embeddings
        number = _add_image_word(language)
        model, processor = _generation(run, language, number)
        own = {LANGUAGE + name: value for name, value in language.model.state_dict().items()}
        state |= own
        row = f", with a row for <image>, {number}, which is the mean of the others" if number >= words else ""
        fate |= dict.fromkeys(own, f"the language model's own{row}")
        if model.config.text_config.bos_token_id is None:
            fate["(images without a text)"] = "generate fails there, for want of one token to begin with: give text=''"
    else:
        model, processor = _retrieval(run)
    check_fits(state, model.state_dict(), f"{checkpoint}, for {type(model).__name__},")
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    with written_whole(out) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)
        if homeless:
            save_file({name: run.trained[name].contiguous() for name in homeless}, part / SIDE_FILE)
        (part / SIDE_SETTINGS).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    fate |= {f"({name})": f"{value!r}: in {SIDE_SETTINGS} beside it" for name, value in kept.items()}
    return fate | dict.fromkeys(homeless, f"no place there: in {SIDE_FILE} beside it")


def _renamed(run: Run) -> tuple[dict[str, Tensor], list[str], dict[str, str]]:
    """(weights but for the language model's under the class' names, names of ours without a place, what became of
    each)."""
    layers, side = len(run.qformer.layers), "instructblip" if run.reads_prompts else "hf"
    rules = names.rules(layers, "opt" if run.stage2 else None)
    trained = {name: value for name, value in run.with_unread().items() if not name.startswith("language.")}
    state, homeless = names.theirs_from(trained, side, rules)
    state |= encoders.to_hf(run.encoder)
    ours, used = names.ours_from(state, side, rules)
    used = names.without_unread(ours, used, layers)[1] if run.reads_prompts else used
    fate = told(used | encoders.from_hf(state)[1])
    fate |= {
        name: f"{what}; there its epsilon is {VISION_ONLY['layer_norm_eps'][0]}, here {run.qformer.ln_vision.eps}"
        for name, what in fate.items()
        if name.startswith(LN_VISION)
    }
    return state, homeless, fate


def told(fate: Mapping[str, str]) -> dict[str, str]:
    """What importing the export would say of each weight, in the words of an export."""
    return {key: ZEROS if what == names.UNREAD else f"from {what}" for key, what in fate.items()}


def _check_class(run: Run, checkpoint: Path) -> None:
    """Raises ValueError for a run that none of Hugging Face's classes can hold."""
    if run.kind != encoders.EVA:
        other = "has no norm before the blocks" if run.kind == encoders.CLIP else "this one is built otherwise"
        raise ValueError(
            f"image encoder {run.net.vision.name} cannot go to Hugging Face's BLIP-2: its vision tower is EVA-CLIP's,"
            f" and {other}"
        )
    if not run.stage2 and (run.net.itc is None or run.net.itm is None):
        lacking = "itc" if run.net.itc is None else "itm"
        raise ValueError(f"{checkpoint} was trained with {lacking}=null: Blip2ForImageTextRetrieval has both heads")
    language = run.net.language if run.stage2 else None
    if language is not None and (hidden := language.config.get("hidden_size", language.width)) != language.width:
        raise ValueError(
            f"language model {language.name} embeds words in {language.width} numbers and computes in {hidden}: Hugging"
            f" Face's classes make soft prompts of {hidden}"
        )


def _settings(run: Run) -> dict[str, Any]:
    """What a run says of its texts, prompts and language model, and the class' configuration cannot."""
    random = {"random": run.random_parts} if run.random_parts else {}
    if not run.stage2:
        return {"max_text_tokens": run.net.max_text_tokens, **random}
    language = run.net.language
    kept = random | {"end": language.end, "dtype": str(language.dtype).removeprefix("torch.")}
    return kept | ({"max_text_tokens": run.net.bridge.max_text_tokens} if run.reads_prompts else {})


def _sizes(run: Run) -> dict[str, Any]:
    """Fields of Hugging Face's configurations: of the encoder, of the Q-Former, and how many queries."""
    qformer = run.qformer
    first, text = qformer.layers[0], qformer.word_embeddings
    sizes = encoders.sizes_of(run.net.vision.encoder)
    vision = dict(
        hidden_size=sizes["embed_dim"], patch_size=sizes["patch_size"], image_size=sizes["img_size"],
        intermediate_size=len(run.encoder["blocks.0.mlp.fc1.bias"]), num_attention_heads=sizes["num_heads"],
        num_hidden_layers=sizes["depth"],
    )  # fmt: skip
    theirs = dict(
        hidden_size=qformer.hidden, num_hidden_layers=len(qformer.layers), num_attention_heads=first.attention.heads,
        intermediate_size=first.query_mlp.expand.out_features, encoder_hidden_size=qformer.vision_width,
        cross_attention_frequency=_cross_every(qformer), hidden_dropout_prob=qformer.dropout.p,
        attention_probs_dropout_prob=first.attention.attention_dropout,
    )  # fmt: skip
    if text is not None:
        positions = qformer.position_embeddings.num_embeddings
        theirs |= dict(vocab_size=text.num_embeddings, max_position_embeddings=positions)
    return dict(vision_config=vision, qformer_config=theirs, num_query_tokens=qformer.num_queries)


def _cross_every(qformer: Any) -> int:
    crossed = [number for number, layer in enumerate(qformer.layers) if layer.cross is not None]
    return crossed[1] - crossed[0] if len(crossed) > 1 else len(qformer.layers)


def _retrieval(run: Run) -> tuple[Any, Any]:
    from transformers import Blip2Config, Blip2ForImageTextRetrieval, Blip2Processor

    sizes, projection = _sizes(run), len(run.trained["itc.image_projection.weight"])
    sizes["qformer_config"] |= {"use_qformer_text_input": True}
    with torch.device("meta"):
        model = Blip2ForImageTextRetrieval(Blip2Config(**sizes, image_text_hidden_size=projection))
    run.net.load_tokenizers()
    check_kept(run.contents, run.net, run.file)
    return model.eval(), Blip2Processor(_images(run, model.config), run.net.tokenizer.tokenizer)


def _generation(run: Run, language: LanguageModel, number: int) -> tuple[Any, Any]:
    """number: of the word <image>, which stands where the queries' outputs go."""
    import transformers

    family = "InstructBlip" if run.reads_prompts else "Blip2"
    config_of, class_of, processor_of = (
        getattr(transformers, family + part) for part in ("Config", "ForConditionalGeneration", "Processor")
    )
    end, given = language.end_ids(), language.model.config.to_dict()
    given.pop("_name_or_path", None)  # a folder of this machine
    given["eos_token_id"] = end[0] if len(end) == 1 else end  # generate() reads it there, of the inner model
    # Without a text, theirs reads this one token after the image, or fails where it is none; here an empty prompt is
    # what the tokenizer puts around nothing.
    nothing = language.closed([language.plain.begin])[0]
    given["bos_token_id"] = nothing[0] if len(nothing) == 1 else None
    config = config_of(**_sizes(run), text_config=given, image_token_index=number)
    if language.encoder_decoder and config.use_decoder_only_language_model:
        raise ValueError(
            f"language model {language.name} has an encoder, and Hugging Face's {family} builds a"
            f" {config.text_config.model_type} as a decoder alone"
        )
    with torch.device("meta"):
        model = class_of(config)
    # T5's class ties whatever it is told.
    model.language_model.config.tie_word_embeddings = given["tie_word_embeddings"]
    readers = [language.tokenizer]
    if run.reads_prompts:
        readers.append(run.net.bridge.tokenizer.tokenizer)
        _keep(readers[-1], model_max_length=run.net.bridge.max_text_tokens, truncation_side="left")
    return model.eval(), processor_of(_images(run, config), *readers, num_query_tokens=run.qformer.num_queries)


def _read_language(run: Run) -> LanguageModel:
    """The run's language model with what it trained of it, and a tokenizer that can fill a batch. Weights come in their
    file's precision, never quantised; where some were trained, in float32."""
    language = run.net.language
    own = {name.removeprefix("language."): value for name, value in run.trained.items() if name.startswith("language.")}
    language.dtype, language.bits = torch.float32 if own else "auto", None
    language.load()
    run.net.load_tokenizers()
    check_kept(run.contents, run.net, run.file)
    if unknown := language.load_state_dict(own, strict=False).unexpected_keys:
        raise ValueError(f"{unknown[0]} ({len(unknown)} such) was trained, and language model {language.name} lacks it")
    if language.lora:
        merge_lora(language.model)
    language.model.config.tie_word_embeddings = _is_tied(language.model)  # a file may differ from its configuration
    _keep(language.tokenizer, padding_side="right" if language.encoder_decoder else "left")  # to generate from a batch
    if (tokenizer := language.tokenizer).pad_token is None:  # one that is special: text would be split at another
        special = tokenizer.eos_token or tokenizer.bos_token or tokenizer.unk_token
        tokenizer.pad_token = special or tokenizer.convert_ids_to_tokens(language.pad_id())
    if language.plain.close and not language.encoder_decoder:
        _leave_open(language)
    return language


def _leave_open(language: LanguageModel) -> None:
    """Let the tokenizer put nothing behind a text: a decoder goes on from its prompt, here and so there too. Raises
    ValueError for a tokenizer whose rule cannot be changed."""
    tokenizer, begin = language.tokenizer, language.plain.begin
    if language.plain.backend is None:
        raise ValueError(
            f"language model {language.name}: its tokenizer ends every text and is not a fast one, which "
            "alone can be told not to: convert it to a tokenizer.json"
        )
    names = tokenizer.convert_ids_to_tokens(begin)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*names, "$A"], special_tokens=list(zip(names, begin))
    )


def _is_tied(model: Any) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _keep(tokenizer: Any, **settings: Any) -> None:
    """Set what must be written too: save_pretrained writes those settings alone that a tokenizer was made with."""
    for name, value in settings.items():
        setattr(tokenizer, name, value)
        tokenizer.init_kwargs[name] = value


@torch.no_grad()
def _add_image_word(language: LanguageModel) -> int:
    """Add the word <image> to the vocabulary; returns its number. Where the language model has no row for it, the row
    becomes the mean of all others: its logit is then their mean too, which is never the largest."""
    from transformers import AddedToken

    image = AddedToken("<image>", normalized=False, special=True)
    language.tokenizer.add_tokens([image], special_tokens=True)
    number, model = language.tokenizer.convert_tokens_to_ids("<image>"), language.model
    words = model.get_input_embeddings().num_embeddings
    if number >= words:
        model.resize_token_embeddings(number + 1, mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            for values in layer.parameters():
                values[words:] = values[:words].float().mean(0)
    return number


def _images(run: Run, config: Any) -> Any:
    """What makes a photo the encoder's input."""
    from transformers import BlipImageProcessorPil
    from transformers.image_utils import PILImageResampling

    size, vision = config.vision_config.image_size, run.net.vision
    return BlipImageProcessorPil(
        size={"height": size, "width": size},
        image_mean=list(vision.mean),
        image_std=list(vision.std),
        resample=PILImageResampling[vision.interpolation.upper()],
    )


EXPORTS = {"lavis": to_lavis, "hf": to_hugging_face, "timm": to_timm}
