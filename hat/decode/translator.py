"""A model together with its dictionaries: plain sentences in, plain translations out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from hat.data.subwords import TextCodec
from hat.data.vocab import EOS, Vocab
from hat.decode.beam import BeamConfig, Hypothesis, beam_search
from hat.decode.generate import searched
from hat.errors import ArchError, DataError
from hat.model.inference import InferenceModel
from hat.model.layers import MAX_POSITIONS
from hat.model.transformer import SubTransformer, Transformer, extract
from hat.space import Arch, SearchSpace

BeamSearch = Callable[[Tensor, BeamConfig], list[list[Hypothesis]]]
"""Finds up to `beam` hypotheses, best first, for each row of left-padded ids [B, S] with EOS."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network and what turns text into its ids.

    `hat.fit` makes one, `hat.load` reads one from a checkpoint.
    """

    network: Transformer
    """a SuperTransformer or a SubTransformer"""
    codec: TextCodec | None = None
    """dictionaries and subword model; None if the model is only known by the sizes of its dictionaries"""
    digests: tuple[str, str] = ("", "")
    """SHA-256 of the files of both dictionaries, "" if they are not known"""

    @property
    def space(self) -> SearchSpace:
        """Return the search space that the network belongs to."""
        return self.network.space

    @property
    def arch(self) -> Arch | None:
        """Return the architecture of a SubTransformer, None for a SuperTransformer."""
        return self.network.arch if isinstance(self.network, SubTransformer) else None

    @property
    def vocabs(self) -> tuple[Vocab, Vocab] | None:
        """Return the dictionaries of source and target, None if they are not known."""
        return None if self.codec is None else self.codec.vocabs

    def extract(self, arch: Arch) -> "Model":
        """Return `arch`, cut out of this SuperTransformer, as a model of its own; the weights are copies.

        Raises ArchError if `arch` is not in the search space, or if this is another SubTransformer.
        """
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
        """Return the translation of each sentence, in order, as plain text.

        An empty sentence stays empty. A SuperTransformer translates with its largest architecture.

        `beam` hypotheses are kept for each sentence, scores divided by length^`lenpen`; `config` gives all
        options of beam search instead. At most `batch_size` sentences, and `max_tokens` tokens with padding,
        are translated at once. `engine` computes, see `hat.engine`; by default PyTorch does.

        Raises DataError for a sentence longer than the model's positions, with its number from 1, and for a
        model without dictionaries or subword model.
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
        """Return up to `beam` translations of each sentence with their scores, best first.

        Arguments and errors are those of `translate`; an empty sentence has no translation.
        """
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
