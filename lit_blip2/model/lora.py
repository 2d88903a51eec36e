"""Low-rank changes of a frozen model's layers (LoRA, arXiv 2106.09685), by peft."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lit_blip2.contents import DataError, read_object, shown
from lit_blip2.offline import offline
from lit_blip2.settings import LOW_RANK, is_plain

NO_FUNCTION = {"task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
NO_FUNCTION |= {"inference_mode", "lora_dropout"}
# Fields that an adapter's file may set: numbers, layers of the model, and how these are changed. peft's other fields
# name modules, files and further adapters, or are methods of training.
ADAPTER = NO_FUNCTION | {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_qalora"}
ADAPTER |= {"target_modules", "exclude_modules", "modules_to_save", "target_parameters", "layers_to_transform"}
ADAPTER |= {"layers_pattern", "layer_replication", "trainable_token_indices", "fan_in_fan_out", "bias", "lora_bias"}
ADAPTER |= {"init_lora_weights", "qalora_group_size", "alora_invocation_tokens", "ensure_weight_tying"}


def add_lora(model: nn.Module, lora: dict[str, Any]) -> None:
    """Add trainable LoRA weights, in float32, to layers of a frozen model, in place; at first they change nothing.

    Args: lora: arguments of peft.LoraConfig. Raises ValueError for layers that the model lacks, for settings that would
    train more than low-rank changes, and for Megatron's, whose module peft would import by its name.
    """
    if lora.get("megatron_config"):
        raise ValueError("lora.megatron_config is for Megatron's own layers, which no model here has: leave it out")
    from peft import LoraConfig, inject_adapter_in_model

    try:
        config = LoraConfig(**lora)
    except TypeError as error:
        raise ValueError(f"lora={lora} must be arguments of peft.LoraConfig: {error}") from error
    with offline():
        inject_adapter_in_model(config, model)
    changes = {id(parameter) for parameter in _changes(model)}
    if others := [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in changes]:
        raise ValueError(
            f"lora would train {others[0]} ({len(others)} such), and low-rank changes alone train here: leave"
            " modules_to_save, bias and trainable_token_indices out of it"
        )
    model.requires_grad_(False)
    for parameter in _changes(model):
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def check_adapter(file: Path) -> None:
    """Raises DataError if the adapter beside a language model's weights is no LoRA, or sets a field of peft that is not
    in ADAPTER."""
    from peft import LoraConfig

    told, plain = read_object(file), vars(LoraConfig())
    odd = {name: told[name] for name in told.keys() & plain.keys() - ADAPTER if told[name] != plain[name]}
    if told.get("peft_type") != "LORA":
        odd = {"peft_type": told.get("peft_type")}
    if odd:
        name = min(odd)
        raise DataError(
            f"the language model in {file.parent} cannot be read: {file.name} has {name} {shown(odd[name])}, and only "
            "a plain LoRA is put into a model: merge the adapter into the weights, or take it out"
        )


def lora_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of peft.LoraConfig that change the function, given or default, so that a setting named on only one
    side is compared too."""
    from peft import LoraConfig

    full = vars(LoraConfig()) | given
    told = {name: value for name, value in full.items() if name[0] != "_" and name not in NO_FUNCTION}
    told = {name: sorted(value) if isinstance(value, list | set) else value for name, value in told.items()}
    return {name: value for name, value in told.items() if is_plain(value)}


def count_lora(model: nn.Module, lora: dict[str, Any]) -> int:
    """Number of parameters that `add_lora` would train. It changes the model, which may be on the meta device."""
    add_lora(model, lora)
    return sum(parameter.numel() for parameter in _changes(model))


def merge_lora(model: nn.Module) -> None:
    """Merge the low-rank changes into their weights, in place, so that the layers are plain again. Each weight is
    copied first: another layer that shares it has no change. Raises ValueError for a change that cannot be merged."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            base = layer.get_base_layer()
            if isinstance(base, nn.Embedding) and model.config.is_encoder_decoder:
                raise ValueError(
                    f"the low-rank changes of {name} cannot be merged: encoder and decoder share its weights"
                )
            base.weight = nn.Parameter(base.weight.clone(), requires_grad=False)
            try:
                layer.merge()
            except RuntimeError as error:
                raise ValueError(f"the low-rank changes of {name} cannot be merged into it: {error}") from error
            model.set_submodule(name, base)


def _changes(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for name, parameter in model.named_parameters() if LOW_RANK in name]
