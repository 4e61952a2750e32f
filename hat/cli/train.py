"""train.py: train or profile a SuperTransformer or a SubTransformer."""

import json
import os
import sys
from collections.abc import Sequence

from hat.cli.interrupt import Interrupt
from hat.cli.options import command
from hat.cli.profile import describe, profile, size
from hat.cli.settings import Settings, parse_settings
from hat.cli.task import (
    data_of,
    device_of,
    find_checkpoint,
    processes,
    rank_device,
    run_folder,
    space_and_arch,
    vocabulary,
)
from hat.errors import ConfigError
from hat.log import say
from hat.space import Arch, SearchSpace
from hat.train.distributed import joined, launch, one_of_many, place_of
from hat.train.loop import fit, validate


@one_of_many
@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train, validate or profile; see --help."""
    settings: Settings
    (settings,) = parse_settings(
        argv,
        prog="train.py",
        description="Train or profile a SuperTransformer, or one SubTransformer of its space.",
        config_flags=("--configs", "--sub-configs"),
    )
    run, task = settings.run, settings.task
    space, arch = space_and_arch(settings.space, settings.arch)
    if arch is None and (run.train_subtransformer or run.validate_subtransformer):
        raise ConfigError(
            "--train-subtransformer needs an architecture: give its YAML as --configs and common.yml as "
            "--sub-configs"
        )
    if settings.profile.asked():
        return _profile(settings, space, arch or space.largest())
    place = place_of(os.environ)
    first = place is None or place.rank == 0
    sizes = size(space, arch or space.largest())
    if first and not (place and place.ours):
        print(describe(sizes), flush=True)
    data = data_of(task)
    folder = run_folder(run.configs, run.save_dir)
    if place is None and (count := processes(settings.ranks, settings.device)) > 1:
        return launch("hat.cli.train", argv, count, settings.ranks.distributed_port)
    device = rank_device(settings.device, place, settings.ranks)
    if unused := settings.policy.unused(alone=arch is not None):
        say(f"not used: {', '.join(f'--{name}' for name in unused)}")
    with joined(place, device) as group:
        if run.validate_subtransformer:
            assert arch is not None
            start = find_checkpoint(run.restore_file or "checkpoint_best.pt", folder)
            found = validate(arch, space, data, start, settings.training, device=device, group=group)
            losses = f"validation loss {found.loss:.4f} (base 2, smoothed), nll {found.nll_loss:.4f}"
            losses_json = {"valid_loss": found.loss, "valid_nll_loss": found.nll_loss}
            return _finish(settings, first, f"{losses}, {start}", sizes | losses_json)
        with Interrupt() as interrupt:
            result = fit(
                arch or space,
                data,
                settings.training,
                space=space,
                init=group.on_rank0(lambda: find_checkpoint(run.restore_file, folder))
                if run.restore_file
                else None,
                out=folder,
                device=device,
                seed=settings.device.seed,
                group=group,
                interrupt=interrupt,
                progress=not settings.output.no_progress_bar and sys.stderr.isatty(),
            )
    if result.stopped is not None:
        say(f"stopped by signal {result.stopped} and saved; the same command goes on from here")
        return 128 + result.stopped
    best = "unknown" if result.best_loss is None else f"{result.best_loss:.3f} (base 2)"
    text = (
        f"trained {result.updates} updates in {result.train_s:.0f} s, best validation loss {best}; checkpoints "
        f"in {folder}"
    )
    return _finish(settings, first, text, sizes | {"training": result.summary() | {"save_dir": str(folder)}})


def _profile(settings: Settings, space: SearchSpace, arch: Arch) -> int:
    device_of(settings.device)  # sets the threads
    task, vocab = settings.task, vocabulary(settings.task, profiling=True)
    length = task.sentence_length()
    result = profile(space, arch, settings.model, vocab.sizes, length, settings.profile, settings.device)
    return _finish(settings, True, describe(result), result)


def _finish(settings: Settings, first: bool, text: str, result: dict) -> int:
    """Print what came out, once for all processes."""
    if first:
        print(text)
        if settings.output.json:
            print(json.dumps(result))
    return 0
