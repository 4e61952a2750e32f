"""The study: every method on the same rows, the recipe of 2020, transfer between equal spaces."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_rows import rows_of, slowed

from hat.errors import ConfigError
from hat.latency import recipe, study
from hat.latency.predictor import split
from hat.latency.study import (
    ALL,
    Cell,
    Table,
    learning_cells,
    run_cell,
    too_many,
    transfer_cells,
)
from hat.space import features

NORM = (640.0, 6.0, 2048.0, 6.0, 640.0, 6.0, 2048.0, 6.0, 6.0, 2.0)


def table(name: str, count: int = 60, seed: int = 0) -> Table:
    return Table(name, f"digest of {name}", rows_of(count, seed, noise=0.01), NORM, 100.0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "STEPS", 3)


def test_cells_of_a_study() -> None:
    cells = learning_cells([table("a"), table("b", 30)], study.METHODS, (10, 50, ALL), seeds=2)
    assert len(cells) == 4 * 2 * (3 + 2)  # b has no 50 rows to learn from
    assert [cell.method for cell in cells[-10:]] == ["recipe_2020"] * 10
    assert len({str(cell.key) for cell in cells}) == len(cells)
    with pytest.raises(ConfigError, match="--methods allows predictor, .*got 'forest'"):
        learning_cells([table("a")], ("forest",), (10,), 1)
    with pytest.raises(ConfigError, match="--rows must be 0 .* or at least 10, got 9"):
        learning_cells([table("a")], ("predictor",), (9,), 1)


def test_a_key_holds_all_that_the_scores_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    held = table("a")

    def keys(of: Table = held) -> dict[str, dict]:
        cells = [Cell(of, method, 20, 1) for method in study.METHODS] + [Cell(of, "transfer", 20, 1, held)]
        return {cell.method: json.loads(json.dumps(cell.key)) for cell in cells}

    def changed(before: dict[str, dict], after: dict[str, dict]) -> set[str]:
        assert before.keys() == after.keys() == study.VERSIONS.keys()
        return {method for method in before if before[method] != after[method]}

    before = keys()
    assert changed(before, keys(replace(held, lat_norm=200.0))) == {"recipe_2020"}
    assert changed(before, keys(replace(held, feature_norm=(1.0, *NORM[1:])))) == {"recipe_2020"}
    for method in study.VERSIONS:
        with monkeypatch.context() as patch:
            patch.setitem(study.VERSIONS, method, 99)
            assert changed(before, keys()) == {method}


def test_rows_that_no_table_has_are_refused() -> None:
    tables = [table("a"), table("b", 30)]
    for counts in ((500,), (500, 54)):
        with pytest.raises(ConfigError, match="--rows 500.*: a has 60 rows.*at most 53, or 0 for all"):
            learning_cells(tables, ("predictor",), counts, 1)
    assert len(learning_cells(tables, ("predictor",), (53,), 1)) == 1
    assert len(learning_cells(tables, ("predictor",), (500, ALL), 1)) == 2
    assert (too_many(tables[0], (ALL, 53, 54)), too_many(tables[1], (ALL, 53, 26))) == ([54], [53])
    for count in range(12, 120):  # never more than a split leaves
        assert too_many(table("c", count), [len(split(count, 1)[0]) + 1])
    with pytest.raises(ConfigError, match="has 8 rows, .*; give 0 for all"):
        learning_cells([table("c", 8)], ("predictor",), (10,), 1)


@pytest.mark.parametrize("method", study.METHODS)
def test_a_cell_sees_its_rows_alone_and_is_tested_on_others(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = table("a")
    train, test = split(60, 3)
    seen = {10: sorted(train[:10]), ALL: sorted(train)}
    for count, numbers in seen.items():
        first = run_cell(Cell(held, method, count, 3), {})
        hidden = [replace(row, latency_mean_decoder=1e5) for row in held.rows]
        for i in [*numbers, *test]:
            hidden[i] = held.rows[i]
        again = run_cell(Cell(replace(held, rows=hidden), method, count, 3), {})
        assert {**first, "seconds": 0} == {**again, "seconds": 0}
        for i in test:
            hidden[i] = slowed([held.rows[i]], 900)[0]
        worse = run_cell(Cell(replace(held, rows=hidden), method, count, 3), {})
        assert worse["mape_percent"] > 80
    assert ("held" in first) == (method == "predictor") and 0 <= first["seconds"] < 60


def test_the_recipe_of_2020_step_by_step() -> None:
    rows = rows_of(200)
    x = np.array([features(row.arch) for row in rows if row.arch])
    ms = np.array([row.total_ms for row in rows])
    state = torch.random.get_rng_state()
    predict = recipe.recipe_2020(x, ms, np.array(NORM), 100.0, seed=4)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(4)
    sizes = (10, 400, 400, 400, 400, 1)
    linears = [torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    parts = [part for linear in linears[:-1] for part in (linear, torch.nn.ReLU())]
    net = torch.nn.Sequential(*parts, linears[-1])
    inputs, target = torch.tensor(x / NORM, dtype=torch.float32), torch.tensor(ms / 100, dtype=torch.float32)
    optimizer, rng = torch.optim.Adam(net.parameters(), lr=1e-5), torch.Generator().manual_seed(4)
    for _ in range(3):
        batch = torch.randperm(200, generator=rng)[:128]
        loss = ((net(inputs[batch]).squeeze(-1) - target[batch]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(
        predict(x), 100 * net(inputs).squeeze(-1).detach().numpy(), rtol=1e-4, atol=1e-4
    )


def test_transfer_is_between_equal_spaces() -> None:
    narrow = replace(table("narrow"), rows=[row for row in rows_of(90) if row.features[5] < 5])
    released = replace(table("released"), rows=[replace(row, arch=None) for row in rows_of(60)])
    tables = [table("a"), table("b"), narrow, released]
    cells = transfer_cells(tables, seeds=2)
    assert [(c.table.name, c.method, c.source and c.source.name, c.seed) for c in cells] == [
        (target, method, source, seed)
        for target, other in (("a", "b"), ("b", "a"))
        for seed in (1, 2)
        for method, source in (("predictor", None), ("transfer", other))
    ]
    assert {cell.num_rows for cell in cells} == {20}


def test_a_transfer_uses_the_other_table() -> None:
    target, source = table("a"), table("b", seed=1)
    kept: dict = {}
    record = run_cell(Cell(target, "transfer", 20, 1, source), kept)
    assert record["source"] == "b" and list(kept) == ["b"] and "held" in record
    alone = run_cell(Cell(target, "predictor", 20, 1), {})
    assert record["mape_percent"] < alone["mape_percent"]
    random.seed(0)
    assert {**run_cell(Cell(target, "transfer", 20, 1, source), kept), "seconds": 0} == {
        **record,
        "seconds": 0,
    }
