"""The language model interface on tiny random models of both kinds, against transformers' own loss."""

import sys

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from lit_blip2.model.language import Example, LanguageModel
from lit_blip2.objectives.lm import LM, PrefixLM, split_prefix

WORDS = ["<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(30))]
SMALL = dict(vocab_size=len(WORDS), pad_token_id=0, bos_token_id=1, eos_token_id=1)
LLAMA = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)
FAMILIES = {
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            **SMALL, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64, word_embed_proj_dim=12,
        )
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, **LLAMA)),
    "qwen": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, **LLAMA)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, **LLAMA, head_dim=8, final_logit_softcapping=2.0)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SMALL, **LLAMA, logit_scale=0.3)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, **LLAMA, logits_scaling=3.0)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SMALL, n_embd=16, n_layer=2, n_head=2, n_positions=64)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(
            **SMALL, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        )
    ),
}  # fmt: skip


def word_tokenizer(encoder_decoder: bool) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "$A </s>" if encoder_decoder else "</s> $A"
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module", params=FAMILIES)
def language(request, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    model = FAMILIES[request.param]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    word_tokenizer(request.param == "t5").save_pretrained(folder)
    language = LanguageModel(str(folder), dtype="float32")
    language.load()
    if request.param != "t5":  # transformers puts the own tokenizer of Qwen, Gemma and Cohere over any file
        language.tokenizer = word_tokenizer(False)
    return language


@pytest.fixture
def prefix_BPD(language):
    return torch.randn(3, 4, language.width, generator=torch.Generator().manual_seed(1))


PROMPTS = ["w1 w2 w3", "w4", "w5 w6"]
TARGETS = ["w7", "w8 w9 w10 w11", "w12 w13"]


def per_sample(language, prefix_BPD, prompts, targets):
    losses_L, row_L = language.loss(prefix_BPD, language.tokenise(prompts, targets))
    return torch.zeros(len(prompts)).index_add(0, row_L, losses_L), torch.bincount(row_L)


def test_loss_is_transformers_own(language, prefix_BPD):
    """One sample at a time, no padding, labels -100 outside the target."""
    model, embed = language.model, language.model.get_input_embeddings()
    sums, counts = per_sample(language, prefix_BPD, PROMPTS, TARGETS)
    for i, (prompt, target) in enumerate(zip(PROMPTS, TARGETS)):
        prompt_ids = torch.tensor([language.tokenizer(prompt)["input_ids"]])
        target_ids = torch.tensor([[*language.tokenizer(target, add_special_tokens=False)["input_ids"], 1]])
        if language.encoder_decoder:
            inputs = torch.cat([prefix_BPD[i : i + 1], embed(prompt_ids)], dim=1)
            theirs = model(inputs_embeds=inputs, labels=target_ids).loss
        else:
            inputs = torch.cat([prefix_BPD[i : i + 1], embed(prompt_ids), embed(target_ids)], dim=1)
            ignored = torch.full((1, 4 + prompt_ids.shape[1]), -100)
            theirs = model(inputs_embeds=inputs, labels=torch.cat([ignored, target_ids], dim=1)).loss
        assert counts[i] == target_ids.shape[1]
        torch.testing.assert_close(sums[i] / counts[i], theirs, atol=1e-5, rtol=1e-5)


def test_loss_of_a_batch_is_that_of_its_samples(language, prefix_BPD):
    sums, _ = per_sample(language, prefix_BPD, PROMPTS, TARGETS)
    for i in range(3):
        alone, _ = per_sample(language, prefix_BPD[i : i + 1], PROMPTS[i : i + 1], TARGETS[i : i + 1])
        torch.testing.assert_close(sums[i : i + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_of_a_batch_are_those_of_its_samples(language, prefix_BPD, beams):
    together = language.generate(prefix_BPD, PROMPTS, max_new_tokens=6, num_beams=beams)
    alone = [
        language.generate(prefix_BPD[i : i + 1], PROMPTS[i : i + 1], max_new_tokens=6, num_beams=beams)[0]
        for i in range(3)
    ]
    assert together == alone and any(together)


def examples_of(language) -> list[Example]:
    """Two for each of the three prompts, of unequal lengths."""
    generator = torch.Generator().manual_seed(2)
    soft_2BPD = torch.randn(2, 3, 4, language.width, generator=generator)
    first = Example(soft_2BPD[0], ["w9 w8", "w7", "w1 w2 w3 w4"], ["w5", "w6 w7 w8", "w9"])
    return [first, Example(soft_2BPD[1], ["w1", "w2 w3", "w4"], ["w5 w6", "w7", "w8"])]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_examples_come_before_the_prompt(language, prefix_BPD, count, monkeypatch):
    """Each row is what one would lay out by hand, padding at its left end (for an encoder at its right)."""
    given, embed, tokenizer = {}, language.model.get_input_embeddings(), language.tokenizer
    monkeypatch.setattr(
        language.model, "generate", lambda **how: given.update(how) or torch.ones(3, 1, dtype=torch.long)
    )
    examples = examples_of(language)[:count]
    language.generate(prefix_BPD, PROMPTS, examples=examples)
    rows = []
    for i, prompt in enumerate(PROMPTS):
        parts = []
        for example in examples:
            solved = f"{example.prompts[i]} {example.answers[i]}"
            ids = tokenizer(solved)["input_ids"] + ([] if language.encoder_decoder else [tokenizer.eos_token_id])
            parts += [example.prefix_BPD[i], embed(torch.tensor(ids))]
        rows.append(torch.cat([*parts, prefix_BPD[i], embed(torch.tensor(tokenizer(prompt)["input_ids"]))]))
    longest = max(map(len, rows))
    assert given["inputs_embeds"].shape[1] == given["attention_mask"].shape[1] == longest
    for row, mask, wanted in zip(given["inputs_embeds"], given["attention_mask"].tolist(), rows):
        padding, real = [0] * (longest - len(wanted)), [1] * len(wanted)
        assert mask == (real + padding if language.encoder_decoder else padding + real)
        assert torch.equal(row[torch.tensor(mask, dtype=torch.bool)], wanted)


def test_answers_after_examples_are_those_of_samples_alone(language, prefix_BPD):
    examples = examples_of(language)
    together = language.generate(prefix_BPD, PROMPTS, max_new_tokens=6, num_beams=2, examples=examples)
    for i in range(3):
        own = [Example(*(each[i : i + 1] for each in example)) for example in examples]
        alone = language.generate(prefix_BPD[i : i + 1], PROMPTS[i : i + 1], 6, 2, examples=own)
        assert alone == together[i : i + 1]


def test_too_long_a_prompt_names_the_ways_out(language, prefix_BPD):
    """What is still to be generated counts too; an encoder has no last position."""
    longest = getattr(language.model.config, "max_position_embeddings", None)
    if longest is None:
        return
    few = longest - 4 - len(language.tokenizer("w1")["input_ids"]) + 1
    with pytest.raises(ValueError, match=rf"{few} more.*{longest} positions: put fewer examples \(in_context\)"):
        language.generate(prefix_BPD[:1], ["w1"], max_new_tokens=few + 1)
    if longest == 64:
        language.generate(prefix_BPD[:1], ["w1"], max_new_tokens=few, num_beams=1)


def test_text_alone(language):
    sums, _ = per_sample(language, None, PROMPTS, TARGETS)
    alone, _ = per_sample(language, None, PROMPTS[1:2], TARGETS[1:2])
    torch.testing.assert_close(sums[1:2], alone, atol=1e-5, rtol=1e-5)
    assert len(language.generate(None, PROMPTS, max_new_tokens=2, num_beams=1)) == 3


def test_greedy_answer_is_the_likeliest_next_word(language, prefix_BPD):
    """Generation and loss see the same sequence: the first word generated has the least loss of all."""
    language.model.generation_config.min_new_tokens = None
    first = language.generate(prefix_BPD[:1], ["w1 w2"], max_new_tokens=1, num_beams=1)[0]
    if first:
        candidates = WORDS[3:]
        losses_L, row_L = language.loss(
            prefix_BPD[:1].expand(len(candidates), -1, -1), language.tokenise(["w1 w2"] * len(candidates), candidates)
        )
        best = losses_L[torch.cat([torch.tensor([True]), row_L[1:] != row_L[:-1]])].argmin()
        assert candidates[best] == first


def test_gradient_reaches_the_soft_prompt_and_nothing_frozen(language, prefix_BPD):
    prefix_BPD.requires_grad_()
    losses_L, _ = language.loss(prefix_BPD, language.tokenise(PROMPTS, TARGETS))
    losses_L.sum().backward()
    assert prefix_BPD.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in language.parameters())


def test_frozen_means_eval_mode(language):
    torch.nn.ModuleList([language]).train()
    assert not any(module.training for module in language.model.modules())


@pytest.fixture
def trained(language):
    """The same weights, to be trained."""
    trained = LanguageModel(language.name, dtype="float32", frozen=False)
    trained.load()
    trained.tokenizer = language.tokenizer
    return trained


def test_every_weight_learns_where_it_is_not_frozen(trained, prefix_BPD):
    losses_L, _ = trained.loss(prefix_BPD, trained.tokenise(PROMPTS, TARGETS))
    losses_L.sum().backward()
    assert all(p.grad is not None for p in trained.parameters())
    assert sum(p.numel() for p in trained.parameters()) == trained.num_parameters


def test_what_trains_follows_its_parents_mode(trained, language, prefix_BPD):
    """In eval mode it is the frozen one; in train mode its dropout is on."""
    parent, text = torch.nn.ModuleList([trained]), trained.tokenise(PROMPTS, TARGETS)
    assert all(module.training for module in trained.modules())
    frozen_L, _ = language.loss(prefix_BPD, text)
    parent.eval()
    torch.testing.assert_close(trained.loss(prefix_BPD, text)[0], frozen_L)
    parent.train()
    drops = any(isinstance(module, torch.nn.Dropout) for module in trained.modules()) or "opt" in language.name
    assert torch.allclose(trained.loss(prefix_BPD, text)[0], frozen_L, atol=1e-4) != drops


def test_low_precision_is_for_frozen_weights(language):
    with pytest.raises(ValueError, match="dtype='bfloat16' with frozen=false: trainable weights stay float32"):
        LanguageModel(language.name, frozen=False)


def test_no_prompt_of_a_batch_is_dropped(language, prefix_BPD, monkeypatch):
    """A tokenizer without a begin token gives an empty prompt no token at all."""
    monkeypatch.setattr(language.plain, "begin", [])
    monkeypatch.setattr(language.plain, "close", [])
    with pytest.raises(ValueError, match=r"prompts \[1\]"):
        language.generate(prefix_BPD, ["w1", "", "w2"], max_new_tokens=1, num_beams=1)


def test_empty_target_is_named(language):
    with pytest.raises(ValueError, match=r"targets \[1\]"):
        language.tokenise(["w1", "w1"], ["w2", " "])


def test_captions_split_between_the_first_token_and_the_middle(language):
    captions = ["w1 w2 w3 w4 w5 w6"] * 3 + ["w7"]
    whole = language.tokenizer(captions, add_special_tokens=False)["input_ids"]
    prefixes, suffixes = split_prefix(whole, [0.0, 0.5, 0.999, 0.5])
    assert [len(each) for each in prefixes] == [1, 2, 3, 0]
    assert [len(each) for each in suffixes] == [5, 4, 3, 1]
    assert [a + b for a, b in zip(prefixes, suffixes)] == whole


def test_caption_targets_count_every_word_once(language):
    """Each with its end mark; the prefix, one token of four here, is no target."""
    captions = ["w1 w2 w3 w4", "w5"]
    whole, split = (part.text(language, captions, [""] * 2, torch.tensor([0.0, 0.0])) for part in (LM(), PrefixLM()))
    assert (len(whole.target_L), len(split.target_L)) == (4 + 1 + 1 + 1, 3 + 1 + 1 + 1)


def test_prefix_lm_is_the_loss_of_the_suffix_after_the_prefix(language, prefix_BPD):
    """The same sequence either way: the suffix's tokens are predicted after soft prompt, prompt and prefix."""
    text = PrefixLM().text(language, ["w1 w2 w3 w4"] * 3, ["w7"] * 3, torch.tensor([0.9, 0.9, 0.9]))
    losses_L, _ = language.loss(prefix_BPD, text)
    by_hand, _ = language.loss(prefix_BPD, language.tokenise(["w7 w1 w2"] * 3, ["w3 w4"] * 3))
    torch.testing.assert_close(losses_L, by_hand)
    torch.testing.assert_close(PrefixLM()(losses_L)["loss"], losses_L.mean())


def test_a_prompt_is_never_a_target(language):
    text = language.tokenise(["w1 w2", "w3"], ["w4", "w5 w6"])
    assert sorted(text.target_L.tolist()) == sorted(language.tokenizer.convert_tokens_to_ids(
        ["w4", "w5", "w6", "</s>", "</s>"]
    ))  # fmt: skip


def test_missing_weights_say_how_to_get_them():
    language = LanguageModel("facebook/opt-2.7b")
    assert language.width == 2560
    with pytest.raises(FileNotFoundError, match=r"opt-2.7b.*hf download facebook/opt-2.7b.*weights.*or put it at"):
        language.load()


def test_unknown_name_is_an_error_at_once():
    with pytest.raises(FileNotFoundError, match="no/such-model"):
        LanguageModel("no/such-model")


def test_weights_of_8_bits_give_nearly_the_same_loss_and_gradient(language, prefix_BPD, tmp_path):
    pytest.importorskip("torchao", reason="pip install .[quantised]")
    language.model.save_pretrained(tmp_path)
    quantised = LanguageModel(str(tmp_path), dtype="float32", bits=8)
    language.tokenizer.save_pretrained(tmp_path)
    quantised.load()
    quantised.tokenizer = language.tokenizer
    found = []
    for each in (language, quantised):
        prefix = prefix_BPD.clone().requires_grad_()
        losses_L, _ = each.loss(prefix, each.tokenise(PROMPTS, TARGETS))
        losses_L.sum().backward()
        found.append((losses_L.detach(), prefix.grad))
    for exact, near, most in zip(*found, (0.1, 0.3)):  # tiny layers, large weights: larger errors
        assert 0 < (near - exact).norm() < most * exact.norm()
    assert not any(p.requires_grad for p in quantised.parameters())


def test_quantised_weights_are_for_frozen_models(tmp_path, language, monkeypatch):
    folder = str(language._folder())
    with pytest.raises(ValueError, match=r"bits=8 with frozen=false: quantised weights cannot be trained"):
        LanguageModel(folder, dtype="float32", frozen=False, bits=8)
    with pytest.raises(ValueError, match=r"bits=4 with dtype='float32': its kernels take bfloat16"):
        LanguageModel(folder, dtype="float32", bits=4)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r"bits=8 needs torchao: pip install \.\[quantised\]"):
        LanguageModel(folder, dtype="float32", bits=8).load()
