"""Draw an architecture layer by layer, with the largest of its space as an outline behind it."""

from typing import Any

from hat.report.figures import short
from hat.report.svg import BLUE, GREEN, GRID, MUTED, PURPLE, SKY
from hat.space import Arch

_ROW, _BAR = 1.0, 0.62


def draw_architecture(name: str, arch: Arch, largest: Arch, figure: Any, narrow: bool) -> None:
    """Draw `arch` beside `largest`, or above it where it is narrow; equal scales."""
    panels = figure.subplots(*((2, 1) if narrow else (1, 2)))
    for axes, title, shown in zip(panels, (name, "largest of the space"), (arch, largest), strict=True):
        _panel(axes, short(title, 38), shown, largest)


def _panel(axes: Any, title: str, arch: Arch, largest: Arch) -> None:
    rows = max(largest.encoder.num_layers, largest.decoder.num_layers, arch.encoder.num_layers)
    top = rows * _ROW
    axes.set(xlim=(0, 100), ylim=(-0.75, top + 1.3))
    axes.axis("off")
    axes.set_title(title)
    enc, dec = arch.encoder, arch.decoder
    axes.text(0, top + 0.95, "Encoder", fontweight="bold")
    axes.text(0, top + 0.5, f"{enc.num_layers} layers, width {enc.embed_dim}", color=MUTED, fontsize="small")
    axes.text(46, top + 0.95, "Decoder", fontweight="bold")
    layers = "1 layer" if dec.num_layers == 1 else f"{dec.num_layers} layers"
    axes.text(46, top + 0.5, f"{layers}, width {dec.embed_dim}", color=MUTED, fontsize="small")
    for x, text in ((0, "heads"), (14, "feed-forward"), (46, "self"), (58, "cross"), (70, "feed-forward")):
        axes.text(x, top + 0.08, text, color=MUTED, fontsize="x-small")
    widest = max(*largest.encoder.ffn_dims, *largest.decoder.ffn_dims)
    big, wide = largest.encoder, largest.decoder
    for layer in range(max(big.num_layers, enc.num_layers)):
        y = layer * _ROW
        there = layer < enc.num_layers
        most = big.self_heads[layer] if layer < big.num_layers else 0
        _heads(axes, 0, y, enc.self_heads[layer] if there else 0, most, BLUE)
        ffn = enc.ffn_dims[layer] if there else 0
        _bar(axes, 14, y, ffn, big.ffn_dims[layer] if layer < big.num_layers else 0, widest)
    for layer in range(max(wide.num_layers, dec.num_layers)):
        y = layer * _ROW
        there = layer < dec.num_layers
        outline = layer < wide.num_layers
        _heads(
            axes, 46, y, dec.self_heads[layer] if there else 0, wide.self_heads[layer] if outline else 0, BLUE
        )
        cross = dec.cross_heads[layer] if there else 0
        _heads(axes, 58, y, cross, wide.cross_heads[layer] if outline else 0, GREEN)
        ffn = dec.ffn_dims[layer] if there else 0
        _bar(axes, 70, y, ffn, wide.ffn_dims[layer] if outline else 0, widest)
        if there:
            _span(axes, 58, y, dec.cross_span[layer], max(wide.cross_span))
    axes.text(0, -0.5, "layer 1 at the bottom", color=MUTED, fontsize="x-small")


def _heads(axes: Any, x: float, y: float, count: int, most: int, colour: str) -> None:
    """Draw one square for each head, in up to two rows; those of the largest alone are outlines."""
    from matplotlib.patches import FancyBboxPatch

    total = max(count, most)
    across = max(1, -(-total // 2))
    width = min(4.2, 9.5 / across)
    height = _BAR / 2
    for head in range(total):
        left = x + width * (head % across)
        bottom = y + height * (head // across)
        filled = head < count
        axes.add_patch(
            FancyBboxPatch(
                (left + 0.1 * width, bottom + 0.03),
                0.74 * width,
                height - 0.06,
                boxstyle="round,pad=0,rounding_size=0.04",
                mutation_aspect=0.1,
                facecolor=colour if filled else "none",
                edgecolor=colour if filled else GRID,
                linewidth=1.2,
            )
        )


def _bar(axes: Any, x: float, y: float, width: int, most: int, widest: int) -> None:
    """Draw the width of a feed-forward layer as the length of a bar, with its number."""
    from matplotlib.patches import Rectangle

    scale = 22 / widest
    if most > width:
        axes.add_patch(Rectangle((x, y), most * scale, _BAR, facecolor="none", edgecolor=GRID, linewidth=1.2))
    if width:
        axes.add_patch(Rectangle((x, y), width * scale, _BAR, facecolor=SKY, edgecolor=BLUE, linewidth=1.2))
        axes.text(x + max(most, width) * scale + 1.2, y + _BAR / 2, f"{width}", va="center", fontsize="small")


def _span(axes: Any, x: float, y: float, span: int, most: int) -> None:
    """Mark below the cross attention how many of the last encoder layers it reads."""
    for position in range(most):
        axes.plot(
            x + 1.2 + 2.4 * position,
            y - 0.14,
            marker="o",
            markersize=4,
            color=PURPLE,
            markerfacecolor=PURPLE if position < span else "none",
            markeredgewidth=1,
        )
