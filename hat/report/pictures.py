"""Which pictures a run has, each as SVG for the page and as PNG to lie beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

from hat.report.architecture import draw_architecture
from hat.report.figures import draw_front, draw_latency, draw_progress, draw_training, draw_volume, short
from hat.report.run import Run, Search
from hat.report.svg import Draw, png, svg


@dataclass(frozen=True)
class Picture:
    """One or several drawings of a section."""

    section: str
    caption: str
    wide: tuple[str, ...]  # svg elements
    narrow: tuple[str, ...]
    pngs: dict[str, bytes]  # by file name


def pictures(run: Run) -> list[Picture]:
    """Return what can be drawn of a run; raises ImportError where matplotlib is not installed."""
    found = [_front(run), _latency(run), _search(run), _architecture(run), _training(run)]
    return [picture for picture in found if picture]


def _picture(section: str, caption: str, drawings: list[tuple[str, Draw, int, int]]) -> Picture:
    """Draw (name, drawing, height where wide, height where narrow) of one section."""
    label = escape(caption, quote=True)
    return Picture(
        section,
        caption,
        tuple(svg(draw, wide, f"{name}w", label) for name, draw, wide, _ in drawings),
        tuple(svg(draw, narrow, f"{name}n", label, narrow=True) for name, draw, _, narrow in drawings),
        {f"{name}.png": png(draw, wide) for name, draw, wide, _ in drawings},
    )


def _front(run: Run) -> Picture | None:
    if not any(search.evaluations for search in run.searches):
        return None
    caption = (
        "Each pale dot is an architecture that the search scored: its predicted latency, and its "
        "validation loss with "
        "the weights of the SuperTransformer; lower and further left is better. The line joins "
        "those that no other "
        "beats in both. Large marks are the architectures of the table at their measured latency "
        "(predicted where "
        "none was measured); an arrow leads to the loss after training of its own. A name without room "
        "is left to the table."
    )
    if any(search.limits_ms for search in run.searches):
        caption += " Dotted lines are latency limits."
    if any(search.random for search in run.searches):
        caption += " Small grey dots: random architectures, for comparison."
    if any(search.depth for search in run.searches):
        caption += " Crosses: the largest architecture at other depths, for comparison."
    return _picture("front", caption, [("front", partial(draw_front, run), 480, 440)])


def _latency(run: Run) -> Picture | None:
    measured = [m for m in run.models if m.measured_ms is not None and m.predicted_ms is not None]
    if not measured and not run.latencies:
        return None
    source = f" Dots: {run.latencies.source}." if run.latencies else ""
    caption = (
        f"What the predictor says of architectures, against what the device needs.{source} "
        "The grey band is 5%."
    )
    draw = partial(draw_latency, run.latencies, run.models)
    return _picture("latency", caption, [("latency", draw, 460, 410)])


def _search(run: Run) -> Picture | None:
    drawings: list[tuple[str, Draw, int, int]] = []
    if any("best_loss" in step for search in run.searches for step in search.steps):
        drawings.append(("search", partial(draw_progress, run.searches), 380, 400))
    if any("hypervolume" in step for search in run.searches for step in search.steps):
        drawings.append(("hypervolume", partial(draw_volume, run.searches), 340, 360))
    if not drawings:
        return None
    return _picture("search", " ".join(_progress(run.searches)), drawings)


def _progress(searches: Sequence[Search]) -> Iterator[str]:
    """Yield what the curves of searches under a limit, and of those for the whole front, are."""
    drawn = [search for search in searches if search.steps]
    if not all(search.is_front for search in drawn):
        yield (
            "The lowest validation loss found so far, after each iteration, and the mean over the parents of "
            "the next; once both lie flat, more iterations would find little."
        )
    if any(search.is_front for search in drawn):
        yield (
            "A search for the whole front: the lowest validation loss so far, after each generation, and the "
            "hypervolume of the front: the share that it dominates of the box up to the worst values of the "
            "first generation. Once both lie flat, more evaluations would find little."
        )


def _architecture(run: Run) -> Picture | None:
    model, best = run.winner, run.front_best
    name, arch = (model.name, model.arch) if model else ("Lowest loss of the front", best and best.arch)
    if not arch or not run.space:
        return None
    caption = (
        f"{short(name, 60)} layer by layer, first layer at the bottom. A filled square is an attention head "
        "(blue: self-attention, green: cross-attention), a bar is the width of the feed-forward "
        "layer; outlines are what "
        "the largest architecture of the space has besides. Purple dots: how many of the last "
        "encoder layers the "
        "cross-attention reads."
    )
    largest = run.space.largest()
    rows = max(largest.encoder.num_layers, largest.decoder.num_layers)
    draw = partial(draw_architecture, name, arch, largest)
    return _picture("architecture", caption, [("architecture", draw, 150 + 60 * rows, 240 + 110 * rows)])


def _training(run: Run) -> Picture | None:
    if not run.trainings:
        return None
    caption = (
        "Loss per target token in bits, with label smoothing: pale in training (with dropout), dots "
        "in validation. Of a "
        "SuperTransformer the largest and the smallest architecture are validated."
    )
    count = len(run.trainings)
    draw = partial(draw_training, run.trainings)
    return _picture("training", caption, [("training", draw, 330 * -(-count // 2), 330 * count)])
