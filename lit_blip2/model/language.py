"""LanguageModel, one interface to decoders and encoder-decoders: loss and generation after a soft prompt.

Decoder (OPT, Llama, Qwen, GPT-2):  [soft prompt; prompt; target]  right-padded for the loss, the prompt
                                    [padding; soft prompt; prompt] left-padded for generation, where solved examples
                                    [soft prompt; prompt; answer] may come before
Encoder-decoder (T5):               encoder [soft prompt; prompt], decoder: target

Logits are computed only where a target token is predicted. Soft prompt, prompt and padding are never targets.

Legend: B samples, P soft prompt positions, T padded text positions, S = P + T, L targets of all samples, D width,
V vocabulary.
"""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2.model.ends import before_mark, stops_at
from lit_blip2.model.functional import functional
from lit_blip2.model.lora import add_lora, count_lora, lora_settings
from lit_blip2.model.plain import Plain, naming
from lit_blip2.model.pretrained import (
    build,
    build_random,
    in_cache,
    quantise,
    read_config,
    read_tokenizer,
    set_activation,
    tell_no_begin,
    without_search_rules,
)
from lit_blip2.model.probe import check_embeddings, why_no_answers
from lit_blip2.model.published import check_is, language_card, published
from lit_blip2.model.random_weights import RANDOM, tell_random
from lit_blip2.model.room import LEAST_ROOM, limits, share
from lit_blip2.model.target_text import TargetText, cut_together, pack_prompts, to_decoder, to_encoder_decoder
from lit_blip2.model.text import PackedText
from lit_blip2.paths import OR_PUT_BACK, find
from lit_blip2.settings import WEIGHTS
from lit_blip2.signature import signature


class Example(NamedTuple):
    """An in-context example for each of B prompts: soft prompts [B, P, D] (or None), prompts and answers. names: how
    error messages call each example, such as "question 12"."""

    prefix_BPD: Tensor | None
    prompts: Sequence[str]
    answers: Sequence[str]
    names: Sequence[str] = ()


class LanguageModel(nn.Module):
    """A causal or encoder-decoder language model of Hugging Face. `load()` builds it and reads its weights.

    Prompts and targets that are cut are reported; a model with few positions cuts earlier than the arguments say.
    Attributes: config: fields of its config.json. width: width of the input embeddings.

    Args:
        name: a folder with config.json, or a name on the Hugging Face hub such as facebook/opt-2.7b.
        weights: folder of weights and tokenizer; null: the folder `name`, or what huggingface_hub has downloaded for
            the name; random: random weights for trials, the same ones each time, with the tokenizer of the folder
            `name`.
        dtype: number format of frozen weights, bfloat16 or float32 (T5 does not work in float16). Trained weights are
            float32.
        end: text or special token that ends a target and stops generation, such as a newline. Of a list, the first
            ends targets and each stops generation; null: the tokenizer's end token.
        frozen: true: no gradients, and always in eval mode; false: the language model trains.
        bits: 8 or 4: number of bits of the linear layers' frozen weights (needs torchao, `pip install .[quantised]`;
            4 needs a GPU and bfloat16); null: not quantised.
        lora: arguments of peft.LoraConfig, such as {r: 8, lora_alpha: 16, target_modules: [q_proj, v_proj]}: LoRA
            weights of these layers train in float32 beside the frozen weights; null: none.
        max_prompt_tokens: longest prompt in tokens; a longer prompt loses its beginning.
        max_target_tokens: longest target in tokens, without the end token; a longer target loses its end.
        frozen_dropout: true: a frozen model's dropout is active in training, as in LAVIS; false: never.
        dense_act_fn: for T5, the activation of the feed-forwards, such as gelu as in LAVIS; null: the one in its
            config.json (gelu_new in the published models).
    Raises:
        FileNotFoundError: the model's folder is missing. ValueError: arguments that do not fit each other.
    """

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        dtype: str = "bfloat16",
        end: str | list[str] | None = None,
        frozen: bool = True,
        bits: Literal[8, 4] | None = None,
        lora: dict[str, Any] | None = None,
        max_prompt_tokens: int = 512,
        max_target_tokens: int = 256,
        frozen_dropout: bool = False,
        dense_act_fn: str | None = None,
    ):
        super().__init__()
        if min(max_prompt_tokens, max_target_tokens) < 1:
            raise ValueError(f"{max_prompt_tokens=}, {max_target_tokens=}: each must be at least 1")
        _check_weights(dtype, frozen, bits, lora)
        self.name, self.weights, self.dtype, self.end = name, weights, getattr(torch, dtype), end
        self.frozen, self.bits, self.lora = frozen, bits, lora
        self.frozen_dropout, self.dense_act_fn = frozen_dropout, dense_act_fn
        card = published().get(name)
        if card is None:
            config = read_config(folder := self._folder())
            card = language_card(build(config, source=str(folder / "config.json"))) | {"config": config}
        elif weights not in (None, RANDOM) and Path(weights).expanduser().is_dir():
            self._folder()  # refuses another model's folder before anything is built
        self.config: dict[str, Any] = card["config"]
        self.random = weights == RANDOM or self.config.get("random") is True  # an exported random model says so
        self.width: int = card["width"]
        self.num_parameters: int = card["parameters"]
        self.num_lora: int = 0 if lora is None else count_lora(build(self.config), lora)
        self.model: nn.Module | None = None
        self.signature: dict[str, Any] | None = None  # of the weights that were loaded
        self.no_answers: str | None = None  # why nothing that it generates can be used
        self.tokenizer: Any = None
        self.max_prompt_tokens, self.max_target_tokens = max_prompt_tokens, max_target_tokens
        self._plain: Plain | None = None

    def _folder(self) -> Path:
        """The folder of weights and tokenizer. Raises FileNotFoundError, or ValueError for the folder of another
        model."""
        folder = self._found()
        if (folder / "config.json").is_file():
            check_is(self.name, read_config(folder), folder / "config.json")
        return folder

    def _found(self) -> Path:
        known = published().get(self.name, {})
        way_out = (
            f"Get it ({known.get('download', 'hf download NAME --local-dir FOLDER')}) and point "
            f"--model.net.language.weights to the folder{OR_PUT_BACK}"
        )
        place = self.weights or self.name
        if self.weights == RANDOM:
            place = self.name
            way_out = (
                "Random weights still need its config.json and tokenizer: point --model.net.language.name to a folder "
                f"of them{OR_PUT_BACK}"
            )
        try:
            return find(place, f"language model {self.name}", way_out)
        except FileNotFoundError:
            if (cached := in_cache(place)) is None:
                raise
            return cached

    def load(self) -> None:
        """Read weights and tokenizer from disk. Nothing is downloaded. Raises FileNotFoundError."""
        if self.model is not None:
            return
        folder = self._folder()
        if self.random and self.weights != RANDOM:
            tell_random(f"language model {self.name}", f"as {folder / 'config.json'} says")
        model = self._random() if self.weights == RANDOM else build(read_config(folder), folder, self.dtype)
        self.model = model.requires_grad_(not self.frozen)
        self.signature = signature(self.model.parameters())
        self.model.generation_config = without_search_rules(self.model.config)
        check_embeddings(self.model, self.name)
        self.no_answers = why_no_answers(self.model, self.name)
        if self.no_answers:
            warnings.warn(self.no_answers, stacklevel=2)
        if self.dense_act_fn is not None:
            set_activation(self.model, self.dense_act_fn)
        if self.bits is not None:
            quantise(self.model, self.bits)
        if self.lora is not None:
            add_lora(self.model, self.lora)
        self.load_tokenizer()
        self.train(self.training)

    def _random(self) -> nn.Module:
        tell_random(f"language model {self.name}", f"language.weights={RANDOM}")
        return build_random(self.config, self.dtype)

    def load_tokenizer(self) -> None:
        """Read only the tokenizer from disk."""
        if self.tokenizer is None:
            folder = self._folder()
            self.tokenizer = read_tokenizer(folder)
            tell_no_begin(folder, self.config["model_type"], self.tokenizer)

    @property
    def plain(self) -> Plain:
        """The tokenizer, wrapped to encode plain text without special tokens."""
        if self._plain is None or self._plain.tokenizer is not self.tokenizer:
            self._plain = Plain(self.tokenizer)
        return self._plain

    def settings(self) -> dict[str, Any]:
        """Settings that change the output and are not visible in the weights' shapes."""
        own = {"model_type": self.config["model_type"]}
        if active := self.dense_act_fn or getattr(getattr(self.model, "config", None), "dense_act_fn", None):
            own["dense_act_fn"] = active
        if self.model is not None:
            own |= {f"config.{name}": value for name, value in functional(self.model.config.to_dict()).items()}
        if self.tokenizer is not None:
            own["tokenizer.digest"] = self.plain.digest
        if self.lora is not None:
            own |= {f"lora.{name}": value for name, value in lora_settings(self.lora).items()}
        return own | ({WEIGHTS: self.signature} if self.signature else {})

    def train(self, mode: bool = True) -> "LanguageModel":
        """As in nn.Module, but a frozen language model stays in eval mode unless frozen_dropout is set. LoRA's dropout
        follows `mode`."""
        super().train(mode and (self.frozen_dropout or not self.frozen))
        for name, module in self.named_modules() if self.lora else ():
            if name.endswith("lora_dropout"):
                module.train(mode)
        return self

    @property
    def encoder_decoder(self) -> bool:
        """Whether the model has an encoder (T5)."""
        return self.model.config.is_encoder_decoder

    def tokenise(
        self, prompts: Sequence[str], targets: Sequence[str], longest: int | None = None, learn_begin: bool = False
    ) -> TargetText:
        """Prompts and targets as token ids, on the CPU. An empty prompt becomes the tokenizer's begin token, if any.

        Prompt and target are tokenised separately and joined as ids, so the border between them is exact. longest,
        learn_begin: for a decoder, the arguments max_text_tokens and learn_begin of LM. Raises ValueError, with its
        position, for a target that is empty or of which `longest` leaves nothing.
        """
        if self.encoder_decoder and (longest is not None or learn_begin):
            raise ValueError(
                f"max_text_tokens={longest}, learn_begin={learn_begin} are for a decoder, and {self.name} has an "
                "encoder: leave them out; language.max_target_tokens cuts its targets"
            )
        if empty := [place for place, text in enumerate(targets) if not text.strip()]:
            raise ValueError(f"targets {empty} of this batch are empty: a target needs at least one word")
        target_ids = self.target_ids(targets, [bool(prompt.strip()) for prompt in prompts])
        prompt_ids = self.prompt_ids(prompts, [self.room(len(ids)) for ids in target_ids])
        if longest is not None:
            target_ids = cut_together(prompt_ids, target_ids, longest)
        if learn_begin:
            target_ids = [a + b if not text.strip() else b for text, a, b in zip(prompts, prompt_ids, target_ids)]
            prompt_ids = [ids if text.strip() else [] for text, ids in zip(prompts, prompt_ids)]
        return self.join(self.closed(prompt_ids), target_ids)

    def room(self, beside: int) -> int | None:
        """Positions left for a prompt in training beside `beside` other tokens. A quarter of all positions is kept for
        the soft prompt. None: no limit."""
        return None if self.positions is None else max(LEAST_ROOM, self.positions - self.positions // 4 - beside)

    def prompt_ids(self, prompts: Sequence[str], room: Sequence[int | None] | int | None = None) -> list[list[int]]:
        """Token ids of prompts, with the tokenizer's begin tokens. room: positions available for all or for each of
        them; None or too few: no cut here, and `_check_length` raises the error."""
        begin = self.plain.begin
        most = limits(self.max_prompt_tokens, room, len(prompts), len(begin))
        ids = self.plain.cut(prompts, self.plain.ids(prompts), most, "prompt", "max_prompt_tokens", keep_end=True)
        return [begin + each for each in ids]

    def closed(self, ids: list[list[int]]) -> list[list[int]]:
        """Token ids with the tokenizer's closing tokens, for an encoder; unchanged for a decoder."""
        return [each + self.plain.close for each in ids] if self.encoder_decoder else ids

    def target_ids(
        self, targets: Sequence[str], after_words: Sequence[bool], room: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Token ids of targets with the end token. A target that follows words starts with a space. room: positions
        available for each target, without the end token."""
        end = self.end_mark()
        return [each + end for each in self.words_to_learn(targets, after_words, room)]

    def words_to_learn(
        self, targets: Sequence[str], after_words: Sequence[bool], room: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Token ids of targets, cut to the longest length, without the end token."""
        texts, most = self._spaced(targets, after_words), limits(self._longest_target(), room, len(targets))
        return self.plain.cut(texts, self.plain.ids(texts), most, "target", "max_target_tokens")

    def _spaced(self, targets: Sequence[str], after_words: Sequence[bool]) -> list[str]:
        space = "" if self.encoder_decoder else self.plain.space
        return [(space if after else "") + text.strip() for text, after in zip(targets, after_words)]

    def _longest_target(self) -> int:
        return self.max_target_tokens if self.positions is None else min(self.max_target_tokens, self.positions // 2)

    @property
    def ends(self) -> list[str]:
        """`end`, as a list."""
        return [self.end] if isinstance(self.end, str) else list(self.end or [])

    def end_mark(self) -> list[int]:
        """Token ids that end a target. Raises ValueError if the tokenizer has no end token and `end` is not set."""
        if not self.ends and self.tokenizer.eos_token_id is None:
            raise ValueError(
                f"the tokenizer of language model {self.name} has no end token, so no target would end: set "
                "model.net.language.end to a text that ends one, such as a newline, or eos_token in its "
                "tokenizer_config.json"
            )
        return self._mark(self.ends[0]) if self.ends else [self.tokenizer.eos_token_id]

    def _mark(self, end: str) -> list[int]:
        """Token ids of one of `ends`. Raises ValueError for a text that the tokenizer cannot represent."""
        mark = self.plain.mark(end)
        written = self.tokenizer.decode(mark, clean_up_tokenization_spaces=False)
        if not mark or written.strip(" ").casefold() != end.strip(" ").casefold():
            raise ValueError(
                f"end={end!r} is {written!r} to language model {self.name}'s tokenizer, and would end answers there: "
                "choose another"
            )
        return mark

    def join(self, prompt_ids: list[list[int]], target_ids: list[list[int]]) -> TargetText:
        """Prompt and target ids in the form that `loss` takes."""
        if self.encoder_decoder:
            return to_encoder_decoder(prompt_ids, target_ids, self.model.config.decoder_start_token_id)
        return to_decoder(prompt_ids, target_ids)

    def loss(self, prefix_BPD: Tensor | None, text: TargetText) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood in nats of each target token, float32 [L], and the row it belongs to, int64 [L].

        prefix_BPD: soft prompt in any float dtype; None: text alone (every prompt then needs a token).
        """
        logits_LV, row_L = self.logits(prefix_BPD, text)
        return F.cross_entropy(logits_LV, text.target_L, reduction="none"), row_L

    def logits(self, prefix_BPD: Tensor | None, text: TargetText) -> tuple[Tensor, Tensor]:
        """Logits of each target token, float32 [L, V], and the row it belongs to, int64 [L]. The model's own forward
        computes them, so all that its family does around the head is included."""
        embeds_BSD, mask_BS = self._embed([(prefix_BPD, text.inputs)])
        self._check_length(embeds_BSD.shape[1])
        inputs = {"inputs_embeds": embeds_BSD, "attention_mask": mask_BS, "use_cache": False}
        if self.encoder_decoder:
            decoder = text.decoder_inputs
            inputs |= {"decoder_input_ids": decoder.padded(), "decoder_attention_mask": decoder.valid_BT.long()}
            return self._logits_at(text.place_L, inputs), text.place_L // decoder.max_length
        prefix = 0 if prefix_BPD is None else prefix_BPD.shape[1]
        width = text.inputs.max_length + 1
        row_L = text.place_L // width
        place_L = row_L * (prefix + width - 1) + text.place_L % width + prefix - 1
        return self._logits_at(place_L, inputs), row_L

    def _logits_at(self, place_L: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Logits [L, V] at places of the model's flattened output. Its head gets only the hidden states there."""
        picked = []

        def pick(_, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            picked.append(args[0].flatten(0, 1).index_select(0, place_L)[None])
            return (picked[-1], *args[1:])

        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(pick)
        try:
            logits_LV = self.model(**inputs).logits.flatten(0, 1)
        finally:
            hook.remove()
        # A family that uses its head's weight without calling the head has computed all rows.
        return (logits_LV if picked else logits_LV.index_select(0, place_L)).float()

    def _embed(self, segments: Sequence[tuple[Tensor | None, PackedText | None]]) -> tuple[Tensor, Tensor]:
        """[soft prompt; text; soft prompt; ...], each text right-padded: embeddings [B, S, D] and mask int64 [B, S]."""
        embeds, masks = [], []
        for prefix_BPD, text in segments:
            if prefix_BPD is not None:
                embeds.append(prefix_BPD.to(self.dtype))
                masks.append(torch.ones(prefix_BPD.shape[:2], dtype=torch.long, device=prefix_BPD.device))
            if text is not None:
                embeds.append(self.model.get_input_embeddings()(text.padded()))
                masks.append(text.valid_BT.long())
        return torch.cat(embeds, dim=1), torch.cat(masks, dim=1)

    @property
    def positions(self) -> int | None:
        """The longest sequence in positions; None: no limit."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def _check_length(self, length: int, new: int = 0) -> None:
        """Raises ValueError if a sequence of `length` and `new` further tokens exceed the model's positions."""
        longest = self.positions
        if longest is not None and length + new > longest:
            raise ValueError(
                f"soft prompt and text are {length} tokens long, with room for {new} more; {self.name} has {longest} "
                "positions: put fewer examples (in_context) in front, or use shorter texts or fewer queries"
            )

    @torch.no_grad()
    def generate(
        self,
        prefix_BPD: Tensor | None,
        prompts: Sequence[str],
        max_new_tokens: int = 30,
        num_beams: int = 5,
        length_penalty: float = 1.0,
        examples: Sequence[Example] = (),
    ) -> list[str]:
        """Generated text after each prompt, without the prompt, stripped: greedy with one beam, else by beam search.

        prefix_BPD: soft prompts; None: no image. examples: in-context examples, in this order. The other arguments are
        those of transformers' generate. Raises ValueError for a model that cannot generate correctly.
        """
        if self.no_answers:
            raise ValueError(self.no_answers)
        prefixes = [*(each.prefix_BPD for each in examples), prefix_BPD]
        ids = self._ids_before(prompts, examples, self._room_left(prefixes, max_new_tokens))
        if prefix_BPD is None and not examples and not any(ids[-1]):
            raise ValueError(
                f"nothing to go on from: no image, an empty prompt, and the tokenizer of {self.name} has no begin token"
            )
        texts = [pack_prompts(each) for each in ids]
        texts = [text if text is None else text.to(self.model.device) for text in texts]
        embeds_BSD, mask_BS = _packed(*self._embed(list(zip(prefixes, texts))), left=not self.encoder_decoder)
        # The last generated token is never read. An encoder's positions hold no generated tokens.
        self._check_length(embeds_BSD.shape[1], 0 if self.encoder_decoder else max_new_tokens - 1)
        ends = [mark[0] for mark in self.end_marks() if len(mark) == 1]
        marks = [mark for mark in self.end_marks() if len(mark) > 1]
        ids_BT = self.model.generate(
            inputs_embeds=embeds_BSD,
            attention_mask=mask_BS,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            **({"length_penalty": length_penalty} if num_beams > 1 else {}),
            do_sample=False,
            pad_token_id=self.pad_id(),
            # If no end is a single token, an id that no token has: without any, transformers takes the config's.
            eos_token_id=ends or [self.model.get_input_embeddings().num_embeddings],
            stopping_criteria=[stops_at(marks)] if marks else None,
        )
        return self._answers(ids_BT.tolist(), marks)

    def _answers(self, rows: list[list[int]], marks: list[list[int]]) -> list[str]:
        """Generated ids as texts, each cut at its end. marks: ends of several tokens."""
        ids = [before_mark(row, marks) if marks else row for row in rows]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        for end in self.ends:
            texts = [text.split(end)[0] for text in texts]
        return [text.strip() for text in texts]

    def _room_left(self, prefixes: Sequence[Tensor | None], new: int) -> int | None:
        """Positions left for texts beside soft prompts and `new` generated tokens, of which the last is never read. An
        encoder's positions hold no generated tokens. None: no limit."""
        if self.positions is None:
            return None
        soft = sum(0 if each is None else each.shape[1] for each in prefixes)
        return self.positions - soft - (0 if self.encoder_decoder else new - 1)

    def _ids_before(
        self, prompts: Sequence[str], examples: Sequence[Example], room: int | None
    ) -> list[list[list[int]]]:
        """Token ids before generation: those of each in-context example (prompt and answer as in training; for an
        encoder as one text), then those of the prompts. If a row exceeds `room`, its longest texts are cut."""
        if self.encoder_decoder:
            joined = ([f"{a} {b}" for a, b in zip(each.prompts, each.answers)] for each in examples)
            examples = [each._replace(prompts=texts, answers=()) for each, texts in zip(examples, joined)]
        asked, found = [*examples, Example(None, prompts, ())], []
        rooms = None if room is None else self._rooms(asked, room)
        for each in asked:
            with naming(each.names) if each.names else nullcontext():
                ids = self.closed(self.prompt_ids(each.prompts, rooms))
                if each.answers:
                    ends = self.target_ids(each.answers, [bool(text.strip()) for text in each.prompts], rooms)
                    ids = [one + two for one, two in zip(ids, ends)]
            found.append(ids)
        return found

    def _rooms(self, asked: Sequence[Example], room: int) -> list[int]:
        """For every row, the number of tokens that each prompt and each answer may have. End tokens and the
        tokenizer's own special tokens are never cut."""
        begin, sizes = len(self.plain.begin), []
        for each in asked:
            room -= len(self.closed([[]])[0])
            sizes.append([begin + min(len(ids), self.max_prompt_tokens) for ids in self.plain.ids(each.prompts)])
            if each.answers:
                room -= len(self.end_mark())
                texts = self._spaced(each.answers, [bool(text.strip()) for text in each.prompts])
                sizes.append([min(len(ids), self._longest_target()) for ids in self.plain.ids(texts)])
        return [share(row, room) for row in zip(*sizes)]

    def pad_id(self) -> int:
        """The padding token: the tokenizer's, or if it has none the end token."""
        pad = self.tokenizer.pad_token_id
        return self.end_mark()[-1] if pad is None else pad

    def end_marks(self) -> list[list[int]]:
        """Token ids of every end that stops generation; the first is the one that ends targets."""
        marks = [self.end_mark(), *map(self._mark, self.ends)]
        return [mark for place, mark in enumerate(marks) if mark not in marks[:place]]

    def end_ids(self) -> list[int]:
        """The last token of each end, for libraries in which an end is a single token."""
        return list(dict.fromkeys(mark[-1] for mark in self.end_marks()))


def _check_weights(dtype: str, frozen: bool, bits: int | None, lora: dict[str, Any] | None) -> None:
    """Raises ValueError for settings of the weights that do not fit each other."""
    if lora is not None and (bits is not None or not frozen):
        raise ValueError(f"lora with bits={bits}, frozen={frozen}: it changes frozen weights that are not quantised")
    if bits is not None and not frozen:
        raise ValueError(f"bits={bits} with frozen=false: quantised weights cannot be trained")
    if bits == 4 and dtype != "bfloat16":
        raise ValueError(f"bits=4 with dtype={dtype!r}: its kernels take bfloat16")
    if dtype not in ("bfloat16", "float32"):
        raise ValueError(f"dtype={dtype!r} must be bfloat16 or float32")
    if not frozen and dtype != "float32":
        raise ValueError(f"dtype={dtype!r} with frozen=false: trainable weights stay float32")


def _packed(embeds_BSD: Tensor, mask_BS: Tensor, left: bool) -> tuple[Tensor, Tensor]:
    """Move all padding to the left end, or to the right one, and cut it to what the longest row needs."""
    size = int(mask_BS.sum(1).max())
    source_BS = mask_BS.argsort(dim=1, descending=not left, stable=True)  # real positions keep their order
    source_BS = source_BS[:, -size:] if left else source_BS[:, :size]
    return embeds_BSD.take_along_dim(source_BS[..., None], dim=1), mask_BS.take_along_dim(source_BS, dim=1)
