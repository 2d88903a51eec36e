"""A timm network as an image encoder: built from a name and arguments, with or without a file's weights, and without
its head and last blocks. Also its output as tokens, resizing, and whether two networks are the same.

Legend: B images, N image tokens, H rows of patches or of a feature map, W width.
"""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lit_blip2.offline import offline
from lit_blip2.settings import settings
from lit_blip2.terminal import one_line
from lit_blip2.trust import check_fetches_nothing
from lit_blip2.zeros import check_zeros

# Weights that a file may hold beside the encoder's: classifiers, pooling, parts for pretraining, CLIP's text half.
BESIDE = re.compile(
    r"(module\.)?((aux_|local_|dino_|ibot_)?heads?|classifier|fc|last_linear|(cls_|fc_)?norm|attn_pool|neck|lm_head|"
    r"cls_pt_layers|pre_logits|mask_token|masked_embed|decoder\w*|predictor|projectors?|criterion|"
    r"text\w*|logit_(scale|bias)|transformer|token_embedding|positional_embedding|ln_final|"
    r"head_\w+|\w+_head|\w*decoder|aux\d*|AuxLogits|n_averaged)(\.|$)"
)
# Buffers, at any depth, that a network computes by itself or that a counter of operations left behind.
COMPUTED = re.compile(
    r"(relative_position_index|relative_coords_table|attention_bias_idxs|attn_mask|k_bias|num_batches_tracked|total_ops|"
    r"total_params)$"
)


def build(
    name: str,
    model_args: dict[str, Any],
    drop_last_blocks: int,
    device: str | None = None,
    weights: Path | None = None,
    copies: "Copies | None" = None,
) -> nn.Module:
    """Build a timm ViT without head, final norm and last blocks, or another network without its head.

    weights: file to read; None: timm's initial weights. copies: records how the file is read. Raises ValueError for an
    unknown name, for more blocks to drop than there are, and for a file that does not fit the remaining network.
    """
    import timm

    copies = copies or Copies()
    source = dict(pretrained=True, pretrained_cfg_overlay={"file": str(weights)}) if weights else {}
    try:
        with torch.device(device or "cpu"), copies, copies.noting_names():
            encoder = timm.create_model(name, num_classes=0, **source, **model_args)
    except (RuntimeError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # a name or an argument that timm does not know, weights of other sizes
        source = f" from {weights}" if weights else ""
        reason = f"{error} is unknown" if isinstance(error, KeyError) else one_line(error)
        raise ValueError(f"image encoder {name} with model_args={model_args}{source}: {reason}") from error
    if has_blocks(encoder):
        if not 0 <= drop_last_blocks < len(encoder.blocks):
            count = len(encoder.blocks)
            raise ValueError(f"drop_last_blocks={drop_last_blocks}: {name} has {count} blocks, drop fewer")
        encoder.prune_intermediate_layers([len(encoder.blocks) - 1 - drop_last_blocks], prune_norm=True)
    elif drop_last_blocks:
        raise ValueError(
            f"drop_last_blocks={drop_last_blocks}: {name} has no blocks of one width, one after another; with 0 its"
            " last feature map becomes tokens, if it ends in one"
        )
    if weights is not None:
        what = f"{weights}, for image encoder {name},"
        _check_read(encoder, copies, what)
        cut = len(encoder.blocks) if has_blocks(encoder) and not drop_last_blocks else None
        _check_place([name for name in copies.without_place if not _is_behind(name, cut)], what, model_args)
    return encoder


class Copies(TorchFunctionMode):
    """Records what timm does while it reads a file.

    into: (tensor, dtype copied from) for each weight that the file holds. timm leaves other weights random without a
    word, because it reads leniently enough for a new head. without_place: names of the file's weights that the network
    has no place for. grids, patches, tables: (height, width) in the file of the position embeddings, patches and tables
    of relative positions that timm interpolates; empty if they have the network's size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.into: list[tuple[Tensor, torch.dtype]] = []
        self.grids: list[tuple[int, int]] = []
        self.patches: list[tuple[int, int]] = []
        self.tables: list[tuple[int, int]] = []
        self.without_place: list[str] = []

    def noting_names(self) -> AbstractContextManager:
        """Within this context, `load_state_dict` accepts names without a place and records them. timm itself only logs
        them, and refuses a classifier where it does not expect one."""
        load = nn.Module.load_state_dict

        def noted(module: nn.Module, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
            found = load(module, state, strict=False, assign=assign)
            self.without_place += [name for name in found.unexpected_keys if isinstance(state[name], Tensor)]
            if strict and found.missing_keys:
                raise RuntimeError(f"it lacks {found.missing_keys[0]} ({len(found.missing_keys)} such)")
            return type(found)([], [])  # nothing for timm to log

        return patch.object(nn.Module, "load_state_dict", noted)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.copy_:
            self.into.append((args[0], args[1].dtype))
        elif function is F.interpolate:  # of positions [1, W, H, H]; of patches, by a basis [n, 1, H, W]
            (self.patches if args[0].shape[0] > args[0].shape[1] == 1 else self.grids).append(tuple(args[0].shape[2:]))
        elif function is torch.bucketize:  # finds where new points lie between a table's points, per axis
            self.tables.append((len(args[1]), len(args[1])))
        return function(*args, **(kwargs or {}))


def _check_read(encoder: nn.Module, copies: Copies, what: str) -> None:
    """Raises ValueError for weights that the file did not give, that are not finite, or zeros (see zeros.py), and for
    integers, as in a quantised model: timm reads them without their scale."""
    given = {id(tensor): dtype for tensor, dtype in copies.into}
    running = [each for each in encoder.named_buffers() if each[0].endswith(("running_mean", "running_var"))]
    wanted = [*encoder.named_parameters(), *running]
    whole = [name for name, value in wanted if not given.get(id(value), value.dtype).is_floating_point]
    problems = {
        "lacks": [name for name, value in wanted if id(value) not in given],
        "holds whole numbers in": whole,
        "holds no finite numbers in": [name for name, value in wanted if not value.isfinite().all()],
    }
    for reason, names in problems.items():
        if names:
            raise ValueError(f"{what} {reason} {names[0]} ({len(names)} such): give a file that timm can read for it")
    own = dict(encoder.named_parameters())
    check_zeros(own, what.strip(","), [name for name, value in own.items() if value.ndim == 4][:1])  # reads the pixels


def _is_behind(name: str, cut: int | None) -> bool:
    """Whether a weight belongs to a block behind the first `cut`. A smaller depth in model_args leaves such blocks out;
    cut is None if drop_last_blocks drops further ones."""
    block = re.match(r"blocks\.(\d+)\.", name)
    return cut is not None and block is not None and int(block[1]) >= cut


def _check_place(names: list[str], what: str, model_args: Mapping[str, Any]) -> None:
    """Raises ValueError for weights of a file that have no place in this network, though features would depend on them:
    the file belongs to a network that computes something else."""
    inside = {name for name in names if not BESIDE.match(name) and not COMPUTED.search(name)}
    if not inside:
        return
    first = next(name for name in names if name in inside)
    raise ValueError(
        f"{what} holds {first} ({len(inside)} such), for which this network, with model_args={dict(model_args)}, has "
        "no place: give the name and the model_args of the network that the file was trained as"
    )


def has_blocks(encoder: nn.Module) -> bool:
    """Whether the network is a row of blocks of one width, as timm's ViTs are, so that its last ones can be dropped."""
    return all(hasattr(encoder, name) for name in ("blocks", "embed_dim", "prune_intermediate_layers"))


def tokens(encoder: nn.Module, images_B3HW: Tensor) -> Tensor:
    """Normalised images to tokens [B, N, W]. A feature map is read row by row."""
    features = encoder.forward_features(images_B3HW)
    if features.ndim == 3:
        return features
    last = getattr(encoder, "output_fmt", None) == "NHWC"
    return features.flatten(1, 2) if last else features.flatten(2).mT.contiguous()


@torch.no_grad()
def check_tokens(name: str, encoder: nn.Module, size: int) -> tuple[int, int]:
    """(tokens, width) of an image, from a network on the meta device.

    Raises ValueError for a size that does not fit, and for a network whose output is neither its last block's,
    unchanged, nor one feature map.
    """
    made: list[Tensor] = []
    if has_blocks(encoder):
        encoder.blocks[-1].register_forward_hook(lambda module, given, output: made.append(output))
    try:
        found = encoder.eval().forward_features(torch.empty(1, 3, size, size, device="meta"))
    except (AssertionError, RuntimeError) as error:
        reason = one_line(error)
        raise ValueError(f"image encoder {name} does not take data.image_size={size}: {reason}") from error
    axes = found.ndim if isinstance(found, Tensor) else 0
    right = axes == 3 and any(found is each for each in made) if has_blocks(encoder) else axes == 4
    shape = tokens(encoder, torch.empty(1, 3, size, size, device="meta")).shape[1:] if right else ()
    if not right or shape[1] != encoder.num_features:
        what = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ValueError(
            f"image encoder {name} cannot be used: what an image becomes ({what}) is neither the output of one of its "
            "blocks, [batch, tokens, width], nor one feature map. Take one of timm's ViTs or convolutional networks"
        )
    return tuple(shape)


def can_resize(encoder: nn.Module) -> bool:
    """Whether `resize` can interpolate its positions."""
    return isinstance(getattr(encoder, "pos_embed", None), nn.Parameter) and hasattr(encoder, "no_embed_class")


def resize(encoder: nn.Module, image_size: int | tuple[int, int]) -> None:
    """Make a timm ViT take images of another size: pixels, or (height, width) in pixels. Position embeddings are
    interpolated bicubically without antialiasing, as in LAVIS and Hugging Face. timm antialiases, so its values differ.
    """
    before, prefix = encoder.pos_embed.detach(), 0 if encoder.no_embed_class else encoder.num_prefix_tokens
    grid_1WHH = before[:, prefix:].unflatten(1, encoder.patch_embed.grid_size).permute(0, 3, 1, 2)
    encoder.set_input_size(img_size=image_size)
    size = encoder.patch_embed.grid_size
    resized_1WHH = F.interpolate(grid_1WHH.float(), size=size, mode="bicubic", align_corners=False).to(before.dtype)
    after_1NW = torch.cat([before[:, :prefix], resized_1WHH.flatten(2).transpose(1, 2)], dim=1)
    encoder.pos_embed = nn.Parameter(after_1NW, requires_grad=encoder.pos_embed.requires_grad)


def same_network(name: str, one: Mapping[str, Any], two: Mapping[str, Any], drop_last_blocks: int = 0) -> bool:
    """Whether two sets of timm arguments make networks that compute the same; one may spell out a default. Arguments
    named *drop* act only in training and are ignored. Raises ValueError for arguments that timm does not take."""
    one, two = ({key: value for key, value in args.items() if "drop" not in key} for args in (one, two))
    if one == two:
        return True
    made = [build(name, args, drop_last_blocks, device="meta") for args in (one, two)]
    return _held(made[0]) == _held(made[1])


def _held(encoder: nn.Module) -> tuple[Any, ...]:
    """What a network is made of: its layers as torch prints them, their plain attributes, and the shapes of its
    weights. timm's GELU counts as torch's."""
    layers = str(encoder).replace("GELU(approximate='none')", "GELU()")
    told = {key: value for key, value in settings(encoder).items() if value not in ("GELU", "none")}
    return layers, told, {key: value.shape for key, value in encoder.state_dict().items()}


def asks_for_same(name: str, args: Any, own: Mapping[str, Any]) -> bool:
    """Whether the timm arguments in a file are those of this network, or make the same network."""
    if args == own or not isinstance(args, dict):
        return args == own
    try:
        check_fetches_nothing({"model_args": args, "name": name}, "the file", "")
        with offline():
            return same_network(name, args, own)
    except Exception:  # of many kinds, because a file may hold anything
        return False
