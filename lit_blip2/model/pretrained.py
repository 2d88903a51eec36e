"""A Hugging Face language model from its configuration, or from a folder that must hold all of it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lit_blip2.contents import IS_POINTER, is_pointer, read_object
from lit_blip2.model.random_weights import same_each_time
from lit_blip2.model.side_files import check_names, other_configs
from lit_blip2.terminal import one_line
from lit_blip2.trust import check_fetches_nothing
from lit_blip2.zeros import check_zeros

PIECES, PIECES_READ = "tokenizer.model", 50  # sentencepiece's file, and how many of its pieces are tried
# What transformers makes by itself and old files hold: how its name ends, its dimensions, what an import says of it.
OLD_BUFFERS = {
    ".rotary_emb.inv_freq": (1, "derived: frequencies that the configuration gives"),
    ".attn.bias": (4, "derived: the mask of what comes later"),
    ".attention.bias": (4, "derived: the mask of what comes later"),
    ".masked_bias": (0, "dropped: what stands for a masked logit"),
}
# What generation takes of a configuration: the tokens that its sequences begin, end and are filled with.
GENERATES_WITH = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "use_cache")


def in_cache(name: str) -> Path | None:
    """The folder of a hub's model that huggingface_hub has downloaded, if it has; nothing is downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def read_config(folder: Path, name: str = "config.json") -> dict:
    """Hugging Face's fields of a folder. Raises DataError, with the file's name, for what is no JSON object."""
    return read_object(folder / name, object_hook=_decoded)


def _decoded(fields: dict) -> Any:
    """transformers 5 writes numbers that JSON has no word for as {"__float__": "Infinity"}."""
    return float(fields["__float__"]) if fields.keys() == {"__float__"} else fields  # ValueError: no number


def read_tokenizer(folder: Path) -> Any:
    """Hugging Face's tokenizer of a folder; nothing in it is run.

    Raises ValueError for one that is damaged, lies elsewhere, or has no tokens: transformers makes such a one where
    there is none.
    """
    from transformers import AutoTokenizer

    check_names(folder)
    if cut := _cut_pieces(folder):
        raise ValueError(f"{cut} is cut short: what stands at the end of sentencepiece's file is missing. Get it again")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # of many kinds, as what is damaged is
        reason = one_line(f"{type(error).__name__} {error}", 200)
        if "tiktoken" in reason and (file := next(folder.glob("*.model"), None)):
            reason = f"{file.name} is no file of sentencepiece: it is cut short, or of another kind"
    else:
        if len(tokenizer) - len(tokenizer.all_special_ids) > 1:  # T5's empty one has a space
            _check_pieces(folder, tokenizer)
            return tokenizer
        reason = "there is none beside config.json"
    reason = _pointer(folder) or reason
    raise ValueError(f"{folder} holds no tokenizer that can be read: save one there (save_pretrained). {reason}")


def _pointer(folder: Path) -> str | None:
    """What to do where a folder was cloned without its large files; None where all are there."""
    files = sorted(each for each in folder.iterdir() if each.is_file())
    return next((f"{file.name} {IS_POINTER}" for file in files if is_pointer(file)), None)


def _cut_pieces(folder: Path) -> Path | None:
    """The file of sentencepiece that ends between its pieces, if tokenizers are made of one: it would be read as a
    smaller vocabulary, or by other rules, for these (fields 2 and 3) stand behind the pieces (field 1)."""
    if (folder / "tokenizer.json").is_file():
        return None
    for file in sorted(folder.glob("*.model")):
        fields = _fields(file.read_bytes())
        if fields is not None and 1 in fields and not {2, 3} <= fields:
            return file
    return None


def _fields(content: bytes) -> set[int] | None:
    """Numbers of the fields of a protobuf message; None for what is none, as one that ends within a field."""
    found, at = set(), 0
    while at < len(content):
        key, at = _varint(content, at)
        size, at = _varint(content, at)
        if key % 8 != 2 or (at := at + size) > len(content):  # a field of so many bytes
            return None
        found.add(key // 8)
    return found


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A whole number at a place, seven bits a byte, and the place behind it."""
    value = shift = 0
    while at < len(content):
        value, shift, at = value | (content[at] & 127) << shift, shift + 7, at + 1
        if content[at - 1] < 128:
            break
    return value, at


def _check_pieces(folder: Path, tokenizer: Any) -> None:
    """Raises ValueError where sentencepiece's file alone is there and is read as another kind of tokenizer, as for a
    family whose own tokenizers are of that kind: spaces and letters would be lost."""
    if not (folder / PIECES).is_file() or (folder / "tokenizer.json").is_file():
        return
    from sentencepiece import SentencePieceProcessor

    try:
        own = SentencePieceProcessor(str(folder / PIECES))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{folder / PIECES} cannot be read: {error} Get the file again") from error
    pieces = [
        id_ for id_ in range(own.vocab_size()) if not (own.is_control(id_) or own.is_unknown(id_) or own.is_byte(id_))
    ]
    text = own.decode(pieces[:PIECES_READ])
    read, wanted = tokenizer(text, add_special_tokens=False)["input_ids"], own.encode(text)
    if len(set(read) ^ set(wanted)) > 2:  # whether a text begins with a space is the family's own affair
        raise ValueError(
            f"{folder / PIECES} is read as a {type(tokenizer).__name__}, and gives other tokens than sentencepiece "
            "(spaces or letters are lost): save the tokenizer there (save_pretrained), as a tokenizer.json"
        )


def tell_no_begin(folder: Path, family: str, tokenizer: Any) -> None:
    """Warn where no file of a folder says whether texts start with the begin token: transformers 5 then leaves it out.

    Only of families that were trained with one: those whose tokenizer is sentencepiece's file, and OPT. GPT-2's and
    Qwen's files lie there the same way, and these start without one.
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
    """The model class that `config` (Hugging Face's fields) asks for: read from disk, or without weights as it is made
    on `device`. source: of the fields, for messages. Raises ValueError for one that would run code of its own, or that
    transformers cannot make."""
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
    """While transformers makes a model of fields, which may hold anything: what it raises becomes a ValueError."""
    try:
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
    """What a model of this configuration generates with. A folder's other settings, such as a penalty for repetition or
    a forced last token, are rules of search: they would change what this package's arguments ask for. So is a forced
    first token, as mBART's language: no target that is learnt begins with one."""
    from transformers import GenerationConfig

    decoder = config.get_text_config(decoder=True)
    told = {name: getattr(config, name, None) for name in GENERATES_WITH}
    told = {name: getattr(decoder, name, None) if value is None else value for name, value in told.items()}
    return GenerationConfig(**{name: value for name, value in told.items() if value is not None})


def build_random(config: dict, dtype: torch.dtype | str) -> nn.Module:
    """The model with the weights that transformers starts from."""
    with same_each_time():
        model = build(config, device="cpu")
    return model.to(torch.float32 if dtype == "auto" else dtype).eval()


def _read(auto: Any, folder: Path, dtype: torch.dtype | str) -> nn.Module:
    """A model from its folder. Raises ValueError for one that is damaged, of other sizes, or without some weights:
    transformers would leave them random."""
    check_names(folder)
    for other in other_configs(folder):
        check_runs_nothing(read_config(folder, other))
    adapter = folder / "adapter_config.json"  # which transformers would put into the model, by peft
    if adapter.is_file() and read_config(folder, adapter.name).get("megatron_config"):
        raise ValueError(f"{adapter} has a megatron_config, whose module peft would import by its name: take it out")
    how = dict(dtype=dtype, local_files_only=True, trust_remote_code=False)
    how |= dict(ignore_mismatched_sizes=True, output_loading_info=True)
    try:
        model, report = auto.from_pretrained(folder, **how)
    except Exception as error:  # of many kinds, as what is damaged is
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


def _words(model: nn.Module) -> torch.Tensor | None:
    """The matrix of input embeddings; None for a family without one, which `check_embeddings` refuses."""
    try:
        return getattr(model.get_input_embeddings(), "weight", None)
    except (NotImplementedError, AttributeError):
        return None


def quantise(model: nn.Module, bits: Literal[8, 4]) -> None:
    """Weights of the linear layers in 8 bits, a scale for each row, or in 4, a scale for each 128; in place.

    Raises ImportError that says what to install.
    """
    try:
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

        quantize_(model, Int8WeightOnlyConfig() if bits == 8 else Int4WeightOnlyConfig(group_size=128))
    except ImportError as error:
        raise ImportError(f"bits={bits} needs torchao: pip install .[quantised] ({error})") from error
