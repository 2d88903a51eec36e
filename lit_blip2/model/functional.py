"""Which fields of a language model's configuration change what the model computes.

Every field does, unless its exact name is listed here. So a field that transformers adds is compared at once.
"""

import re
from collections.abc import Mapping
from typing import Any

from lit_blip2.settings import is_plain

TRAINING = {"gradient_checkpointing", "label_smoothing"}
STARTS = {"init_std", "initializer_range", "initializer_factor", "initializer_cutoff_factor", "embed_init_std"}
STARTS |= {"embedding_initializer_range", "init_device", "learnable_sink_init", "linear_dt_init_floor"}
STARTS |= {"time_step_init_scheme", "w_init_variance_scale", "final_w_init_variance_scale"}
HELD = {"dtype", "torch_dtype", "use_bfloat16", "quantization_config", "transformers_version", "architectures"}
HELD |= {"_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset", "_auto_class"}
HELD |= {"_from_model_config", "_flash_attn_2_enabled", "auto_map", "chunk_size_feed_forward", "chunk_size_lm_head"}
ASKED = {"use_cache", "return_dict", "return_last_states", "output_attentions", "output_hidden_states", "torchscript"}
ASKED |= {"output_router_logits", "task_specific_params", "finetuning_task", "prefix", "bos_token_id", "pad_token_id"}
# Search rules, which LanguageModel takes only from its arguments.
SEARCH = {"forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids"}
SEARCH |= {"min_length", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "repetition_penalty", "num_beams"}
SEARCH |= {"length_penalty", "early_stopping"}
CLASSES = {"id2label", "label2id", "num_labels", "problem_type", "summary_proj_to_labels"}
# LanguageModel reports the first two itself; the weights show ties; `random` is this package's own.
TOLD_ELSEWHERE = {"model_type", "dense_act_fn", "tie_word_embeddings", "tie_encoder_decoder", "random"}
NO_FUNCTION = TRAINING | STARTS | HELD | ASKED | SEARCH | CLASSES | TOLD_ELSEWHERE
# Token dropout is not matched: it rescales the other tokens, so it changes the function.
DROPOUT = re.compile("(?!.*token_dropout)(.+_)?(dropout|pdrop|layerdrop)(_p|_prob|_rate)?")
# Families that count positions from the padding token's id.
FROM_PADDING = {"camembert", "data2vec-text", "fsmt", "m2m_100", "nllb-moe", "roberta", "roberta-prelayernorm"}
FROM_PADDING |= {"seamless_m4t", "seamless_m4t_v2", "trocr", "xglm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
# Fields of NO_FUNCTION that some families do compute with; dory divides by its initializer_range.
COMPUTES_WITH = {"initializer_range": {"dory"}, "pad_token_id": FROM_PADDING}


def functional(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a transformers configuration (its `to_dict`) that change the model's function, if their values are
    plain. Fields of a nested configuration are named `its name.field`."""
    told, family = {}, fields.get("model_type")
    for name, value in fields.items():
        if isinstance(value, dict) and "model_type" in value:
            told |= {f"{name}.{each}": own for each, own in functional(value).items()}
        elif has_function(name, family) and is_plain(value) and value != {}:
            told[name] = value
    return told


def has_function(name: str, family: str | None) -> bool:
    """Whether a field changes what a model of this family computes."""
    silent = name in NO_FUNCTION or DROPOUT.fullmatch(name)
    return not silent or family in COMPUTES_WITH.get(name, ())
