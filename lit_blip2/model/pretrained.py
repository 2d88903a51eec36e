"""Builds a Hugging Face language model from its configuration, or reads it from a folder that must hold all of it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lit_blip2.contents import IS_POINTER, is_pointer, read_object
from lit_blip2.model.lora import check_adapter
from lit_blip2.model.random_weights import same_each_time
from lit_blip2.model.side_files import check_names, other_configs
from lit_blip2.model.tokenizer_files import check_class, check_read, check_whole_pieces
from lit_blip2.offline import offline
from lit_blip2.terminal import one_line
from lit_blip2.trust import check_fetches_nothing
from lit_blip2.zeros import check_zeros

# Buffers that old files hold and transformers now makes itself: end of the name -> (dimensions, what an import prints).
OLD_BUFFERS = {
    ".rotary_emb.inv_freq": (1, "derived: frequencies that the configuration gives"),
    ".attn.bias": (4, "derived: the mask of what comes later"),
    ".attention.bias": (4, "derived: the mask of what comes later"),
    ".masked_bias": (0, "dropped: what stands for a masked logit"),
}
# Fields of a configuration that generation uses: the tokens that begin, end and pad sequences, and whether to cache.
GENERATES_WITH = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "use_cache")


def in_cache(name: str) -> Path | None:
    """The folder of a hub model that huggingface_hub has downloaded before, or None; nothing is downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def read_config(folder: Path, name: str = "config.json") -> dict:
    """The fields of a Hugging Face folder's config.json. Raises DataError, with the file's name, if it is no JSON
    object."""
    return read_object(folder / name, object_hook=_decoded)


def _decoded(fields: dict) -> Any:
    """Decodes how transformers 5 writes numbers that JSON lacks: {"__float__": "Infinity"}. Raises ValueError if it is
    no number."""
    return float(fields["__float__"]) if fields.keys() == {"__float__"} else fields


def read_tokenizer(folder: Path) -> Any:
    """The Hugging Face tokenizer in a folder; no code of the folder is run.

    Raises ValueError for a tokenizer that is damaged, lies elsewhere, or has no tokens: if there is none, transformers
    makes an empty one.
    """
    from transformers import AutoTokenizer

    check_names(folder)
    check_class(folder)
    check_whole_pieces(folder)
    try:
        with offline():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # of many kinds, as damage is
        reason = one_line(f"{type(error).__name__} {error}", 200)
        if "tiktoken" in reason and (file := next(folder.glob("*.model"), None)):
            reason = f"{file.name} is no file of sentencepiece: it is cut short, or of another kind"
    else:
        if len(tokenizer) - len(tokenizer.all_special_ids) > 1:  # T5's empty one has a space
            check_read(folder, tokenizer)
            return tokenizer
        reason = "there is none beside config.json"
    reason = _pointer(folder) or reason
    raise ValueError(f"{folder} holds no tokenizer that can be read: save one there (save_pretrained). {reason}")


def _pointer(folder: Path) -> str | None:
    """What to do about a folder that was cloned without its large files; None if all are there."""
    files = sorted(each for each in folder.iterdir() if each.is_file())
    return next((f"{file.name} {IS_POINTER}" for file in files if is_pointer(file)), None)


def tell_no_begin(folder: Path, family: str, tokenizer: Any) -> None:
    """Warn if no file of a folder says whether texts start with the begin token: transformers 5 then leaves it out.

    Only warns for families that were trained with one: OPT, and those with a sentencepiece file. GPT-2's and Qwen's
    files look like OPT's, but these families start without one.
    """
    if (folder / "tokenizer.json").is_file() or "add_bos_token" in tokenizer.init_kwargs:
        return
    trained_with = family == "opt" or any(folder.glob("*.model"))
    begin = tokenizer.bos_token_id
    if trained_with and begin is not None and begin not in tokenizer("")["input_ids"]:
        warnings.warn(
            f"no text starts with the begin token {tokenizer.bos_token}, which {family} models are mostly trained "
            f'with: set {{"add_bos_token": true}} in {folder / "tokenizer_config.json"}, or false to keep it so',
            stacklevel=2,
        )


def build(
    config: dict,
    weights: Path | None = None,
    dtype: torch.dtype | str = torch.float32,
    device: str = "meta",
    source: str = "the configuration of a language model",
) -> nn.Module:
    """The model that `config` (Hugging Face's fields) describes: read from the folder `weights`, or, if None, with
    initial weights on `device`. source: where the fields are from, for messages. Raises ValueError for a configuration
    that would run code of its own, or that transformers cannot build."""
    check_runs_nothing(config)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    untied = config.get("tie_word_embeddings") is False
    with _usable(source):
        config = AutoConfig.for_model(**config)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if weights is not None:
        return _read(auto, weights, dtype).eval()
    with _usable(source), torch.device(device):
        model = auto.from_config(config, trust_remote_code=False)
        if untied and config.tie_word_embeddings:
            # transformers 5 ties every T5 until it meets a file; Flan-T5 has an output matrix of its own.
            model.set_output_embeddings(nn.Linear(config.hidden_size, config.vocab_size, bias=False))
        return model


@contextmanager
def _usable(source: str) -> Iterator[None]:
    """Within this context transformers builds a model from fields that may hold anything: any error becomes a
    ValueError."""
    try:
        with offline():
            yield
    except Exception as error:  # of many kinds
        raise ValueError(f"{source} cannot be used: {one_line(f'{type(error).__name__} {error}', 500)}") from error


def check_runs_nothing(config: dict) -> None:
    """Raises ValueError for fields by which transformers would fetch code or weights from a hub."""
    told = "the configuration of a language model"
    check_fetches_nothing(
        {name: value for name, value in config.items() if not str(name).startswith("_")}, told, "take it out"
    )
    for name, value in config.items():
        if str(name).endswith("_implementation") and "/" in str(value):
            raise ValueError(
                f"{told} asks for {name}={value!r}, code that transformers would fetch and run: take it out"
            )
        if isinstance(value, dict):
            check_runs_nothing(value)


def set_activation(model: nn.Module, name: str) -> None:
    """Put another activation into the feed-forwards of a T5, or of a family made after it, such as mT5.

    Raises ValueError for a model that is no T5, or an unknown name.
    """
    from transformers.activations import ACT2FN

    parts = [part for part in model.modules() if type(part).__name__.endswith(("DenseActDense", "GatedActDense"))]
    if not hasattr(model.config, "dense_act_fn") or not parts:
        raise ValueError(f"dense_act_fn={name!r} is for a T5, and this is a {model.config.model_type}: set it to null")
    if name not in ACT2FN:
        raise ValueError(f"dense_act_fn={name!r} is none of transformers' activations: {', '.join(sorted(ACT2FN))}")
    model.config.dense_act_fn = name
    for part in parts:
        part.act = ACT2FN[name]


def without_search_rules(config: Any) -> Any:
    """The generation configuration of a model, with only the fields GENERATES_WITH. A folder's other settings, such as
    a repetition penalty or a forced last token, are search rules: they would change what this package's arguments ask
    for. A forced first token, such as mBART's language, is one too: no training target begins with it."""
    from transformers import GenerationConfig

    decoder = config.get_text_config(decoder=True)
    told = {name: getattr(config, name, None) for name in GENERATES_WITH}
    told = {name: getattr(decoder, name, None) if value is None else value for name, value in told.items()}
    return GenerationConfig(**{name: value for name, value in told.items() if value is not None})


def build_random(config: dict, dtype: torch.dtype | str) -> nn.Module:
    """The model with transformers' initial weights, the same ones each time."""
    with same_each_time():
        model = build(config, device="cpu")
    return model.to(torch.float32 if dtype == "auto" else dtype).eval()


def _read(auto: Any, folder: Path, dtype: torch.dtype | str) -> nn.Module:
    """Read a model from its folder. Raises ValueError for a model that is damaged, has other sizes, or lacks weights:
    transformers would leave those random."""
    check_names(folder)
    for other in other_configs(folder):
        check_runs_nothing(read_config(folder, other))
    adapter = folder / "adapter_config.json"  # transformers would put it into the model, through peft
    if adapter.is_file():
        check_adapter(adapter)
    how = dict(dtype=dtype, local_files_only=True, trust_remote_code=False)
    how |= dict(ignore_mismatched_sizes=True, output_loading_info=True)
    try:
        with offline(), _no_bar():
            model, report = auto.from_pretrained(folder, **how)
    except Exception as error:  # of many kinds, as damage is
        reason = _pointer(folder) or one_line(f"{type(error).__name__} {error}", 300)
        more = f". {adapter} asks for an adapter: put its weights there, or take it out" if adapter.is_file() else ""
        raise ValueError(f"the language model in {folder} cannot be read: {reason}{more}") from error
    for what in ("missing", "mismatched", "unexpected"):
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report[f"{what}_keys"])
        keys = [key for key in keys if what != "unexpected" or not key.endswith(tuple(OLD_BUFFERS))]
        if not keys:
            continue
        said = f"the language model in {folder}: {what} {keys[0]} ({len(keys)} such)"
        if what != "unexpected":
            raise ValueError(f"{said}: the model cannot be made of this folder alone")
        warnings.warn(f"{said}, left out", stacklevel=2)
    own, words = dict(model.named_parameters()), _words(model)
    check_zeros(own, f"the language model in {folder}", [name for name, value in own.items() if value is words])
    return model


@contextmanager
def _no_bar() -> Iterator[None]:
    """Hides transformers' progress bar for reading weights."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _words(model: nn.Module) -> torch.Tensor | None:
    """The matrix of input embeddings; None for a family without one, which `check_embeddings` refuses."""
    try:
        return getattr(model.get_input_embeddings(), "weight", None)
    except (NotImplementedError, AttributeError):
        return None


def quantise(model: nn.Module, bits: Literal[8, 4]) -> None:
    """Quantise the weights of the linear layers in place: 8 bits with a scale per row, or 4 with a scale per 128.

    Raises ImportError that says what to install.
    """
    try:
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

        quantize_(model, Int8WeightOnlyConfig() if bits == 8 else Int4WeightOnlyConfig(group_size=128))
    except ImportError as error:
        raise ImportError(f"bits={bits} needs torchao: pip install .[quantised] ({error})") from error
