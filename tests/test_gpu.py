"""On a GPU: what the CPU tests show of training and beam search holds there as well."""

import pytest
import torch

from benchmarks.data import random_batch
from benchmarks.timing import formats
from hat.decode.beam import BeamConfig, beam_search
from hat.model.cpu import DTYPES
from hat.model.inference import InferenceModel
from hat.model.layers import EOS, ModelConfig
from hat.model.transformer import SuperTransformer, extract
from hat.space import DecoderSpace, EncoderSpace, SearchSpace, draw_arch
from hat.train.trainer import OptimConfig, ScheduleConfig, Trainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
CPU = torch.device("cpu")
SPACE = SearchSpace(
    EncoderSpace(32, 48, 3, (32, 24), (48, 16), (3, 2), (4, 2)),
    DecoderSpace(32, 48, 2, (32, 24), (48, 16), (2, 1), (4, 2), (4, 2), (1, 2, 3)),
    qkv_dim=32,
)


def model_of(dropout: float = 0.0) -> SuperTransformer:
    noise = torch.Generator().manual_seed(3)
    return SuperTransformer(SPACE, 50, ModelConfig(dropout=dropout, share_all_embeddings=True), noise)


def losses(device: torch.device, dtype: torch.dtype, updates: int) -> list[float]:
    """Return the losses of the first updates of a run."""
    trainer = Trainer(
        model_of(),
        OptimConfig(clip_norm=1.0),
        ScheduleConfig(lr=1e-3, warmup_updates=1),
        dtype=dtype,
        device=device,
        seed=1,
    )
    batch = random_batch(6, 7, 50, seed=2)
    return [trainer.train_step([batch], draw_arch(SPACE, 1, update)).loss for update in range(updates)]


def test_training_steps_have_the_losses_of_the_cpu() -> None:
    cuda = torch.device("cuda")
    plain = losses(CPU, torch.float32, 5)
    assert losses(cuda, torch.float32, 5) == pytest.approx(plain, rel=1e-3)
    fast = losses(cuda, DTYPES[formats(cuda)[0]], 5)
    assert fast == pytest.approx(plain, rel=3e-2)


def test_dropout_on_a_gpu_trains() -> None:
    trainer = Trainer(
        model_of(0.3),
        OptimConfig(clip_norm=1.0),
        ScheduleConfig(lr=1e-2, warmup_updates=1),
        dtype=DTYPES[formats(torch.device("cuda"))[0]],
        device=torch.device("cuda"),
        seed=1,
    )
    batch = random_batch(6, 7, 50, seed=2)
    found = [trainer.train_step([batch], SPACE.largest()).loss for _ in range(40)]
    assert found[-1] < 0.8 * found[0]


@pytest.mark.parametrize("sentences", [1, 4])
def test_beam_search_gives_the_translations_of_the_cpu(sentences: int) -> None:
    model = model_of()
    source = random_batch(sentences, 6, 50, seed=4).source
    cfg = BeamConfig(beam=3, max_len_b=8)
    found = {}
    for device in (CPU, torch.device("cuda")):
        ours = InferenceModel(extract(model, SPACE.largest()).to(device).eval())
        found[device.type] = beam_search(ours, source.to(device), cfg)
    for here, there in zip(found["cuda"], found["cpu"], strict=True):
        assert here[0].tokens == there[0].tokens and here[0].tokens[-1] == EOS
        assert here[0].score == pytest.approx(there[0].score, rel=1e-3)
