"""The page of a report: self-contained HTML in which every value is escaped."""

from collections.abc import Sequence
from html import escape
from string import Template

import hat
from hat.report.elements import DASH, none, number_text, table
from hat.report.figures import short
from hat.report.pictures import Picture
from hat.report.run import Evaluation, Model, Ranking, Run, StageCost
from hat.report.style import CSS, FRAME

_SECTION = Template('<section id="$id">\n<h2>$title</h2>\n$body\n</section>')
_MIB = 1 << 20


def page(run: Run, pictures: Sequence[Picture]) -> str:
    """Return the whole page; `pictures` stand in the section of their name."""
    drawn = {picture.section: picture for picture in pictures}
    sections = [
        ("models", "Models", _models(run)),
        ("front", "Front of loss and latency", _drawn(drawn, "front", _NO_SEARCH)),
        ("latency", "Latency, predicted and measured", _drawn(drawn, "latency", _NO_LATENCY) + _scores(run)),
        ("search", "Search progress", _drawn(drawn, "search", _NO_SEARCH)),
        ("architecture", "Architecture", _drawn(drawn, "architecture", _NO_ARCHITECTURE)),
        ("training", "Training", _drawn(drawn, "training", _NO_TRAINING)),
        ("cost", "Time and cost", _costs(run.stages)),
        ("conditions", "Conditions", _conditions(run)),
    ]
    if run.rankings:  # a study has nothing of the others
        sections = [("ranking", "Agreement with training from scratch", _rankings(run)), sections[-1]]
    beside = " The pictures lie beside this page as PNG." if pictures else ""
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = [
        "<header>",
        '<p class="eyebrow">Hardware-Aware Transformers</p>',
        f"<h1>{escape(run.title)}</h1>",
        f'<p class="lead">{_verdict(run)}</p>',
        _tiles(run),
        f"<nav>{links}</nav>",
        "</header>",
        *(_SECTION.substitute(id=name, title=title, body=text) for name, title, text in sections),
        f"<footer><p>Written by HAT {escape(hat.__version__)} with <code>scripts/report.py</code> from the "
        f"files of the run alone.{beside}</p></footer>",
    ]
    return FRAME.substitute(
        version=escape(hat.__version__), title=escape(run.title), css=CSS, body="\n".join(body)
    )


_NO_SEARCH = (
    "No search is here. <code>python evo_search.py --configs=\u2026 --evo-configs=\u2026</code> "
    "writes one, with the "
    "journal of everything it scores."
)
_NO_LATENCY = (
    "No latencies are here. <code>python latency_dataset.py</code> measures them, <code>python "
    "latency_predictor.py</code> learns from them; a search names the predictor it uses."
)
_NO_ARCHITECTURE = (
    "No architecture of a search or a SubTransformer is here, or its search space is not known. "
    "<code>python evo_search.py</code> finds one."
)
_NO_TRAINING = "No log of a training is here. <code>python train.py --configs=\u2026</code> writes one."
_NO_MODELS = "No architecture is here yet. <code>bash scripts/run_task.sh</code> ends with a table of them."
_NO_COST = "No stage left a record of its time. Stages that run from now on do."


def _drawn(drawn: dict[str, Picture], name: str, otherwise: str) -> str:
    if name not in drawn:
        return none(otherwise)
    picture = drawn[name]
    more = [each for each in picture.wide[1:]]
    figures = "\n".join([picture.wide[0], *more, *picture.narrow])
    return f"<figure>\n{figures}\n<figcaption>{escape(picture.caption)}</figcaption>\n</figure>"


def _verdict(run: Run) -> str:
    """Return what was found: the winner under a limit, and the fronts."""
    fronts = [_front_text(search.name, search.front) for search in run.searches if search.front]
    texts = ([_winner_text(run.winner, run.one("largest"))] if run.winner else []) + fronts
    if run.rankings:
        texts.append(_ranking_text(run.rankings, run.ceiling))
    return " ".join(texts) or "No architecture was found here yet; the sections below show what there is."


def _front_text(name: str, front: Sequence[Evaluation]) -> str:
    """Return the size of a front, lowest loss first, and both of its ends."""
    count = "1 architecture" if len(front) == 1 else f"{len(front)} architectures"
    best, fastest = front[0], min(front, key=lambda each: each.predicted_ms)
    text = f"The front of {escape(short(name, 80))} has <strong>{count}</strong>"
    text += f": validation loss {best.loss:.3f} at {best.predicted_ms:.2f} ms"
    if fastest is not best:
        text += f" at its one end, {fastest.loss:.3f} at {fastest.predicted_ms:.2f} ms at the other"
    return text + " (predicted)."


def _ranking_text(rankings: Sequence[Ranking], ceiling: Ranking | None) -> str:
    known = [each for each in rankings if each.tau is not None]
    if not known:
        return ""
    best = max(known, key=lambda each: each.tau or 0.0)
    text = f"Of {len(rankings)} rankings, <strong>{escape(short(best.name, 80))}</strong> is nearest to that "
    text += f"by training from scratch: Kendall tau {best.tau:.3f}"
    return text + (f"; two trainings agree to {ceiling.tau:.3f}." if ceiling and ceiling.tau else ".")


def _rankings(run: Run) -> str:
    """Return how each ranking of a rank study agrees with that by training from scratch."""
    heads = [("Ranking by", ""), ("Kendall tau", ""), ("Equal depth", "accuracy"), ("Kendall tau", "by BLEU")]
    lines = [
        [escape(short(each.name, 80)), *(number_text(value, 3) for value in each[1:])]
        for each in (*run.rankings, *([run.ceiling] if run.ceiling else []))
    ]
    count = len(run.rankings)
    text = (
        f"{escape(run.ranked)}. Equal depth: how often it is right on two architectures with as many decoder "
    )
    text += "layers."
    if run.ceiling:
        text += " Last row: how far two trainings of the same architectures agree."
    return (
        table(heads, [(cells, "") for cells in lines[:count]], *lines[count:])
        + f'<p class="small muted">{text}</p>'
    )


def _winner_text(model: Model, largest: Model | None) -> str:
    parts = []
    if model.bleu is not None:
        parts.append(f"translates at {model.bleu:.2f} BLEU")
    if model.measured_ms is not None:
        parts.append(f"takes {model.measured_ms:.2f} ms for a sentence")
    if model.limit_ms is not None and model.measured_ms is not None:
        share = 100 * (model.measured_ms / model.limit_ms - 1)
        side = "below" if share <= 0 else "above"
        css = "ok" if share <= 0 else "above"
        parts.append(
            f'<span class="{css}">{abs(share):.1f}% {side} its limit of {model.limit_ms:g} ms</span>'
        )
    text = f"<strong>{escape(short(model.name, 80))}</strong> {', '.join(parts) or 'was found'}"
    if largest and model.params and largest.params:
        text += (
            f"; its layers have {100 * model.params / largest.params:.0f}% of the parameters of the largest"
        )
    return text + "."


def _tiles(run: Run) -> str:
    model, largest = run.winner, run.one("largest")
    tiles: list[tuple[str, str, str]] = []
    if model and model.bleu is not None:
        base = f"largest: {largest.bleu:.2f}" if largest and largest.bleu is not None else model.weights
        tiles.append(("BLEU", f"{model.bleu:.2f}", base))
    if model and model.measured_ms is not None:
        base_ms = largest and (largest.measured_ms or largest.predicted_ms)
        note = (
            f"{base_ms / model.measured_ms:.2f}\N{MULTIPLICATION SIGN} faster than the largest"
            if base_ms
            else ""
        )
        tiles.append(("Latency, measured", f"{model.measured_ms:.2f} <small>ms</small>", note))
    if model and model.params:
        note = f"largest: {largest.params / 1e6:.2f} M" if largest and largest.params else ""
        tiles.append(("Parameters of the layers", f"{model.params / 1e6:.2f} <small>M</small>", note))
    if model and model.size_bytes:
        tiles.append(("Size on disk", f"{model.size_bytes / _MIB:.1f} <small>MiB</small>", ""))
    if run.stages:
        wall = sum(stage.wall_s for stage in run.stages)
        tiles.append(("All stages", duration(wall), _hours_text(run.stages)))
    cells = (
        f'<div><dt>{name}</dt><dd>{value}</dd><dd class="note">{escape(note)}</dd></div>'
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>' if tiles else ""


def _models(run: Run) -> str:
    if not run.models:
        return none(_NO_MODELS)
    heads = [("Model", ""), ("Parameters", "M"), ("FLOPs", "G"), ("On disk", "MiB"), ("Limit", "ms")]
    heads += [
        ("Predicted", "ms"),
        ("Measured", "ms"),
        ("Loss, inherited", "base 2"),
        ("Loss, trained", "base 2"),
    ]
    heads += [("BLEU", "")]
    within = ", within its limit" if any(model.limit_ms is not None for model in run.found) else ""
    rows = [(_model_cells(model), "best" if model is run.winner else "") for model in run.models]
    text = table(heads, rows)
    signatures = list(dict.fromkeys(model.signature for model in run.models if model.signature))
    text += (
        '<p class="small muted">Parameters and FLOPs are those of the layers, without embeddings and '
        "output matrix. "
        "On disk: the file of the averaged weights; largest and smallest are slices of the "
        "SuperTransformer's. "
        "Latency: one sentence, as under Conditions. The tinted row is the winner: the best BLEU, or where "
        f"nothing was translated the lowest loss{within}.</p>"
    )
    for signature in signatures:
        text += f'<p class="small muted">SacreBLEU: <code>{escape(signature)}</code></p>'
    if not signatures:
        text += none(
            "No SacreBLEU signature is here. <code>bash configs/&lt;task&gt;/test.sh \u2026 "
            "sacre</code> keeps one."
        )
    return text


def _model_cells(model: Model) -> list[str]:
    measured = number_text(model.measured_ms, 2)
    if model.within_limit is not None:
        css, word = ("ok", "within the limit") if model.within_limit else ("above", "above the limit")
        sign = "\N{CHECK MARK}" if model.within_limit else "\N{UPWARDS ARROW}"
        measured += f' <span class="{css}" title="{word}">{sign}</span>'
    return [
        escape(model.name) + (f"<small>{escape(model.weights)} weights</small>" if model.weights else ""),
        number_text(model.params, 2, 1e6),
        number_text(model.flops, 3, 1e9),
        number_text(model.size_bytes, 1, _MIB),
        DASH if model.limit_ms is None else f"{model.limit_ms:g}",
        number_text(model.predicted_ms, 2),
        measured,
        number_text(model.inherited_loss, 3),
        number_text(model.trained_loss, 3),
        number_text(model.bleu, 2),
    ]


def _scores(run: Run) -> str:
    """Return the error of the predictor beside its baselines."""
    report = run.latencies.report if run.latencies else {}
    baselines = report.get("baselines")
    named = {"predictor": report, **(baselines if isinstance(baselines, dict) else {})}
    rows = []
    for name, scores in named.items():
        known = scores if isinstance(scores, dict) else {}
        values = [known.get(key) for key in ("mape_percent", "rmse_ms", "kendall_tau")]
        if all(isinstance(value, int | float) for value in values):
            cells = [escape(name.replace("_", " "))]
            cells += [number_text(value, digits) for value, digits in zip(values, (2, 2, 3), strict=True)]
            rows.append((cells, ""))
    if not rows:
        return ""
    heads = [("Predictor", ""), ("MAPE", "%"), ("RMSE", "ms"), ("Kendall tau", "")]
    text = table(heads, rows)
    bound = report.get("bound")
    if (
        isinstance(bound, dict)
        and all(isinstance(v, int | float) for v in bound.values())
        and len(bound) == 3
    ):
        text += (
            f'<p class="small muted">The upper bound of {bound["coverage"]:.0%} lies '
            f"{bound['above_percent']:.1f}% above the "
            f"prediction and held on {bound['held']:.1%} of the rows that training left out.</p>"
        )
    return text


def _costs(stages: Sequence[StageCost]) -> str:
    if not stages:
        return none(_NO_COST)
    most = max(stage.wall_s for stage in stages)
    gpus = any(stage.gpu_s for stage in stages)
    heads = [("Stage", ""), ("Wall time", ""), ("", ""), ("CPU", "core h"), *([("GPU", "h")] if gpus else [])]
    heads += [("Threads", ""), ("Sittings", "")]
    rows = []
    for stage in stages:
        bar = (
            f'<span class="bar"><i style="width:{100 * stage.wall_s / most if most else 0:.1f}%"></i></span>'
        )
        about = "\u2248 " if stage.estimated and stage.cpu_s is not None else ""
        cells = [escape(stage.name), duration(stage.wall_s), bar, about + number_text(stage.cpu_s, 3, 3600)]
        cells += [number_text(stage.gpu_s, 3, 3600)] if gpus else []
        cells += [str(stage.threads or DASH), str(stage.sittings)]
        rows.append((cells, ""))
    known = [stage.cpu_s for stage in stages if stage.cpu_s is not None]
    total = [
        "All stages",
        duration(sum(s.wall_s for s in stages)),
        "",
        number_text(sum(known), 3, 3600) if known else DASH,
    ]
    total += [number_text(sum(s.gpu_s for s in stages), 3, 3600)] if gpus else []
    text = table(heads, rows, [*total, "", str(sum(s.sittings for s in stages))])
    text += (
        '<p class="small muted">Every stage records its own time; a sitting is one start of it, and those '
        "of a stage that "
        "was stopped add up. CPU: time in which cores computed for it."
    )
    if any(stage.estimated for stage in stages):
        text += (
            " \u2248: the run is older than this record, so the time is that of its log, times its threads."
        )
    if any(stage.cpu_s is None for stage in stages):
        text += f" {DASH}: the run is older than the record of CPU time."
    text += "</p>"
    commands = [stage.command for stage in stages if stage.command]
    if commands:
        lines = "\n".join(escape(command) for command in commands)
        text += f"<details><summary>Commands of the stages</summary><pre>{lines}</pre></details>"
    return text


def _conditions(run: Run) -> str:
    groups = [("Latency", dict(run.latencies.conditions) if run.latencies else {}), ("Machine", run.machine)]
    text = ""
    for title, facts in groups:
        if facts:
            items = "".join(
                f"<dt>{escape(n.replace('_', ' '))}</dt><dd>{escape(v)}</dd>" for n, v in facts.items()
            )
            text += f'<p><strong>{title}</strong></p><dl class="facts">{items}</dl>'
    if not text:
        text = none("No version.json is here, so the machine and the versions are not known.")
    if run.notes:
        text += "<p><strong>Left out</strong></p>" + "".join(none(escape(short(n, 400))) for n in run.notes)
    return text


def duration(seconds: float) -> str:
    """Return a time as a person says it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _hours_text(stages: Sequence[StageCost]) -> str:
    known = [stage.cpu_s for stage in stages if stage.cpu_s is not None]
    parts = [f"{sum(known) / 3600:.2f} CPU core hours"] if known else []
    gpu_s = sum(stage.gpu_s for stage in stages)
    return ", ".join(parts + ([f"{gpu_s / 3600:.2f} GPU hours"] if gpu_s else []))
