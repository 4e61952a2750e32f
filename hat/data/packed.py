"""Take binary data that is ready for training out of an archive."""

from collections.abc import Sequence
from pathlib import Path

from hat.data.folder import replacing
from hat.data.pairs import PairDataset
from hat.errors import DataError
from hat.files.archive import unpack


def unpack_data(
    archive: Path, destdir: Path, languages: tuple[str, str], splits: Sequence[str]
) -> dict[str, int]:
    """Make `destdir` the binary data in `archive`, in whatever folder there; return the pairs of each split.

    The data is read and checked before it takes the place of what is in `destdir`, in one step. Raises
    DataError where something is missing, damaged or does not fit together.
    """
    pair = "-".join(languages)
    names = [f"dict.{lang}.txt" for lang in languages] + [
        f"{split}.{pair}.{lang}.{suffix}"
        for split in splits
        for lang in languages
        for suffix in ("bin", "idx")
    ]
    with replacing(destdir, pair, languages) as fresh:
        unpack(archive, fresh, names, flat=True)
        try:
            return {split: len(PairDataset.load(fresh, split, *languages)) for split in splits}
        except DataError as error:
            raise DataError(
                f"{archive} does not hold data for training: {error}; {destdir} is as it was; fetch the "
                "archive again"
            ) from error
