"""The image encoder: a timm ViT, cut after its second-to-last block (paper, 3.1), or another of timm's networks whose
last feature map becomes tokens.

Legend: B images, N image tokens ([CLS] first), H height and W width of an image; W width of a token.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_blip2.checkpoint import read_safely, unwrapped
from lit_blip2.contents import DataError, check_regular, reading
from lit_blip2.model.published import published, vision_card
from lit_blip2.model.random_weights import RANDOM, same_each_time, tell_random
from lit_blip2.model.timm_network import (
    Copies,
    asks_for_same,
    build,
    can_resize,
    check_tokens,
    has_blocks,
    resize,
    same_network,
    tokens,
)
from lit_blip2.paths import OR_PUT_BACK, find
from lit_blip2.pixels import UNNOTED, Interpolation, Looks, card_beside, normalise, tell_unread
from lit_blip2.settings import WEIGHTS
from lit_blip2.signature import signature

# Keys under which training programs store weights; the first one present counts, as in timm.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
COORDINATES = "relative_coords_table"  # end of a weight's name


class VisionEncoder(nn.Module):
    """Image encoder, a timm network. `load()` builds it and reads its weights.

    Its output is a sequence of image tokens: of a ViT, the output of a block without the final norm; of a
    convolutional network, the last feature map, row by row. Image size, mean, std and interpolation come from the
    config.json beside the weights, if there is one, else from timm. The model_args in that file are compared with
    those given here: weights of a different network raise ValueError.

    Args:
        name: timm's model name, such as eva_giant_patch14_clip_224.
        weights: safetensors or .pth file that timm can read for this model; null: the file that timm has downloaded
            for this name; random: random weights for trials, the same ones each time at one image size.
        image_size: height and width of images in pixels; null: the model's own. For another size the position
            embeddings are interpolated.
        model_args: more arguments for timm's create_model; null: none.
        drop_last_blocks: number of last blocks to leave out: 1 gives the second-to-last block's output, as in the
            paper, 0 the last block's. Convolutional networks need 0.
        mean: mean of the three colours, 0 to 1, subtracted from the pixels; null: the encoder's own.
        std: standard deviation of the three colours, by which pixels are divided; null: the encoder's own.
        interpolation: filter that resizes images, bicubic or bilinear; null: the encoder's own.
        frozen: true: no gradients, and always in eval mode; false: the encoder trains.
        dtype: number format of frozen weights: float32, bfloat16 or float16. Trained weights are float32.
        checkpointing: for a trained encoder, keep only each block's input and compute the block again in the backward
            pass: less memory, more time.
    """

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        image_size: int | None = None,
        model_args: dict[str, Any] | None = None,
        drop_last_blocks: int = 1,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        interpolation: Interpolation | None = None,
        frozen: bool = True,
        dtype: str = "float32",
        checkpointing: bool = False,
    ):
        super().__init__()
        _check_weights(dtype, frozen, checkpointing)
        if weights == RANDOM:  # warned here, because cached features need no load()
            tell_random(f"image encoder {name}", f"vision.weights={RANDOM}")
        self.name, self.weights, self.frozen = name, weights, frozen
        self.own_args, self.image_size = dict(model_args or {}), image_size
        beside = self._card_beside()
        from_random = beside.pop("random", False)
        self.random = weights == RANDOM or from_random
        if from_random:
            tell_random(f"image encoder {name}", f"as the config.json beside {weights} says")
        self.model_args = self.own_args | self._asked_size(beside)
        self.drop_last_blocks, self.dtype = drop_last_blocks, getattr(torch, dtype)
        self.checkpointing = checkpointing
        self.encoder: nn.Module | None = None
        self.signature: dict[str, Any] | None = None  # of the weights that were loaded
        card = self._own_card()
        self._check_built(beside.pop("model_args", {}))
        self.width: int = card["width"]
        self.num_parameters: int = card["parameters"]
        given = {"mean": mean, "std": std, "interpolation": interpolation}
        given = {key: value for key, value in given.items() if value is not None}
        self.mean, self.std, self.interpolation = looks = Looks.of(card | beside | given, name)
        if not UNNOTED.keys() <= beside.keys() | given.keys() and (file := self._given_file()) is not None:
            tell_unread(file, looks, name)
        self.size = _side(self.model_args.get("img_size", (card | beside)["size"]))  # pixels along a side of an image

    def weights_file(self) -> Path:
        """Path of the weights file. Raises FileNotFoundError, with the way to get it."""
        download = published().get(self.name, {}).get("download", "any file that timm can read for this model")
        way_out = f"Get it ({download}) and point --model.net.vision.weights to it"
        if self.weights is None:
            if (cached := _in_cache(self.name)) is not None:
                return cached
            raise FileNotFoundError(f"weights of image encoder {self.name}: none given. {way_out}.")
        found = find(self.weights, f"weights of image encoder {self.name}", f"{way_out}{OR_PUT_BACK}")
        check_regular(found)
        if not found.is_dir():
            return found
        if not (found / "model.safetensors").is_file():
            raise FileNotFoundError(
                f"{found} is a folder without model.safetensors: point --model.net.vision.weights to the file in it"
            )
        return found / "model.safetensors"

    def load(self) -> None:
        """Build the network and read its weights from disk. Nothing is downloaded."""
        if self.encoder is not None:
            return
        encoder = self._made()
        try:
            encoder.set_grad_checkpointing(self.checkpointing)
        except AssertionError as error:
            raise ValueError(f"checkpointing=true: image encoder {self.name} cannot: {error}") from error
        self.signature = _signature(encoder)
        self.encoder = encoder.to(self.dtype).requires_grad_(not self.frozen)
        self.train(self.training)

    def _made(self) -> nn.Module:
        return self._random() if self.weights == RANDOM else self._read(self.weights_file())

    def signed(self) -> dict[str, Any] | None:
        """The signature of the weights. If they are not loaded, and cached features did not supply it, the file is read
        only for this. None if the file is missing, since cached features do not need it."""
        if self.signature is None:
            try:
                self.signature = _signature(self._made())
            except FileNotFoundError:
                return None
        return self.signature

    def _own_card(self) -> dict[str, Any]:
        """Width, size and image preparation: the published ones for this name, else those of the network, built on the
        meta device. Raises ValueError for a network that cannot be used."""
        published_card = published().get(self.name, {})
        if published_card and not self.model_args and self.drop_last_blocks == 1:
            return published_card
        if self.image_size is not None:
            own = build(self.name, self.own_args, self.drop_last_blocks, device="meta")
            _check_resizes(self.name, own, self.image_size)
        meta = build(self.name, self.model_args, self.drop_last_blocks, device="meta")
        card = vision_card(meta)
        check_tokens(self.name, meta, _side(self.model_args.get("img_size", card["size"])))
        if not self.frozen:
            _check_trains(self.name, meta)
        return card

    def _given_file(self) -> Path | None:
        """The file that the settings name, if it is there."""
        if self.weights in (None, RANDOM):
            return None
        try:
            return self.weights_file()
        except FileNotFoundError:
            return None

    def _card_beside(self) -> dict[str, Any]:
        """What the config.json beside the weights says of images and of the network; empty if there are no weights."""
        file = self._given_file()
        return {} if file is None else card_beside(file, self.name)

    def _asked_size(self, beside: Mapping[str, Any]) -> dict[str, int]:
        """timm's img_size argument: the size asked for, else that of the weights if timm's network has a fixed, other
        size; empty if neither applies."""
        if self.image_size is not None:
            return {"img_size": self.image_size}
        if "img_size" in self.own_args or "size" not in beside:
            return {}
        import timm

        timms = timm.get_pretrained_cfg(self.name)
        other = timms is not None and timms.fixed_input_size and timms.input_size[-1] != beside["size"]
        return {"img_size": beside["size"]} if other else {}

    def _check_built(self, theirs: Mapping[str, Any]) -> None:
        """Raises ValueError if the arguments in a config.json make a network that computes something else. Sizes are
        left to the weights file, and dropout acts only in training."""
        names = [name for name in theirs if name not in ("img_size", "depth") and "drop" not in name]
        other = [name for name in names if name not in self.own_args or self.own_args[name] != theirs[name]]
        if not other:
            return
        args = self.model_args | {name: theirs[name] for name in other}
        if not same_network(self.name, args, self.model_args, self.drop_last_blocks):
            said = {name: theirs[name] for name in other}
            raise ValueError(
                f"{self._given_file().with_name('config.json')} says that these weights are of a network with {said}, "
                f"here image encoder {self.name} has model_args={self.own_args}: set those too"
            )

    def _random(self) -> nn.Module:
        """The network with timm's initial weights, the same ones each time."""
        with same_each_time():
            return build(self.name, self.model_args, self.drop_last_blocks)

    def _read(self, file: Path) -> nn.Module:
        """The network with a file's weights. Position embeddings of another size are interpolated by `resize`, because
        timm does it differently. timm's own reading shows their size, whatever the file calls them."""
        coordinates = _check_safe(file)
        begun, copies = torch.get_rng_state(), Copies()
        encoder = build(self.name, self.model_args, self.drop_last_blocks, weights=file, copies=copies)
        self._tell_patches(file, copies.patches, encoder)
        ours = can_resize(encoder) and encoder.patch_embed.img_size is not None
        made = {name: tuple(buffer.shape[1:3]) for name, buffer in encoder.named_buffers()}
        apart = [size for name, size in coordinates.items() if made.get(name, size) != size]
        self._tell_tables(file, apart + copies.tables + ([] if ours else copies.grids))
        if not copies.grids or not ours:
            return encoder
        asked, (rows, columns) = encoder.patch_embed.img_size, copies.grids[0]
        height, width = (pixels // n for pixels, n in zip(asked, encoder.patch_embed.grid_size))
        self._tell_resized(file, held := (rows * height, columns * width))
        torch.set_rng_state(begun)  # later random draws must not depend on the file's size
        encoder = build(self.name, self.model_args | {"img_size": held}, self.drop_last_blocks, weights=file)
        resize(encoder, asked)
        return encoder

    def _tell_patches(self, file: Path, held: list[tuple[int, int]], encoder: nn.Module) -> None:
        """Warn if the file's patches have another size: timm resamples them."""
        if held:
            warnings.warn(
                f"{file} has patches of {held[0][-1]} pixels, image encoder {self.name} of "
                f"{encoder.patch_embed.proj.kernel_size[-1]}: timm resamples them; give the name of the network that "
                "the file was trained as",
                stacklevel=4,
            )

    def _tell_tables(self, file: Path, held: list[tuple[int, int]]) -> None:
        """Warn of positions of another size that `resize` cannot handle, such as relative ones: timm resamples them."""
        if held:
            warnings.warn(
                f"{file} holds a table of positions of {held[0][0]} x {held[0][1]}, image encoder {self.name} at "
                f"{self.size} pixels has another size: timm resamples it, or computes its own; give the name and the "
                "size that the file was trained as",
                stacklevel=4,
            )

    def _tell_resized(self, file: Path, held: tuple[int, int]) -> None:
        """Warn of interpolated positions, if no setting asks for a size."""
        if self.image_size is None and "img_size" not in self.own_args:
            warnings.warn(
                f"{file} holds positions for images of {held[0]} pixels, {self.name} has {self.size}: they are "
                f"interpolated; set model.net.vision.image_size={self.size} if that is meant, or {held[0]}",
                stacklevel=4,
            )

    def train(self, mode: bool = True) -> "VisionEncoder":
        """As in nn.Module, but a frozen encoder stays in eval mode."""
        return super().train(mode and not self.frozen)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Image tokens [B, N, W] in the encoder's dtype, of pixels uint8 [B, 3, height, width]. Floating-point images
        must be normalised already."""
        assert self.encoder is not None, f"image encoder {self.name} has no weights yet: call load() first"
        if images_B3HW.dtype == torch.uint8:
            held_in = next(self.encoder.parameters()).dtype  # not float32 under precision=bf16-true
            images_B3HW = normalise(images_B3HW, self.mean, self.std).to(held_in)
        if not self.frozen:
            return tokens(self.encoder, images_B3HW)
        with torch.no_grad(), torch.autocast(images_B3HW.device.type, enabled=False):
            return tokens(self.encoder, images_B3HW.to(self.dtype))

    def settings(self) -> dict[str, Any]:
        """Settings that change the features and are not visible in the weights' shapes."""
        args = {key: value for key, value in self.own_args.items() if key not in ("depth", "img_size")}
        own = {"name": self.name, "model_args": args, "blocks": self.used_blocks, **self._looks()}
        return own | ({WEIGHTS: told} if (told := self.signed()) else {})

    @cached_property
    def used_blocks(self) -> int:
        """Number of blocks that an image passes; 0 for a network without blocks. Three of four blocks are the same as
        the first three of five."""
        encoder = build(self.name, self.own_args, self.drop_last_blocks, device="meta")
        return len(encoder.blocks) if has_blocks(encoder) else 0

    def _looks(self) -> dict[str, Any]:
        return {"mean": list(self.mean), "std": list(self.std), "interpolation": self.interpolation}

    def output_shape(self, image_size: int) -> tuple[int, int]:
        """(tokens, width) of an image's features, computed without weights. Raises ValueError for a size that does not
        fit, and for one that differs from the `image_size` asked for: a network that takes any size would interpolate
        positions twice, with two filters."""
        if self.image_size not in (None, image_size):
            raise ValueError(
                f"data.image_size={image_size}, and image encoder {self.name} was asked for "
                f"model.net.vision.image_size={self.image_size}: set both to the size that is meant"
            )
        return check_tokens(self.name, build(self.name, self.model_args, self.drop_last_blocks, "meta"), image_size)

    def fingerprint(self, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the features depend on: cached features with another fingerprint are stale. known: the fingerprint of
        the cached features; its model_args replace this encoder's if they make the same network."""
        args, digest = self.model_args, RANDOM
        if known and asks_for_same(self.name, known.get("model_args"), args):
            args = known["model_args"]
        if self.weights != RANDOM:
            with self.weights_file().open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "encoder": self.name,
            "model_args": args,
            "drop_last_blocks": self.drop_last_blocks,
            "dtype": str(self.dtype).removeprefix("torch."),
            "weights_sha256": digest,
            **self._looks(),
        }


def _check_weights(dtype: str, frozen: bool, checkpointing: bool) -> None:
    """Raises ValueError for settings with which weights cannot be kept or trained."""
    if frozen and checkpointing:
        raise ValueError("checkpointing=true with frozen=true: a frozen encoder keeps nothing for a backward")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype={dtype!r} must be float32, bfloat16 or float16")
    if not frozen and dtype != "float32":
        raise ValueError(f"dtype={dtype!r} with frozen=false: trainable weights stay float32")


def _check_resizes(name: str, encoder: nn.Module, image_size: int) -> None:
    """Raises ValueError for a network whose positions `resize` cannot interpolate."""
    if not can_resize(encoder):
        way_out = f"give model_args={{img_size: {image_size}}}, with weights of that size"
        if not has_blocks(encoder):
            way_out = f"set data.image_size={image_size}, which it takes or refuses"
        raise ValueError(
            f"image_size={image_size}: {name} has no absolute position embeddings to interpolate; leave it null and"
            f" {way_out}"
        )


def _side(size: int | Sequence[int]) -> int:
    """Pixels along a side, from timm's number or pair."""
    return size if isinstance(size, int) else size[-1]


def _check_trains(name: str, encoder: nn.Module) -> None:
    """Raises ValueError for a network whose running statistics would change in training: checkpoints hold only what
    gradients train."""
    if any(key.endswith("running_mean") for key in encoder.state_dict()):
        raise ValueError(f"frozen=false: image encoder {name} has batch normalisation, which can only stay frozen here")


def _signature(encoder: nn.Module) -> dict[str, Any]:
    """The signature of all weights but position embeddings, whose number depends on the image size."""
    return signature(p for name, p in encoder.named_parameters() if name != "pos_embed")


def _check_safe(file: Path) -> dict[str, tuple[int, int]]:
    """Raises DataError for a file that is damaged, or that holds more than tensors: timm itself may run code in a
    pickle. Warns of a file that holds several networks.

    Returns (height, width) of each table of relative coordinates in the file: timm skips SwinV2's and makes its own.
    """
    if file.suffix != ".safetensors":
        state = read_safely(file)
        if not isinstance(state, dict):
            raise DataError(f"{file} holds a {type(state).__name__}, where weights by name are wanted")
        state = unwrapped(state, WRAPPERS, file)
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        return {name: tuple(value.shape[1:3]) for name, value in tensors.items() if name.endswith(COORDINATES)}
    from safetensors import safe_open

    with reading(file, "file of weights"), safe_open(file, "pt") as held:
        names = [name for name in held.keys() if name.endswith(COORDINATES)]  # noqa: SIM118, it is no mapping
        return {name: tuple(held.get_slice(name).get_shape()[1:3]) for name in names}


def _in_cache(name: str) -> Path | None:
    """The file that timm has downloaded for this name, or None."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    card = timm.get_pretrained_cfg(name)
    file = card and card.hf_hub_id and try_to_load_from_cache(card.hf_hub_id, "model.safetensors")
    return Path(file) if isinstance(file, str) and file else None
