"""Figures on a GPU, as far as a CPU can show: what is placed, waited for, named, judged and left out."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_decode import CFG as DECODE

from hat.bench import decode, latency_row, machine, search_step, utilisation
from hat.bench.alternate import Samples, alternate
from hat.bench.corpus import random_pairs
from hat.bench.decode import DecodeConfig, time_batch, time_sentence
from hat.bench.device import CPU, formats
from hat.bench.peers import PeerError, gpu_types, try_out
from hat.bench.request import BenchOptions
from hat.bench.spaces import WMT14
from hat.bench.suite import take_apart, threads_of
from hat.bench.train_step import TrainStepConfig, time_steps, with_updates
from hat.bench.utilisation import UpdateConfig, update_flops
from hat.cli.benchmark import main
from hat.data.pairs import PairDataset


class Steps(TrainStepConfig):
    on_cpu = False


class Decode(DecodeConfig):
    on_cpu = False


def counting(monkeypatch: pytest.MonkeyPatch, module: object) -> list[torch.device]:
    """Return the list of devices that `module` waited for."""
    waited: list[torch.device] = []
    monkeypatch.setattr(module, "sync_of", lambda device: lambda: waited.append(device))
    return waited


def updates(tiny_space, **changes: object) -> UpdateConfig:
    cfg = UpdateConfig(
        tiny_space, 13, sentences=4, length=5, batches=2, square=16, random_archs=2, rounds=2, calls=1
    )
    return replace(cfg, **changes)


def test_a_call_is_timed_between_two_waits() -> None:
    said: list[str] = []
    now = iter(range(100))

    def clock() -> float:
        said.append("clock")
        return float(next(now))

    def case() -> None:
        said.append("case")

    alternate({"a": case}, 1, warmup=1, calls=1, sync=lambda: said.append("sync"), clock=clock)
    assert said == ["case", "sync", "clock", "case", "sync", "clock"]


def test_without_a_gpu_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train-step", "--device", "cuda"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "--device cuda: this machine has no GPU" in said[0]
    assert main(["train-step", "--device", "tpu"]) == 2


def test_one_thread_number_is_enough_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    options = BenchOptions(device="cuda")
    assert threads_of("decode", options) == (1,) and threads_of("preprocess", options) == (1, 2)
    assert threads_of("decode", replace(options, threads=(1, 2))) == (1, 2)


@pytest.mark.parametrize(("bf16", "name"), [(True, "bf16"), (False, "fp16")])
def test_the_fast_format_is_that_of_the_gpu(monkeypatch: pytest.MonkeyPatch, bf16: bool, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert formats(torch.device("cuda")) == (name, "fp32")
    assert formats(CPU) == ("bf16", "fp32")


def test_machine_names_gpu_cuda_and_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "device_name", lambda device: f"a {device.type}")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: 13010, raising=False)
    found = machine.describe_machine(torch.device("cuda"))
    assert found.text().startswith("a cuda, CUDA 12.8, driver for CUDA 13.1, a cpu, ")
    assert "CUDA" not in machine.describe_machine().text()


def test_step_is_waited_for_and_not_judged_by_targets_of_cpus(
    tiny_space, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = counting(monkeypatch, sys.modules["hat.bench.train_step"])
    cfg = Steps(tiny_space, 13, sentences=4, length=5, random_archs=2, rounds=1, random_rounds=1)
    figure = time_steps(cfg)
    assert figure.targets == () and len(waited) == 2 * 7 * 3  # calls, cases, architectures
    rows = {row.name for row in figure.rows}
    assert {"largest: bf16 / its products", "largest: plain fp32 / bf16"} <= rows
    full = with_updates(figure, updates(tiny_space))
    assert [(target.limit, target.at_most) for target in full.targets] == [(40.0, False)]
    assert full.targets[0].value > 0 and len(full.notes) == 2


def test_utilisation_is_the_share_of_the_rate_of_a_product(
    tiny_space, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = updates(tiny_space, random_archs=1)
    monkeypatch.setattr(
        utilisation,
        "alternate",
        lambda cases, rounds, **how: {"update": Samples((10.0,)), "square product": Samples((0.5,))},
    )
    found = utilisation.time_updates(cfg)
    by_name = {row.name: row for row in found.rows}
    flops = update_flops(cfg, tiny_space.largest())
    rate = 2 * 16**3 / 0.5e-3
    share = by_name["WMT'14 update, bf16, largest, of the rate of the square product"].value
    assert share == pytest.approx(100 * flops / 10e-3 / rate)


def test_update_is_that_of_the_configuration() -> None:
    cfg = UpdateConfig()
    assert cfg.space == WMT14 and cfg.sentences * cfg.length <= 4096 < (cfg.sentences + 8) * cfg.length
    # about 6 operations for each weight and token, and attention besides
    enc, dec = 6 * (4 * 640 * 512 + 2 * 640 * 3072), 6 * (8 * 640 * 512 + 2 * 640 * 3072)
    dec += 6 * 2 * 2 * 640 * 512  # keys and values of three encoder layers instead of one
    weights = enc + dec + 640 * 32768
    tokens = 136 * 30 * 16
    assert 1 < update_flops(cfg, WMT14.largest()) / (6 * weights * tokens) < 1.1


def test_decoding_on_a_gpu_has_neither_targets_nor_forms_of_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "has_ctranslate2", lambda: False)
    waited = counting(monkeypatch, decode)
    cfg = Decode(**{key: getattr(DECODE, key) for key in DECODE.__dataclass_fields__})
    figure = time_sentence(cfg)
    assert figure.targets == () and waited
    names = {row.name for row in figure.rows}
    assert names == {"bf16", "fp32", "bf16 products", "fp32 products", "bf16 / its products"} | {
        "fp32 / its products"
    }
    assert not any("int8" in note for note in figure.notes)
    assert time_batch(replace(cfg, sentences=2)).targets == ()


def test_peer_without_cuda_is_left_out_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "has_ctranslate2", lambda: True)
    monkeypatch.setattr(decode, "save_ctranslate2", lambda model, folder: None)
    fake = SimpleNamespace(
        get_cuda_device_count=lambda: 0,
        get_supported_compute_types=lambda device: {"float32", "float16"},
    )
    monkeypatch.setitem(sys.modules, "ctranslate2", fake)
    cfg = Decode(**{key: getattr(DECODE, key) for key in DECODE.__dataclass_fields__})
    figure = time_sentence(replace(cfg, rounds=1))
    assert any("CTranslate2 are missing" in note and "sees no GPU" in note for note in figure.notes)
    fake.get_cuda_device_count = lambda: 1
    assert gpu_types("fp16") == ("float32", "float16")
    with pytest.raises(PeerError, match="bfloat16"):
        gpu_types("bf16")

    def broken() -> None:
        raise RuntimeError("Library libcublas.so.12 is not found\nand more")

    with pytest.raises(PeerError, match="libcublas.so.12 is not found"):
        try_out(broken)


def test_peer_on_a_gpu_is_not_split(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[tuple[str, str]] = []

    class Peer:
        def __init__(self, folder: Path, kind: str, threads: int, replicas: int, device: str) -> None:
            made.append((kind, device))

        def translate(self, *what: object) -> None:
            pass

    monkeypatch.setattr(decode, "Peer", Peer)
    monkeypatch.setattr(decode, "gpu_types", lambda fast: ("float32", "bfloat16"))
    cfg = Decode(**{key: getattr(DECODE, key) for key in DECODE.__dataclass_fields__})
    cases = decode.peer_cases(replace(cfg, sentences=4, threads=2), torch.zeros(4, 6), tmp_path)
    assert list(cases) == ["CTranslate2 float32", "CTranslate2 bfloat16"]
    assert made == [("float32", "cpu"), ("bfloat16", "cpu")]


def test_scoring_and_rows_wait_for_the_device(
    tiny_space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = counting(monkeypatch, search_step)
    random_pairs(tmp_path, 20, 50)
    cfg = search_step.SearchStepConfig(pairs=10, archs=1, rounds=1, max_tokens=400)
    search_step.time_scoring(cfg, PairDataset.load(tmp_path, "train"))
    assert waited == [CPU] * 4
    calls: list[str] = []
    seconds = latency_row._seconds(lambda: calls.append("run"), lambda: calls.append("sync"))
    assert calls == ["sync", "run", "sync"] and seconds >= 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["train-step", "decode", "decode-batch"])
def test_child_takes_a_figure_on_the_gpu(name: str) -> None:
    figure = take_apart(name, 1, BenchOptions(device="cuda", rounds=1))
    assert figure.machine.gpu and figure.machine.cuda and figure.rows
    assert [target.limit for target in figure.targets] == ([40.0] if name == "train-step" else [])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_rows_and_scoring_are_measured_on_the_gpu(tiny_space, tmp_path: Path) -> None:
    device = torch.device("cuda")
    task = latency_row.Task(tiny_space, 13, 5)
    figure = latency_row.time_rows(latency_row.LatencyRowConfig(task, rows=1, beam=2, long=12, device=device))
    assert figure.machine.gpu
    random_pairs(tmp_path, 20, 50)
    cfg = search_step.SearchStepConfig(pairs=10, archs=1, rounds=1, max_tokens=400, device=device)
    figure = search_step.time_scoring(cfg, PairDataset.load(tmp_path, "train"))
    assert figure.machine.gpu and figure.targets[0].value > 0
