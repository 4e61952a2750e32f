"""A model together with its dictionaries: plain sentences in, plain translations out; and whole splits."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hat.data.pairs import PairDataset, flat, pad, plan_batches, usable
from hat.data.subwords import TextCodec, remove_subwords
from hat.data.vocab import EOS, Vocab
from hat.decode.beam import BeamConfig, Hypothesis, beam_search
from hat.errors import ArchError, DataError
from hat.log import progress
from hat.model.inference import InferenceModel
from hat.model.layers import MAX_POSITIONS
from hat.model.transformer import SubTransformer, Transformer, extract
from hat.space import Arch, SearchSpace

BeamSearch = Callable[[Tensor, BeamConfig], list[list[Hypothesis]]]
"""Finds up to `beam` hypotheses, best first, for each row of left-padded ids [B, S] with EOS."""
SORTED = 8  # batches that are sorted by length at a time: how files and streams of text are translated alike


@dataclass(frozen=True, eq=False)
class Model:
    """A network and what turns text into its ids; `hat.fit` makes one, `hat.load` reads one."""

    network: Transformer  # a SuperTransformer or a SubTransformer
    codec: TextCodec | None = None  # dictionaries and subword model; None if only their sizes are known
    digests: tuple[str, str] = ("", "")  # SHA-256 of the files of both dictionaries, "" if not known

    @property
    def space(self) -> SearchSpace:
        """Return the search space that the network belongs to."""
        return self.network.space

    @property
    def arch(self) -> Arch | None:
        """Return the architecture of a SubTransformer, None for a SuperTransformer."""
        return self.network.arch if isinstance(self.network, SubTransformer) else None

    def extract(self, arch: Arch) -> "Model":
        """Return `arch`, cut out of this SuperTransformer as a model of its own, else ArchError."""
        if self.arch is None:
            return Model(extract(self.network, arch), self.codec, self.digests)
        if self.arch != arch:
            raise ArchError("a SubTransformer holds one architecture; extract from its SuperTransformer")
        return self

    def translate(
        self,
        sentences: Sequence[str],
        *,
        beam: int = 5,
        lenpen: float = 1.0,
        batch_size: int = 32,
        max_tokens: int | None = None,
        config: BeamConfig | None = None,
        engine: BeamSearch | None = None,
    ) -> list[str]:
        """Return the translation of each sentence, in order, as plain text; an empty sentence stays empty. A
        SuperTransformer translates with its largest architecture.

        `beam` hypotheses are kept for each sentence, scores divided by length^`lenpen`; `config` gives all
        options of beam search instead. At most `batch_size` sentences, and `max_tokens` tokens with padding,
        are translated at once. `engine` computes, see `hat.engine`; by default PyTorch does. Raises DataError
        for a sentence longer than the model's positions, with its number from 1, and for a model without
        dictionaries or subword model.
        """
        cfg = config or BeamConfig(beam=beam, lenpen=lenpen)
        found = self.hypotheses(sentences, cfg, batch_size=batch_size, max_tokens=max_tokens, engine=engine)
        return [texts[0][0] if texts else "" for texts in found]

    def hypotheses(
        self,
        sentences: Sequence[str],
        config: BeamConfig,
        *,
        batch_size: int = 32,
        max_tokens: int | None = None,
        engine: BeamSearch | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Return up to `beam` translations of each sentence with scores, best first; see `translate`."""
        if isinstance(sentences, str):
            raise TypeError("translate takes a list of sentences, got one string")
        if self.codec is None:
            raise DataError("this model has no dictionaries; give the folder of its data when loading it")
        sources = [self.codec.encode(sentence) for sentence in sentences]
        limit = min(self.network.cfg.max_source_positions, max_tokens or MAX_POSITIONS)
        lengths = np.array([len(ids) for ids in sources], dtype=np.int64)
        for index in np.flatnonzero(lengths > limit)[:1]:
            found = f"sentence {index + 1} has {lengths[index]} tokens with its end, {limit} are allowed"
            raise DataError(f"{found}; shorten it")
        results: list[list[tuple[str, float]]] = [[] for _ in sources]
        wanted = [index for index, ids in enumerate(sources) if ids[0] != EOS]
        search = engine or partial(beam_search, InferenceModel(self.network))
        device = self.network.source_embed.weight.device
        given = [sources[index] for index in wanted]
        for place, found in searched(search, device, given, config, batch_size, max_tokens):
            results[wanted[place]] = [(self.codec.decode(each.tokens), each.score) for each in found]
        return results


def searched(
    search: BeamSearch,
    device: torch.device,
    sources: Sequence[np.ndarray],
    cfg: BeamConfig,
    batch_size: int,
    max_tokens: int | None = None,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Yield the place of each source (ids with EOS) and what `search` finds for it. At most `batch_size`
    sentences of similar length, and `max_tokens` with padding, are searched together, the longest first.
    """
    lengths = np.array([len(ids) for ids in sources], dtype=np.int64)
    budget = max_tokens or int(lengths.max(initial=1)) * batch_size
    fixed = {"multiple": 1, "seed": 0, "epoch": 0, "shuffle": False}
    batches = plan_batches(lengths, lengths, max_tokens=budget, max_sentences=batch_size, **fixed)
    for places in reversed(batches):
        source_BS = pad(flat([sources[place] for place in places]), left=True).to(device)
        yield from zip(places.tolist(), search(source_BS, cfg), strict=True)


def translate(
    model: Any, data: PairDataset, cfg: BeamConfig, *, batch_size: int
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Yield number and hypotheses, best first, of each sentence; DataError for a source beyond positions."""
    limit, lengths = model.cfg.max_source_positions, data.source.lengths
    usable((lengths, np.ones_like(lengths)), limit, (limit, limit), drop_long=False)
    search = model if callable(model) else partial(beam_search, model)
    for start in range(0, len(data), step := SORTED * batch_size):
        sources = [data.source[n] for n in range(start, min(start + step, len(data)))]
        for place, hypotheses in searched(search, model.device, sources, cfg, batch_size):
            yield start + place, hypotheses


def generate(
    model: Any,
    data: PairDataset,
    cfg: BeamConfig,
    *,
    batch_size: int = 128,
    remove_bpe: str | None = None,
    nbest: int = 1,
    show_bar: bool = False,
) -> tuple[str, dict[str, Any]]:
    """Translate a whole split by an InferenceModel or an engine, at most `batch_size` sentences at once.
    Returns the release's lines (S source, T target, then H score and text, P token scores of `nbest`
    hypotheses), joined as `remove_bpe` says, and what it took: sentences, tokens of the best hypotheses with
    EOS, seconds. Raises DataError if a source sentence is longer than the model's positions.
    """
    start, tokens, results = time.perf_counter(), 0, [""] * len(data)

    def text(vocab: Vocab, ids: np.ndarray, unk: str = "<unk>") -> str:
        return remove_subwords(vocab.decode(ids, unk), remove_bpe)

    found = translate(model, data, cfg, batch_size=batch_size)
    for n, hypotheses in progress(found, len(data), "translate", "sentences", quiet=not show_bar):
        tokens += len(hypotheses[0].tokens)
        # `<<unk>>` in the reference can never match a hypothesis, which prints `<unk>`
        target = text(data.target_vocab, data.target[n], unk="<<unk>>")
        lines = [f"S-{n}\t{text(data.source_vocab, data.source[n])}", f"T-{n}\t{target}"]
        for each in hypotheses[:nbest]:
            lines.append(f"H-{n}\t{each.score}\t{text(data.target_vocab, np.array(each.tokens))}")
            lines.append(f"P-{n}\t{' '.join(f'{score:.4f}' for score in each.token_scores)}")
        results[n] = "".join(f"{line}\n" for line in lines)
    seconds = round(time.perf_counter() - start, 3)
    return "".join(results), {"sentences": len(data), "tokens": tokens, "seconds": seconds}
