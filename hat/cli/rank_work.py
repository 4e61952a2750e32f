"""What a rank study computes: one training, one score, and a short probe of what each will take."""

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import yaml

from hat.cli.settings import Settings
from hat.cli.task import Vocabulary, dataset
from hat.cli.train import main as train
from hat.config import to_yaml_values
from hat.data.batching import EpochBatches, groups
from hat.data.corpora import detokenize
from hat.data.subwords import subword_kind
from hat.decode.beam import BeamConfig, beam_search
from hat.decode.generate import joiner, translate
from hat.decode.score import bleu
from hat.errors import HatError
from hat.files.atomic import digest_path, write_text_atomic
from hat.log import say
from hat.model.extract import extract
from hat.model.inference import InferenceModel
from hat.model.transformer import SuperTransformer, Transformer
from hat.search.ranking import Score
from hat.search.run import ValidationFitness
from hat.space import Arch, SearchSpace
from hat.train import checkpoint as ckpt
from hat.train.loop import validation_batches
from hat.train.trainer import Trainer

_WARM, _TIMED = 2, 4  # updates of a probe
_PROBED_SENTENCES = 64
_AT_ONCE = 128  # sentences translated together


@dataclass(frozen=True)
class Costs:
    """Seconds on this machine as it is now, for an architecture of middle size."""

    update_s: float
    loss_s: float
    translation_s: float  # of the whole validation split; 0 where nothing is translated


class Stopped(Exception):
    """A training was asked to stop and has saved; `code` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class RankWork:
    """Trains and scores architectures of one space with one recipe; each result depends on nothing else."""

    def __init__(
        self,
        settings: Settings,
        space: SearchSpace,
        vocab: Vocabulary,
        device: torch.device,
        dtype: torch.dtype,
        beam: BeamConfig,
        remove_bpe: str | None,
        *,
        bleu: bool,
    ) -> None:
        self.settings, self.space, self.vocab = settings, space, vocab
        self.device, self.dtype, self.beam, self.bleu = device, dtype, beam, bleu
        self._data = dataset(settings.task, settings.task.valid_subset)
        self._remove_bpe = remove_bpe or subword_kind(self._data.target_vocab)
        self._join = joiner(self._remove_bpe)
        self._plain = self._remove_bpe == "sentencepiece"  # what it joins is text as it is
        self._join("")  # an unknown kind is an error before anything is trained
        self._content = dataset(settings.task, settings.run.train_subset).content()
        self._batches = [
            batch.to(device) for batch in validation_batches(self._data, settings.task, settings.model)
        ]
        self._reference = self._data.raw_target() if bleu else None

    def recipe(self, updates: int) -> Settings:
        """Return the settings of a training of `updates`; its warm-up is at most a fifth of it."""
        schedule = self.settings.schedule
        return self.settings._replace(
            optim=replace(self.settings.optim, max_update=updates, max_epoch=None),
            schedule=replace(schedule, warmup_updates=min(schedule.warmup_updates, updates // 5)),
        )

    def identity(self, updates: int) -> dict[str, Any]:
        """Return all that a training depends on besides architecture, seed and checkpoint."""
        recipe = self.recipe(updates)
        values = to_yaml_values(recipe.task, recipe.space, recipe.model, recipe.optim, recipe.schedule)
        values["data"] = [*self.vocab.digests, *self._content]
        return {**values, "dtype": str(self.dtype)}

    def scoring(self) -> dict[str, Any]:
        """Return all that a score depends on besides the training."""
        bleu = {**asdict(self.beam), "remove_bpe": self._remove_bpe} if self.bleu else None
        return {"pairs": self._data.content(), "bleu": bleu}

    def train(self, arch: Arch, updates: int, seed: int, folder: Path, restore: Path | None) -> Path:
        """Return the checkpoint at the end of a training in `folder`, which goes on where it was killed.

        Raises Stopped where it was interrupted and HatError where it failed.
        """
        recipe = self.recipe(updates)
        run = replace(
            recipe.run,
            configs=None,
            train_subtransformer=True,
            validate_subtransformer=False,
            save_dir=str(folder),
            restore_file=None if restore is None else str(restore),
            save_interval=1,
            save_interval_updates=0,
            keep_last_epochs=0,
            validate_interval=10**9,  # the study scores the end
            patience=-1,
            no_tensorboard=True,
        )
        values = to_yaml_values(
            run,
            recipe.task,
            recipe.space,
            recipe.model,
            recipe.optim,
            recipe.schedule,
            replace(recipe.device, seed=seed),
        )
        values |= arch.to_yaml() | {"no-progress-bar": True, "distributed-world-size": 1}
        config = folder / "study.yml"
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(config, yaml.safe_dump(values, sort_keys=False, width=100))
        with contextlib.redirect_stdout(io.StringIO()):
            code = train([f"--configs={config}"])
        if code in (130, 143):
            raise Stopped(code)
        if code:
            raise HatError(f"the training of {config} failed, its message stands above; run again to go on")
        return folder / "checkpoint_last.pt"

    def take_up(self, path: Path) -> Transformer:
        """Return the SuperTransformer of a checkpoint; raises CheckpointError where it is of another task."""
        source = ckpt.check_compatible(
            ckpt.load(path, say),
            path,
            self.space,
            None,
            self.settings.model,
            self.vocab.sizes,
            self.vocab.digests,
        )
        return ckpt.model_of(source, path, None)

    def trained(self, path: Path, arch: Arch) -> Transformer:
        """Return the SubTransformer of a training."""
        return ckpt.load(path, say).sub(arch)

    def score(self, model: Transformer, arch: Arch) -> Score:
        """Return loss and BLEU of `arch` on the validation split: a slice of `model`, or this very model."""
        placed = model.to(self.device, self.dtype)
        fitness = ValidationFitness(placed, self._batches, self.settings.optim.label_smoothing, self.device)
        (loss,) = fitness([arch])
        return Score(loss, self._bleu(placed, arch) if self.bleu else None)

    def probe(self, archs: Sequence[Arch], whole: Transformer | None) -> Costs:
        """Return what an update, a loss and a translation take: means over `archs`.

        Without trained weights translations end late, so theirs is an upper bound.
        """
        if whole is None:
            whole = SuperTransformer(self.space, self.vocab.sizes, self.settings.model)
        costs = [self._probe(extract(whole, arch), arch) for arch in archs]
        return Costs(*(fmean(parts) for parts in zip(*costs, strict=True)))

    def _probe(self, model: Transformer, arch: Arch) -> tuple[float, float, float]:
        fixed = InferenceModel(model.to(self.device, self.dtype), arch)
        count = min(_PROBED_SENTENCES, len(self._data))
        places = [n * len(self._data) // count for n in range(count)]
        source = self._data.batch(places).source.to(self.device)
        translation_s = 0.0
        if self.bleu:
            translation_s = _seconds(lambda: beam_search(fixed, source, self.beam)) * len(self._data) / count
        fitness = ValidationFitness(model, self._batches, self.settings.optim.label_smoothing, self.device)
        loss_s = _seconds(lambda: fitness([arch]))
        recipe = self.recipe(_WARM + _TIMED)
        trainer = Trainer(
            model.float(), recipe.optim, recipe.schedule, dtype=self.dtype, device=self.device, seed=1
        )
        task, cfg = recipe.task, recipe.model
        batches = EpochBatches(
            dataset(task, recipe.run.train_subset),
            max_tokens=task.max_tokens,
            max_sentences=task.max_sentences,
            seed=1,
            epoch=1,
            multiple=task.required_batch_size_multiple,
            max_source_positions=cfg.max_source_positions,
            max_target_positions=cfg.max_target_positions,
        )
        first = list(islice(groups(batches, recipe.optim.update_freq), _WARM + _TIMED))
        seconds = [_seconds(lambda group=group: trainer.train_step(group, arch)) for group in first]
        return fmean(seconds[_WARM:] or seconds), loss_s, translation_s

    def _bleu(self, model: Transformer, arch: Arch) -> float:
        fixed, vocab = InferenceModel(model, arch), self._data.target_vocab
        found = [""] * len(self._data)
        for batch in translate(fixed, self._data, self.beam, batch_size=_AT_ONCE):
            for translation in batch:
                tokens = np.array(translation.hypotheses[0].tokens)
                found[translation.index] = self._join(vocab.decode(tokens))
        reference, lang = self._reference, self._data.target_lang
        if not self._plain:
            found = list(detokenize(found, lang))
        if reference is None:
            target = self._data.target
            reference = [self._join(vocab.decode(target[n], unk="<<unk>>")) for n in range(len(found))]
            if not self._plain:
                reference = list(detokenize(reference, lang))
        return bleu(found, reference, "sacre", lang).bleu


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def remove_checkpoints(folder: Path) -> None:
    """Remove what a finished training leaves but its log and configuration."""
    for path in folder.glob("*.pt"):
        path.unlink()
        digest_path(path).unlink(missing_ok=True)
