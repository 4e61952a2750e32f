"""The latency predictor: recovery, determinism, files that round-trip, damage that is refused."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hat.arch.config import Arch, DecoderArch, EncoderArch
from hat.arch.features import features
from hat.errors import CheckpointError, ConfigError, DataError
from hat.files.atomic import digest_path
from hat.latency.linear import column_spread, depth_only, fit_base, least_squares
from hat.latency.metrics import kendall_tau, score
from hat.latency.predictor import LatencyPredictor, PredictorConfig, split
from hat.latency.table import Row, row_of

SMALL = PredictorConfig(hidden_dim=16, hidden_layer_num=1, train_steps=400)
SHARED = Path(__file__).parents[2].parent / "shared" / "hat_release" / "predictors"


def draw_arch(rng: random.Random) -> Arch:
    depth = rng.randint(1, 6)
    pick = [
        tuple(rng.choice(c) for _ in range(depth)) for c in ((1024, 2048, 3072), (4, 8), (4, 8), (1, 2, 3))
    ]
    encoder = EncoderArch(rng.choice((512, 640)), tuple(rng.choices((1024, 2048), k=6)), (8,) * 6)
    return Arch(encoder, DecoderArch(rng.choice((512, 640)), *pick))


def true_ms(arch: Arch) -> float:
    """An additive latency: a part for the encoder and one for each decoder layer."""
    enc, dec = arch.encoder, arch.decoder
    layers = zip(dec.ffn_dims, dec.self_heads, dec.cross_heads, dec.cross_span, strict=True)
    per_layer = [8 + dec.embed_dim / 160 + f / 1024 + s / 8 + c / 8 + a / 2 for f, s, c, a in layers]
    return 3 + enc.embed_dim * sum(enc.ffn_dims) / 4e6 + sum(per_layer)


def rows_of(count: int, seed: int = 0, noise: float = 0.0) -> list[Row]:
    rng = random.Random(seed)
    rows = []
    for n in range(count):
        arch = draw_arch(rng)
        ms = true_ms(arch) * math.exp(rng.gauss(0, noise))
        rows.append(row_of(arch, (0.2 * ms, 0.1), (0.8 * ms, 0.1), {"device": "toy", "iterations": n}))
    return rows


@pytest.fixture(scope="module")
def fitted() -> LatencyPredictor:
    return LatencyPredictor.fit(rows_of(300), SMALL, seed=1)


def test_additive_latency_is_recovered(fitted: LatencyPredictor) -> None:
    rng = random.Random(99)
    for _ in range(50):
        arch = draw_arch(rng)
        assert fitted.predict_ms(arch) == pytest.approx(true_ms(arch), rel=0.02)
    report = fitted.report
    assert report and report["mape_percent"] < 0.5 and report["kendall_tau"] > 0.98
    assert report["baselines"]["depth_only"]["mape_percent"] > 2
    assert report["baselines"]["least_squares"]["mape_percent"] > report["mape_percent"]


def test_blocks_of_slow_rows_do_not_move_it() -> None:
    rows = rows_of(300)
    slow = [
        row_of(row.arch, (row.latency_mean_encoder * 1.3, 0), (row.latency_mean_decoder * 1.3, 0), {})
        for row in rows[:45]
        if row.arch
    ]
    predictor = LatencyPredictor.fit([*slow, *rows[45:]], SMALL, seed=1)
    archs = [draw_arch(random.Random(n)) for n in range(50)]
    errors = [abs(ms / true_ms(a) - 1) for a, ms in zip(archs, predictor.predict_many(archs), strict=True)]
    assert np.mean(errors) < 0.02


def test_same_seed_same_predictor_whatever_the_global_state(fitted: LatencyPredictor) -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    again = LatencyPredictor.fit(rows_of(300), SMALL, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert again.report == fitted.report
    arch = draw_arch(random.Random(5))
    assert again.predict_ms(arch) == fitted.predict_ms(arch)
    assert LatencyPredictor.fit(rows_of(300), SMALL, seed=2).report != fitted.report


def test_one_or_many(fitted: LatencyPredictor) -> None:
    archs = [draw_arch(random.Random(n)) for n in range(33)]
    assert fitted.predict_many(archs) == pytest.approx([fitted.predict_ms(a) for a in archs], rel=1e-12)
    assert fitted.predict_many([]) == []


@pytest.mark.parametrize("count", [10, 11, 25])
def test_few_rows(count: int) -> None:
    predictor = LatencyPredictor.fit(rows_of(count, noise=0.02), SMALL, seed=0)
    assert predictor.report and math.isfinite(predictor.report["mape_percent"])
    assert json.loads(json.dumps(predictor.report)) == predictor.report
    for n in range(20):
        arch = draw_arch(random.Random(n))
        assert true_ms(arch) / 3 < predictor.predict_ms(arch) < true_ms(arch) * 3


def test_too_few_rows() -> None:
    with pytest.raises(DataError, match="9 measured architectures are too few.*at least 10"):
        LatencyPredictor.fit(rows_of(9), SMALL, seed=0)


def test_constant_features_say_nothing_about_other_values(fitted: LatencyPredictor) -> None:
    arch = draw_arch(random.Random(3))
    deeper = Arch(EncoderArch(arch.encoder.embed_dim, (2048,) * 600, (8,) * 600), arch.decoder)
    flat = Arch(EncoderArch(arch.encoder.embed_dim, (2048,) * 6, (8,) * 6), arch.decoder)
    assert fitted.predict_ms(deeper) == pytest.approx(fitted.predict_ms(flat), rel=1e-6)


def test_identical_rows_and_far_architectures_stay_finite(fitted: LatencyPredictor) -> None:
    same = LatencyPredictor.fit(rows_of(1) * 20, SMALL, seed=0)
    assert same.predict_ms(draw_arch(random.Random(0))) == pytest.approx(rows_of(1)[0].total_ms, rel=1e-3)
    assert same.report and same.report["kendall_tau"] == 0
    giant = Arch(
        EncoderArch(10**6, (10**6,), (1,)), DecoderArch(1, (1,) * 60, (1,) * 60, (1,) * 60, (1,) * 60)
    )
    assert 0 < fitted.predict_ms(giant) < math.inf


def test_split_is_seeded_and_disjoint() -> None:
    parts = split(200, 3)
    assert [len(part) for part in parts] == [160, 20, 20]
    assert sorted(np.concatenate(parts).tolist()) == list(range(200))
    assert all((a == b).all() for a, b in zip(parts, split(200, 3), strict=True))
    assert (parts[2] != split(200, 4)[2]).any()
    assert [len(part) for part in split(10, 0)] == [6, 2, 2]


def test_save_then_load(fitted: LatencyPredictor, tmp_path: Path) -> None:
    fitted.save(tmp_path / "deep" / "p.pt")
    loaded = LatencyPredictor.load(tmp_path / "deep" / "p.pt", feature_norm=(1,) * 10, lat_norm=3)
    archs = [draw_arch(random.Random(n)) for n in range(20)]
    assert loaded.predict_many(archs) == fitted.predict_many(archs)
    assert loaded.report == fitted.report and loaded.conditions == {"device": "toy"}


def test_every_flipped_bit_is_refused(fitted: LatencyPredictor, tmp_path: Path) -> None:
    path = tmp_path / "p.pt"
    fitted.save(path)
    whole = path.read_bytes()
    for at in [*range(0, len(whole), 37), *range(60), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=r"p\.pt"):
            LatencyPredictor.load(path)
    for cut in range(0, len(whole), 503):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"p\.pt"):
            LatencyPredictor.load(path)


def test_without_digest_damage_to_the_weights_is_still_found(
    fitted: LatencyPredictor, tmp_path: Path
) -> None:
    path = tmp_path / "p.pt"
    fitted.save(path)
    digest_path(path).unlink()
    assert LatencyPredictor.load(path).report == fitted.report
    whole = path.read_bytes()
    weights = torch.load(path)["model"]["layers.0.weight"].numpy().tobytes()
    at = whole.index(weights) + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(CheckpointError, match="wrong checksum"):
        LatencyPredictor.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": None},
        {"feature_names": ["x"]},
        {"feature_norm": [1.0] * 9},
        {"feature_norm": [0.0] * 10},
        {"feature_norm": [math.nan] * 10},
        {"feature_norm": None},
        {"lat_norm": math.inf},
        {"lat_norm": -1.0},
        {"lat_norm": "1"},
        {"hidden_dim": 17},
        {"hidden_layer_num": 2},
        {"target": "bleu"},
        {"target": "latency"},
        {"base": [1.0]},
        {"base": [math.nan] * 21},
        {"base": 5},
        {"floor": math.nan},
        {"report": 5},
        {"conditions": 5},
        {"model": {}},
        {"model": None},
        {"model": {"first_layer.weight": torch.zeros(4, 10)}},
        {"model": {"first_layer.weight": "x"}},
    ],
)
def test_inconsistent_files_are_refused(fitted: LatencyPredictor, tmp_path: Path, change: dict) -> None:
    fitted.save(tmp_path / "p.pt")
    content = torch.load(tmp_path / "p.pt") | change
    torch.save(content, tmp_path / "q.pt")
    with pytest.raises(CheckpointError, match=r"q\.pt"):
        LatencyPredictor.load(tmp_path / "q.pt")


def test_weights_that_do_not_fit(fitted: LatencyPredictor, tmp_path: Path) -> None:
    fitted.save(tmp_path / "p.pt")
    content = torch.load(tmp_path / "p.pt")
    for name in content["model"]:
        for broken in (
            torch.full_like(content["model"][name], math.nan),
            torch.zeros(3),
            torch.zeros(16, 10).int(),
        ):
            torch.save(content | {"model": content["model"] | {name: broken}}, tmp_path / "q.pt")
            with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
                LatencyPredictor.load(tmp_path / "q.pt")
    for junk in (b"", b"junk", b"\x80\x02", json.dumps({}).encode()):
        (tmp_path / "q.pt").write_bytes(junk)
        with pytest.raises(CheckpointError):
            LatencyPredictor.load(tmp_path / "q.pt")
    torch.save([1, 2], tmp_path / "q.pt")
    with pytest.raises(CheckpointError):
        LatencyPredictor.load(tmp_path / "q.pt")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"first_layer.weight": Evil()}, tmp_path / "q.pt")
    with pytest.raises(CheckpointError):
        LatencyPredictor.load(tmp_path / "q.pt", (1,) * 10, 1)
    assert not (tmp_path / "ran").exists()


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*none.pt.*latency_predictor.py"):
        LatencyPredictor.load(tmp_path / "none.pt")


@pytest.mark.skipif(not SHARED.exists(), reason="the released predictors are not in ../shared")
@pytest.mark.parametrize("name", ["wmt14ende_cpu_xeon", "wmt14ende_gpu_titanxp"])
def test_released_predictor(name: str) -> None:
    expected = json.loads((SHARED / "expected.json").read_text())[name]
    norms = expected["feature_norm"], expected["lat_norm"]
    for predictor in (
        LatencyPredictor.from_release(SHARED / f"{name}.pt", *norms),
        LatencyPredictor.load(SHARED / f"{name}.pt", *norms),
    ):
        found = predictor.predict_features(np.array([case["features"] for case in expected["cases"]]))
        np.testing.assert_allclose(found, [case["latency_ms"] for case in expected["cases"]], rtol=1e-3)
    with pytest.raises(CheckpointError, match="give --feature-norm and --lat-norm"):
        LatencyPredictor.load(SHARED / f"{name}.pt")


@pytest.mark.parametrize(
    "options",
    [
        {"feature_norm": (1.0,) * 9},
        {"feature_norm": (0.0,) * 10},
        {"lat_norm": 0.0},
        {"feature_dim": 11},
        {"hidden_dim": 0},
        {"hidden_layer_num": -1},
        {"train_steps": 0},
        {"bsz": 0},
        {"predictor_lr": 0.0},
    ],
)
def test_config_is_checked(options: dict) -> None:
    with pytest.raises(ConfigError, match="--" + next(iter(options)).replace("_", "-")):
        PredictorConfig(**options)


def test_given_normalisers_change_nothing_but_rounding() -> None:
    rows = rows_of(60)
    cfg = PredictorConfig(
        hidden_dim=16,
        hidden_layer_num=0,
        train_steps=40,
        feature_norm=(640, 6, 2048, 6) * 2 + (6, 2),
        lat_norm=200,
    )
    plain = PredictorConfig(hidden_dim=16, hidden_layer_num=0, train_steps=40)
    arch = draw_arch(random.Random(1))
    given_norms = LatencyPredictor.fit(rows, cfg, 0).predict_ms(arch)
    assert given_norms == pytest.approx(LatencyPredictor.fit(rows, plain, 0).predict_ms(arch), rel=0.01)


@pytest.mark.parametrize(
    ("first", "second", "tau"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),
        # pairs: 5 ordered in both, (1, 1) tied in the first only -> 5 / sqrt(5 * 6)
        ([1, 1, 2, 3], [1, 2, 3, 4], 5 / math.sqrt(30)),
        # 4 agree, none disagree, one tie on each side -> 4 / sqrt(5 * 5)
        ([1, 1, 2, 3], [1, 2, 3, 3], 4 / 5),
        ([1, 1, 1], [1, 2, 3], 0.0),
        ([1], [1], 0.0),
    ],
)
def test_kendall_by_hand(first: list[float], second: list[float], tau: float) -> None:
    assert kendall_tau(np.array(first, float), np.array(second, float)) == pytest.approx(tau)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_kendall_is_symmetric_and_bounded(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, float).T
    tau = kendall_tau(a, b)
    assert tau == pytest.approx(kendall_tau(b, a)) and -1 - 1e-12 <= tau <= 1 + 1e-12
    assert kendall_tau(-a, b) == pytest.approx(-tau)
    assert kendall_tau(np.exp(a), b) == pytest.approx(tau)


def test_score_by_hand() -> None:
    scores = score(np.array([110.0, 180.0]), np.array([100.0, 200.0]))
    assert scores == pytest.approx(
        {"mape_percent": 10.0, "rmse_ms": math.sqrt((100 + 400) / 2), "kendall_tau": 1.0}
    )


def test_baselines_by_hand() -> None:
    raw = np.array([features(draw_arch(random.Random(n))) for n in range(40)])
    line = 5 + 7 * raw[:, 5]
    np.testing.assert_allclose(depth_only(raw, line)(raw), line)
    np.testing.assert_allclose(least_squares(raw, line)(raw), line)
    plane = 5 + raw @ np.arange(10.0)
    np.testing.assert_allclose(least_squares(raw, plane)(raw), plane)
    assert np.isinf(column_spread(raw)[1]) and np.isfinite(column_spread(raw)[5])
    assert fit_base(raw, plane)[1] == 0
