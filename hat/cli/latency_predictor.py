"""The command `latency_predictor.py`: train a latency predictor and report its error."""

from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any

import torch

from hat.cli.options import OutputOptions, advice, only, parse, stage
from hat.config import Options, flag_of, option, to_yaml_values
from hat.errors import ConfigError, DataError
from hat.files.atomic import check_writable
from hat.latency.predictor import COVERAGE, Report, is_released, trained_predictor
from hat.latency.table import find_table, read_table
from hat.log import info
from hat.model.cpu import device_name
from hat.report.page import latency_chart, png, write_png
from hat.run import Identity, Run, digest_of, read_record, record_path


@dataclass(frozen=True)
class PredictorOptions(Options):
    """Latency predictor"""

    lat_dataset_path: str | None = option(None, role="free")
    """CSV file of measured latencies; the same name without _all is read if only that exists"""
    ckpt_path: str | None = option(None, "predictor file to write", role="free")
    transfer_from: str | None = option(None, metavar="FILE", role="free")
    """table (CSV) or predictor (.pt) of another device to start from; about 20 rows of the new one do then"""
    seed: int = option(1, "seed of the split into training and test rows and of the training", low=0)
    mixed: bool = option(False, "learn also from rows that were measured in different ways")


# Keys of the release, accepted without effect: the predictor finds its scales, size and steps itself.
_KEYS = {int: "feature_dim hidden_dim hidden_layer_num train_steps bsz", float: "lat_norm predictor_lr lr"}
_RELEASE = [(name, kind | None, None) for kind, names in _KEYS.items() for name in names.split()]
ReleaseOptions = make_dataclass("ReleaseOptions", [("feature_norm", tuple[float, ...], ()), *_RELEASE])


def parsed(argv: Sequence[str] | None) -> tuple[Any, ...]:
    """Return the options, those without effect, and those of the output."""
    groups = PredictorOptions, only(ReleaseOptions), OutputOptions
    text = "Train a latency predictor on measured architectures; report its error on unseen ones."
    return parse(argv, *groups, prog="latency_predictor.py", description=text, config_flags=("--configs",))


def identity(groups: tuple[Any, ...]) -> Identity:
    """Return what the predictor depends on, as the run will record it; nothing is made or changed."""
    options = groups[0]
    inputs = {"table": find_table(options.lat_dataset_path)}
    inputs |= {"transfer-from": Path(options.transfer_from)} if options.transfer_from else {}
    return Identity.of("predictor", options, inputs=inputs)


def run(groups: tuple[Any, ...], argv: Sequence[str] | None = None) -> Report:
    """Train and write a predictor with its record and picture; print and return its scores."""
    options, ignored, _ = groups
    for name in ("lat_dataset_path", "ckpt_path"):
        if getattr(options, name) is None:
            other = "name it, or --configs=configs/<task>/latency_predictor/*.yml"
            raise ConfigError(f"{flag_of(name)} is not given; {other}")
    path, old = Path(options.ckpt_path), options.transfer_from
    try:
        table = find_table(options.lat_dataset_path)
    except DataError as error:
        raise DataError(f"{error}; {advice(options.lat_dataset_path, 'check the path')}") from error
    check_writable(path)
    made = read_record(table, folder=False, note=info).outputs.get(table.name)
    if made and made != digest_of(table):
        info(f"{table} is not as it was measured: its record {record_path(table, folder=False)} differs")
    if given := ", ".join(to_yaml_values(ignored)):
        info(f"{given}: no effect here; the predictor finds its scales, size and steps itself")
    if is_released(path):
        info(f"{path}, of the 2020 release, is replaced; download_model.py --latency-data has it")
    torch.set_num_threads(1)  # the network is tiny: threads only wait for each other, long if other work runs
    predictor = trained_predictor(table, transfer_from=old, seed=options.seed, mixed=options.mixed)
    report = predictor.report or {}
    facts: dict[str, Any] = {"settings": to_yaml_values(options), "identity": identity(groups)}
    facts |= {"device": {"device": device_name(torch.device("cpu"))}, "threads": torch.get_num_threads()}
    # now that it worked: until then a record of an earlier predictor stays beside it
    with Run(record_path(path, folder=False), "predictor", goes_on=False, **facts) as kept:
        predictor.save(path)
        kept.results |= report | {"unseen": predictor.unseen, "conditions": predictor.conditions}
        kept.vouch(path)
    if old is None:
        write_png(path.with_suffix(".png"), lambda: png([latency_chart(predictor.unseen, ())]))
    seen = f"{len(read_table(table))} rows of {table}, scores on {report['rows']} that training did not see"
    print(f"{seen}; predictor: {path}")
    print(f"{'':14} {'MAPE %':>8} {'RMSE ms':>10} {'Kendall tau':>12}")
    for name, scores in {"predictor": report, **report["baselines"]}.items():
        mape, rmse, tau = (scores[each] for each in ("mape_percent", "rmse_ms", "kendall_tau"))
        print(f"{name:14} {mape:8.2f} {rmse:10.2f} {tau:12.3f}")
    coverage, bound = min(COVERAGE, predictor.max_coverage), report["bound"]
    held = f"; it held on {bound['held']:.1%} of the rows above" if bound else ""
    print(f"{coverage:.0%} upper bound: prediction {100 * (predictor.margin(coverage) - 1):+.1f}%{held}")
    return report


main = stage(parsed, run)
