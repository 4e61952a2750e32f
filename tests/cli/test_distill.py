"""A teacher's translations become training data: what they are, a kill, several processes, refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from training import SPACE, argv_of, refused

import hat
from hat.cli.distill import main as distill
from hat.cli.train import main as train
from hat.data.pairs import ORIGINAL, PairDataset, mixed
from hat.decode import distill as engine
from hat.space import SearchSpace


@pytest.fixture
def run(files: Path, data: Path, trained: Path) -> Callable[..., Path]:
    """Return a function that distils the tiny SuperTransformer into a folder of that name."""

    def run(name: str, *more: str, code: int = 0) -> Path:
        argv = [f"--teacher={trained / 'checkpoint_last.pt'}", f"--data={data}", f"--output={files / name}"]
        assert (
            distill([*argv, "--beam=2", "--max-len-b=12", "--amp=fp32", "--cpu", "--threads=1", *more])
            == code
        )
        return files / name

    return run


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PART", 64)


def targets(data: PairDataset, *which: int) -> list[list[int]]:
    return [data.batch([n]).target[0].tolist() for n in which or range(len(data))]


def test_targets_are_the_best_translations_and_the_rest_stays(run, data: Path, trained: Path, capsys) -> None:
    folder = run("one", "--json")
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    made, before = (PairDataset.load(each, "train") for each in (folder, data))
    assert said["sentences"] == said["pairs"] == len(made) == len(before) == 200
    assert said["tokens"] == made.target.lengths.sum()
    teacher = hat.load(trained / "checkpoint_last.pt")
    fixed = hat.InferenceModel(teacher.extract(SearchSpace.from_yaml(SPACE).largest()).network)
    for n in (0, 63, 64, 199):
        assert made.source[n].tolist() == before.source[n].tolist()
        (found,) = hat.beam_search(fixed, before.batch([n]).source, hat.BeamConfig(beam=2, max_len_b=12))
        assert made.target[n].tolist() == found[0].tokens
    assert targets(PairDataset.load(folder, ORIGINAL)) == targets(before)
    assert targets(PairDataset.load(folder, "valid")) == targets(PairDataset.load(data, "valid"))
    record = hat.read_record(folder, folder=True)
    assert (record.kind, record.state) == ("distillation", "done") and not (folder / "parts").exists()
    assert set(record.identity.inputs) == {"checkpoint", "dict.en", "dict.de", "train.en", "train.de"}
    checked = [path.read_bytes() for path in sorted(folder.glob("*.bin"))]
    assert run("one") and checked == [path.read_bytes() for path in sorted(folder.glob("*.bin"))]


def test_nbest_translations_stand_in_a_row(run) -> None:
    one, two = (PairDataset.load(run(f"best{n}", f"--nbest={n}"), "train") for n in (1, 2))
    assert len(two) == 400 and targets(two)[::2] == targets(one) != targets(two)[1::2]
    assert [two.source[n].tolist() for n in (6, 7)] == [one.source[3].tolist()] * 2


def test_a_killed_distillation_goes_on(run, files: Path, monkeypatch) -> None:
    real, calls = engine._translate, []

    def translate(*args: object) -> object:
        calls.append(args[3])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(engine, "_translate", translate)
    killed = run("killed", code=130)
    with pytest.raises(hat.DataError):
        PairDataset.load(killed, "train")
    (killed / "parts/0.npz").write_bytes(b"cut")
    run("killed")
    assert calls == [0, 64, 128, 0, 128, 192], "what is there and whole is not translated again"
    assert targets(PairDataset.load(killed, "train")) == targets(PairDataset.load(run("whole"), "train"))


def test_processes_share_the_sentences(run, data: Path, trained: Path, files: Path) -> None:
    """Two processes take turns; here in one, each with what the other one gathers."""
    teacher = hat.load(trained / "checkpoint_last.pt")
    fixed = hat.InferenceModel(teacher.extract(SearchSpace.from_yaml(SPACE).largest()).network)
    pairs, cfg = PairDataset.load(data, "train"), hat.BeamConfig(beam=2, max_len_b=12)

    class Pair:
        rank, size = 0, 2

        def on_rank0(self, work: Callable) -> object:
            return work()

        def gather_objects(self, item: list) -> list:
            other = [n + 64 for n, _ in item if n + 64 < 200]
            return [item, [(n, engine._translate(fixed, pairs, cfg, n, 1, 128)) for n in other]]

    (files / "two").mkdir()
    engine.distill(fixed, pairs, files / "two", cfg, group=Pair())
    assert targets(PairDataset.load(files / "two", "train")) == targets(PairDataset.load(run("one"), "train"))


def test_a_mixture_has_that_share_of_original_targets(run, data: Path) -> None:
    made, before = PairDataset.load(run("one"), "train"), PairDataset.load(data, "train")
    drawn = [mixed(made, 0.25, 1, epoch) for epoch in (1, 2)]
    taken = [[n for n in range(200) if targets(each, n) != targets(made, n)] for each in drawn]
    assert [len(each) for each in taken] == [50, 50] and taken[0] != taken[1]
    first, n = drawn[0], taken[0][0]
    assert first.batch([n]).target[0].tolist() == before.target[n].tolist()
    assert first.target.lengths[n] == before.target.lengths[n] and mixed(made, 0, 1, 1) is made
    np.testing.assert_array_equal(first.batch([n, 3]).source, made.batch([n, 3]).source)


def test_training_takes_a_mixture_and_refuses_it_without_original_targets(
    run, files: Path, data: Path, capsys
) -> None:
    (files / "space.yml").write_text(yaml.safe_dump(SPACE | {"data": str(run("one"))}))
    assert train(argv_of(files, "mix", "--max-update=2", "--distill-mix=0.5")) == 0
    record = hat.read_record(files / "mix", folder=True)
    assert record.identity.settings["distill-mix"] == 0.5 and "original targets" in record.identity.inputs
    said = refused(argv_of(files, "no", "--distill-mix=0.5", f"--data={data}"), capsys)
    assert "--distill-mix 0.5 needs data of hat distill" in said and not (files / "no").exists()


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--nbest=3"], "--nbest 3: --beam 2 finds fewer"),
        (["--output={data}"], "holds data that hat distill did not make"),
        (["--teacher=none.pt"], "the checkpoint none.pt does not exist"),
        (["--data=nowhere"], "there is no data folder 'nowhere'"),
        (["--beam=3"], "one holds another run: beam 2 -> 3"),
    ],
)
def test_what_is_refused(flags: list[str], what: str, run, data: Path, capsys) -> None:
    if what.startswith("one"):
        run("one")
    capsys.readouterr()
    run("one", *(flag.format(data=data) for flag in flags), code=2)
    assert what in capsys.readouterr().err
