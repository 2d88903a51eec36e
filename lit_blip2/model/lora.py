"""Low-rank changes of a frozen model's layers (LoRA, arXiv 2106.09685), by peft."""

from typing import Any

from torch import nn


def add_lora(model: nn.Module, lora: dict[str, Any]) -> None:
    """Put changes that train, in float32, beside the layers of a frozen model, in place; at first they change nothing.

    Args: lora: arguments of peft.LoraConfig. Raises ValueError for layers that the model has not.
    """
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(**lora), model)
    model.requires_grad_(False)
    for parameter in _changes(model):
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def count_lora(model: nn.Module, lora: dict[str, Any]) -> int:
    """How many parameters `add_lora` would train. The model, on the meta device, is used up."""
    add_lora(model, lora)
    return sum(parameter.numel() for parameter in _changes(model))


def merge_lora(model: nn.Module) -> None:
    """Add the changes to the weights that they change, in place: the layers are plain again."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())


def _changes(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for name, parameter in model.named_parameters() if ".lora_" in name]
