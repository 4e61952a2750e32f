"""Distillation (Kim and Rush, 2016): a teacher's translations as targets; the old are split `original`."""

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hat.data.folder import CODES_FILE, MODEL_FILE, SUMS, check_digests
from hat.data.indexed import IndexedData, write_parts
from hat.data.pairs import ORIGINAL, PairDataset, flat
from hat.decode.beam import BeamConfig, beam_search
from hat.decode.translator import searched
from hat.errors import DataError
from hat.files.atomic import file_digest, link_or_copy, write_atomic, write_text_atomic
from hat.log import info, progress
from hat.model.inference import InferenceModel

PART = 512  # sentences between two saves: the most that a kill loses of each process
Part = dict[str, np.ndarray]  # ids of the translations back to back, their lengths, counts for each sentence
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def distill(
    teacher: InferenceModel,
    data: PairDataset,
    out: Path,
    cfg: BeamConfig,
    *,
    nbest: int = 1,
    batch_size: int = 128,
    group: Any = None,
    show_bar: bool = False,
) -> dict[str, int]:
    """Translate the sources of `data`, make `out` a folder of data, and return how much there is in it. Each
    sentence gets its `nbest` best translations; one that is longer than the teacher's positions keeps its
    target. `group` are the processes that share the work (`hat.train.distributed.ProcessGroup`); the first
    one writes. What is translated lies in `out/parts` until all is: called again, it goes on.
    """
    rank, size = (group.rank, group.size) if group else (0, 1)
    on_rank0, gather = (group.on_rank0, group.gather_objects) if group else (lambda f: f(), lambda x: [x])
    starts = range(0, len(data), PART)
    there = on_rank0(lambda: {n for n in starts if (out / SUMS).exists() or _read(out, n)})
    missing = [n for n in starts if n not in there]

    def translated() -> Iterator[int]:
        for first in range(0, len(missing), size):
            mine = missing[first + rank : first + rank + 1]
            made = [(n, _translate(teacher, data, cfg, n, nbest, batch_size)) for n in mine]
            for n, part in (each for of_rank in gather(made) for each in of_rank):
                if rank == 0:
                    (out / "parts").mkdir(parents=True, exist_ok=True)
                    write_atomic(out / f"parts/{n}.npz", lambda file, part=part: np.savez(file, **part))
                yield from range(len(part["counts"]))

    done = sum(min(PART, len(data) - n) for n in there)
    for _ in progress(translated(), len(data), "distil", "sentences", quiet=not show_bar, done=done):
        pass
    return on_rank0(lambda: _finish(data, out, starts))


def _translate(
    teacher: InferenceModel, data: PairDataset, cfg: BeamConfig, start: int, nbest: int, batch_size: int
) -> Part:
    found = {n: [data.target[n]] for n in range(start, min(start + PART, len(data)))}
    fits = [n for n in found if data.source.lengths[n] <= teacher.cfg.max_source_positions]
    sources, search = [data.source[n] for n in fits], partial(beam_search, teacher)
    for place, hypotheses in searched(search, teacher.device, sources, cfg, batch_size):
        found[fits[place]] = [np.array(each.tokens) for each in hypotheses[:nbest]]
    ids, lengths = flat([ids for each in found.values() for ids in each])
    return {"ids": ids, "lengths": lengths, "counts": np.array([len(each) for each in found.values()])}


def _read(out: Path, start: int) -> Part | None:
    path = out / f"parts/{start}.npz"
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name] for name in ("ids", "lengths", "counts")}
    except FileNotFoundError:
        return None
    except _DAMAGED as error:
        info(f"{path} is damaged and is translated again: {error}")
        return None


def _finish(data: PairDataset, out: Path, starts: range) -> dict[str, int]:
    langs, split = (data.source_lang, data.target_lang), data.split
    pair = "-".join(langs)

    def rows(of: IndexedData | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in starts:
            if (part := _read(out, start)) is None:
                raise DataError(f"{out}/parts/{start}.npz was damaged; run the same command again")
            where = np.repeat(np.arange(start, start + len(part["counts"])), part["counts"])
            yield of.gather(where) if of else (part["ids"], part["lengths"])

    texts = {f"{split}.{pair}.{langs[0]}": data.source, f"{split}.{pair}.{langs[1]}": None}
    texts[f"{ORIGINAL}.{pair}.{langs[1]}"] = data.target
    if not (out / SUMS).exists():
        for name, of in texts.items():
            vocab = data.source_vocab if of is data.source else data.target_vocab
            write_parts(out / name, rows(of), len(vocab))
        ours = (f"{split}.", f"{ORIGINAL}.")
        keep = {*(f"dict.{lang}.txt" for lang in langs), MODEL_FILE, CODES_FILE}
        keep |= {path.name for path in data.folder.glob(f"*.{pair}.*") if not path.name.startswith(ours)}
        files = {name: data.folder / name for name in keep if (data.folder / name).exists()}
        check_digests(data.folder, files)
        for end in ("bin", "idx"):
            files[f"{ORIGINAL}.{pair}.{langs[0]}.{end}"] = out / f"{split}.{pair}.{langs[0]}.{end}"
        for name, path in files.items():
            (out / name).unlink(missing_ok=True)
            link_or_copy(path, out / name)
        names = sorted({*files, *(f"{name}.{end}" for name in texts for end in ("bin", "idx"))})
        write_text_atomic(out / SUMS, "".join(f"{file_digest(out / name)}  {name}\n" for name in names))
    shutil.rmtree(out / "parts", ignore_errors=True)
    translated = IndexedData(out / f"{split}.{pair}.{langs[1]}")
    return {"sentences": len(data), "pairs": len(translated), "tokens": int(translated.lengths.sum())}
