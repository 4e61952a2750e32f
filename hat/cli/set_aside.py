"""A latency predictor of the 2020 release that lies where one's own is about to be written."""

import os
from pathlib import Path

from hat.errors import CheckpointError, ConfigError, HatError
from hat.files.atomic import digest_path
from hat.files.released import beside_own
from hat.latency.predictor_file import read_plain


def released_at(path: Path) -> Path | None:
    """Return where the released predictor at `path` can go, or None where there is none at `path`.

    Released files are bare weights. Raises ConfigError where another file has that place already.
    """
    try:
        if not path.exists() or "first_layer.weight" not in read_plain(path):
            return None
    except CheckpointError:
        return None  # damaged, so nothing is lost
    aside = beside_own(path)
    if aside.exists() and aside.read_bytes() != path.read_bytes():
        raise ConfigError(
            f"{path} is a predictor of the 2020 release, and its place beside one's own, {aside}, holds "
            "another file; move one of them away, or give another --ckpt-path"
        )
    return aside


def set_aside(path: Path, aside: Path) -> None:
    """Move a released predictor and its digest, so that both stay usable. Raises HatError."""
    try:
        os.replace(path, aside)
        if digest_path(path).exists():
            text = digest_path(path).read_text("ascii").replace(path.name, aside.name)
            digest_path(aside).write_text(text, "ascii")
            digest_path(path).unlink()
    except OSError as error:
        raise HatError(f"cannot move {path} to {aside}: {error.strerror}; move it yourself") from error
