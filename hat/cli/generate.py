"""scripts/generate.py: translate a split with a trained model."""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from hat.cli.options import command
from hat.cli.restore import evaluation_dtype, find_checkpoint
from hat.cli.settings import parse_settings
from hat.cli.task import check_dictionaries, dataset, device_of, vocabulary
from hat.decode.beam import BeamConfig
from hat.decode.generate import joiner, output_lines, translate
from hat.errors import ConfigError
from hat.files.atomic import write_text_atomic
from hat.log import progress, say
from hat.model.inference import InferenceModel
from hat.model.matrix import Int8Matrix, fixed_matrix
from hat.space import arch_of
from hat.train.checkpoint import load
from hat.train.ranks import place_of


@dataclass(frozen=True)
class GenerateOptions:
    """Generation"""

    path: str | None = None
    """checkpoint of the model; averaged and SuperTransformer checkpoints work too"""
    gen_subset: str = "test"
    """split to translate"""
    batch_size: int = 128
    """most sentences translated at once"""
    remove_bpe: str | None = field(default=None, metadata={"const": "@@ "})
    """join subwords: `@@ ` (also when given alone), subword_nmt or sentencepiece"""
    nbest: int = 1
    """hypotheses printed for each sentence"""
    int8: bool = False
    """translate with 8-bit weights on the CPU: faster, not exactly the same words"""
    results_path: str | None = None
    """file for the output, written whole (default: standard output)"""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.nbest < 1:
            raise ConfigError(
                f"--batch-size and --nbest must be at least 1, got {self.batch_size} and {self.nbest}"
            )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Translate; see --help."""
    settings, options, beam = parse_settings(
        argv,
        GenerateOptions,
        BeamConfig,
        prog="generate.py",
        description="Translate a split by beam search; prints S, T, H and P lines for each sentence.",
        config_flags=("--configs", "--sub-configs"),
    )
    if options.path is None:
        raise ConfigError("--path is needed: the checkpoint to translate with")
    if (place := place_of(os.environ)) and place.size > 1:
        raise ConfigError(f"translations are made by one process, {place.size} were started; start it alone")
    join = joiner(options.remove_bpe)
    join("")  # an unknown kind is an error before the model is loaded
    path = find_checkpoint(options.path)
    vocab = vocabulary(settings.task)
    device = device_of(replace(settings.device, cpu=settings.device.cpu or options.int8))
    source = load(path, say)
    amp, fp16 = settings.optim.amp, settings.optim.fp16
    dtype = torch.float32 if options.int8 else evaluation_dtype(source, amp, fp16, device)
    check_dictionaries(source, vocab, path)
    arch = arch_of(settings.arch)
    if arch is None:
        model = source.model()
        arch = source.arch or source.space.largest()
    else:
        model = source.sub(arch)
    fixed = InferenceModel(model.to(device, dtype), arch, Int8Matrix if options.int8 else fixed_matrix)
    data = dataset(settings.task, options.gen_subset)
    quiet = settings.output.no_progress_bar or not sys.stderr.isatty()
    start = time.perf_counter()
    results: list[list[str]] = [[] for _ in range(len(data))]
    tokens = 0
    batches = translate(fixed, data, beam, batch_size=options.batch_size)
    translations = (translation for batch in batches for translation in batch)
    for translation in progress(translations, len(data), "translate", "sentences", quiet=quiet):
        results[translation.index] = list(output_lines(data, translation, join, options.nbest))
        tokens += len(translation.hypotheses[0].tokens)
    seconds = time.perf_counter() - start
    text = "".join(f"{line}\n" for lines in results for line in lines)
    if options.results_path:
        write_text_atomic(Path(options.results_path), text)
    else:
        sys.stdout.write(text)
    say(
        f"translated {len(data)} sentences ({tokens} tokens) in {seconds:.1f} s, "
        f"{len(data) / seconds:.1f} sentences/s, {tokens / seconds:.0f} tokens/s"
    )
    if settings.output.json:
        print(json.dumps({"sentences": len(data), "tokens": tokens, "seconds": round(seconds, 3)}))
    return 0
