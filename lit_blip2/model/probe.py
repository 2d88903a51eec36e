"""Tries a language model on a few tokens when it is loaded, to check that its family supports what is needed here.

Legend: T tokens, S = T + 1 positions of which the first is no token's, P positions of padding, D width, V vocabulary.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lit_blip2.terminal import one_line

PADDING = 4  # padding positions beside the row that generation starts from


@torch.no_grad()
def check_embeddings(model: nn.Module, name: str) -> None:
    """Raises ValueError for a model that takes no embeddings in place of ids, or treats them differently: some families
    scale the embeddings that they look up, so a soft prompt and its text would have other scales. Raises it also for an
    encoder used as a decoder, which would see the tokens that it must predict."""
    family, ids_1T = model.config.model_type, _ids(model)
    how: dict[str, Any] = {"use_cache": False}
    if model.config.is_encoder_decoder:
        if getattr(model.config, "decoder_start_token_id", None) is None:
            raise ValueError(
                f"language model {name} ({family}) does not say what its decoder starts from: set "
                "decoder_start_token_id in its config.json; a T5's is its pad_token_id, 0"
            )
        how["decoder_input_ids"] = ids_1T[:, :1]
    wanted_1TV = model(input_ids=ids_1T, **how).logits.float()
    try:
        embeds_1TD = model.get_input_embeddings()(ids_1T)
        given_1TV = model(inputs_embeds=embeds_1TD, **how).logits.float()
        model(inputs_embeds=_soft(embeds_1TD), **how)
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"language model {name} ({family}) takes no input embeddings: {_line(error)}") from error
    distance, size = (given_1TV - wanted_1TV).abs().max().item(), wanted_1TV.abs().max().item()
    if not distance <= 0.01 * size + 1e-6:  # bfloat16's rounding is far below
        raise ValueError(
            f"language model {name} ({family}) makes other logits of its tokens' embeddings than of "
            f"the tokens, by up to {distance:.2g}: a soft prompt cannot be put in front of it; use another family"
        )
    if not model.config.is_encoder_decoder and ids_1T.shape[1] > 1:
        _check_causal(model, name, ids_1T, wanted_1TV)


def _check_causal(model: nn.Module, name: str, ids_1T: torch.Tensor, wanted_1TV: torch.Tensor) -> None:
    """Raises ValueError if the logits of earlier tokens change with the last one."""
    changed_1T = torch.cat([ids_1T[:, :-1], ids_1T[:, :1]], dim=1)
    changed_1TV = model(input_ids=changed_1T, use_cache=False).logits.float()
    distance = (changed_1TV - wanted_1TV)[:, :-1].abs().max().item()
    rounding = max(1e-5, 2 * torch.finfo(model.dtype).eps)  # experts may compute in another order
    if not distance <= rounding * wanted_1TV.abs().max().item() + 1e-6:
        raise ValueError(
            f"language model {name} ({model.config.model_type}) sees the tokens that it is to predict: its logits "
            f"change with a later token, by up to {distance:.2g}; set is_decoder: true in its config.json if it "
            "was trained as a decoder, or use another family"
        )


@torch.no_grad()
def why_no_answers(model: nn.Module, name: str) -> str | None:
    """Why a model's generated text cannot be used, though the model can be trained; None if it can.

    Two tokens are generated after a padded row. Their logits must equal those of the same row without padding, in
    training's forward. Some families cannot generate after embeddings, or count positions differently there.
    """
    soft_1SD = _soft(model.get_input_embeddings()(_ids(model)))
    padding_1PD = soft_1SD[:, :1].expand(-1, PADDING, -1)
    left = not model.config.is_encoder_decoder
    mask_1S = torch.ones(soft_1SD.shape[:2], dtype=torch.long, device=soft_1SD.device)
    about = f"language model {name} ({model.config.model_type}) can be trained, and nothing that it generates is right"
    try:
        made = model.generate(
            inputs_embeds=torch.cat([padding_1PD, soft_1SD] if left else [soft_1SD, padding_1PD], dim=1),
            attention_mask=F.pad(mask_1S, (PADDING, 0) if left else (0, PADDING)),
            min_new_tokens=2,
            max_new_tokens=2,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    except Exception as error:  # of many kinds: each family has its own words
        return f"{about}: transformers cannot generate from embeddings with it ({_line(error)}); use another family"
    given_12V, first_11 = torch.stack(made.logits, dim=1).float(), made.sequences[:, -2:-1]
    if left:
        inputs = {"inputs_embeds": torch.cat([soft_1SD, model.get_input_embeddings()(first_11)], dim=1)}
    else:
        ids_12 = F.pad(first_11, (1, 0), value=model.config.decoder_start_token_id)
        inputs = {"inputs_embeds": soft_1SD, "decoder_input_ids": ids_12}
    wanted_12V = model(**inputs, use_cache=False).logits[:, -2:].float()
    distance = (given_12V - wanted_12V).abs().max().item()
    rounding = max(1e-3, 16 * torch.finfo(model.dtype).eps)  # two ways to compute, in all layers
    if distance <= rounding * wanted_12V.abs().max().item() + 1e-6:
        return None
    return (
        f"{about}: after padding its logits are others than in training, by up to {distance:.2g}, for it reads the "
        "padding or counts positions in another way; use another family"
    )


def _ids(model: nn.Module) -> torch.Tensor:
    """A few token ids [1, T], without the padding token: families that count positions by padding may treat it
    differently."""
    rows, padding = model.get_input_embeddings().num_embeddings, getattr(model.config, "pad_token_id", None)
    return torch.tensor([[row for row in range(min(4, rows)) if row != padding]], device=model.device)


def _soft(embeds_1TD: torch.Tensor) -> torch.Tensor:
    """Embeddings [1, S, D]: one that is no token's, like a soft prompt, then those of the tokens."""
    return torch.cat([embeds_1TD.mean(dim=1, keepdim=True), embeds_1TD], dim=1)


def _line(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 200)
