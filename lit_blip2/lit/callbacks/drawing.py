"""Tensors and texts to pictures: matplotlib without its global state, rendered to an array.

Legend: B images, Q query tokens, C columns (1 + Q), G patches along a side, H W pixels, S pixels along a tile's side,
T tiles.
"""

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid

from lit_blip2.lit.callbacks.sample_texts import Line

TILE = 72
GAP = 4
COLOURS = {None: "black", True: "#1a7f37", False: "#b3261e"}  # of a Line: neither, right, wrong
LINE_WIDTH = 42  # characters
MOST_QUERIES = 12  # in a row of attention maps: a sheet of more is too wide for TensorBoard's card


def to_rgb(pixels_B3HW: Tensor) -> np.ndarray:
    """Pixels, uint8, as matplotlib draws them: float32 [B, H, W, 3] in 0..1."""
    return (pixels_B3HW.float().cpu() / 255).permute(0, 2, 3, 1).numpy()


def render(figure: Figure) -> np.ndarray:
    """The figure's pixels, uint8 [H, W, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def sample_sheet(images_BHW3: np.ndarray, texts: Sequence[Sequence[Line]], columns: int = 2) -> Figure:
    """A figure with the images in `columns`, and the lines of each image beside it."""
    rows = -(-len(images_BHW3) // columns)
    figure = Figure(figsize=(4.7 * columns, 2.2 * rows), dpi=100)
    for place, (image, lines) in enumerate(zip(images_BHW3, texts, strict=True)):
        left, bottom = (place % columns) / columns, 1 - (place // columns + 1) / rows
        axes = figure.add_axes((left + 0.01, bottom + 0.04 / rows, 0.38 / columns, 0.92 / rows))
        axes.imshow(image)
        axes.set_axis_off()
        _write(figure, left + 0.42 / columns, bottom + 0.94 / rows, lines)
    return figure


def _write(figure: Figure, x: float, y: float, lines: Sequence[Line]) -> None:
    """Lines below one another from (x, y), the upper left corner in figure coordinates, wrapped."""
    step = 0.165 / figure.get_figheight()
    for text, right in lines:
        for part in textwrap.wrap(text, LINE_WIDTH, subsequent_indent="   ") or [""]:
            figure.text(x, y, part, va="top", fontsize=8.5, color=COLOURS[right], parse_math=False)
            y -= step


def attention_sheet(images_BHW3: np.ndarray, maps_BQGG: Tensor) -> Figure:
    """For each image: itself, then each query's map over it, MOST_QUERIES or fewer to a row, with the query's number. A
    map's brightest patch is at full scale."""
    tiles_BC3SS = _overlays(_tiles(images_BHW3), maps_BQGG.cpu())
    queries = maps_BQGG.shape[1]
    rows = -(-queries // MOST_QUERIES)
    per_row = -(-queries // rows)
    shown_T3SS, numbers = _in_rows(tiles_BC3SS, rows, per_row)
    grid_3HW = make_grid(shown_T3SS, nrow=1 + per_row, padding=GAP, pad_value=1)
    sheet = grid_3HW[:, GAP:, GAP:].permute(1, 2, 0).numpy()  # without the gap at the upper left
    figure = Figure(figsize=(sheet.shape[1] / 100, sheet.shape[0] / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet, aspect="auto", interpolation="nearest")
    axes.set_axis_off()
    for place, number in enumerate(numbers):
        row, column = divmod(place, 1 + per_row)
        corner = (column * (TILE + GAP) + TILE / 2, row * (TILE + GAP) + 2)
        axes.text(*corner, number, color="white", ha="center", va="top", fontsize=6)
    return figure


def _in_rows(tiles_BC3SS: Tensor, rows: int, per_row: int) -> tuple[Tensor, list[str]]:
    """The tiles of each image in `rows` rows, the image at the left of the first, and what is written on each; white
    tiles fill the gaps."""
    blank_3SS, tiles, numbers = torch.ones_like(tiles_BC3SS[0, 0]), [], []
    for image_3SS, *queries in tiles_BC3SS:
        queries += [blank_3SS] * (rows * per_row - len(queries))
        for row in range(rows):
            first = row * per_row
            tiles += [blank_3SS if row else image_3SS, *queries[first : first + per_row]]
            numbers += ["", *(str(first + number + 1) for number in range(per_row))]
    return torch.stack(tiles), numbers


def _tiles(images_BHW3: np.ndarray) -> Tensor:
    """The images at the size of a tile, [B, 3, S, S]."""
    images_B3HW = torch.from_numpy(images_BHW3).permute(0, 3, 1, 2)
    return F.interpolate(images_B3HW, (TILE, TILE), mode="bilinear", antialias=True).clamp(0, 1)


def _overlays(tiles_B3SS: Tensor, maps_BQGG: Tensor) -> Tensor:
    """The images, and each query's map in colours over the image in grey: [B, C, 3, S, S]."""
    scaled = maps_BQGG / maps_BQGG.amax((-2, -1), keepdim=True).clamp(min=1e-12)
    smooth_BQSS = F.interpolate(scaled, (TILE, TILE), mode="bilinear").clamp(0, 1)
    colours_BQSS3 = torch.from_numpy(matplotlib.colormaps["inferno"](smooth_BQSS.numpy())[..., :3]).float()
    grey_B11SS = tiles_B3SS.mean(1, keepdim=True)[:, None]
    return torch.cat([tiles_B3SS[:, None], 0.35 * grey_B11SS + 0.65 * colours_BQSS3.movedim(-1, 2)], dim=1)


def query_bars(wins_Q: Tensor, entropy: float) -> Figure:
    """How often each query wins ITC's maximum; int64 [Q] and the entropy of the shares, in 0..1."""
    shares = (wins_Q / wins_Q.sum()).tolist()
    figure = Figure(figsize=(6, 3), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.bar(range(1, len(shares) + 1), shares)
    axes.axhline(1 / len(shares), color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="query", ylabel="share of wins", ylim=(0, 1), xlim=(0.3, len(shares) + 0.7))
    axes.set_title(f"winner of ITC's maximum, {int(wins_Q.sum())} images, entropy {entropy:.2f}", fontsize=9)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure
