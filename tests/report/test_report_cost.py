"""What a report says of the time that stages took."""

import json
import resource
from types import SimpleNamespace

import pytest

from hat.files.cost import Cost, read_cost


def test_sittings_add_up(tmp_path) -> None:
    path = tmp_path / "cost.json"
    for _ in range(2):
        with Cost(path, threads=3, processes=2, gpus=1):
            pass
    first = json.loads(path.read_text())["sittings"]
    first[0] |= {"wall_s": 100.0, "cpu_s": 50.0}
    path.write_text(json.dumps({"sittings": first}))
    with pytest.raises(KeyboardInterrupt), Cost(path, threads=3, processes=2, gpus=1):
        raise KeyboardInterrupt
    spent = read_cost(path)
    assert spent.sittings == 3 and spent.threads == 6 and spent.gpus == 1
    assert 100 <= spent.wall_s < 110 and 50 <= spent.cpu_s < 60 and spent.gpu_s == pytest.approx(spent.wall_s)
    with Cost(path, threads=1, resumable=False):
        pass
    assert read_cost(path).sittings == 1


def test_the_processes_that_measure_count_once(tmp_path, monkeypatch) -> None:
    used = {resource.RUSAGE_SELF: [1.0, 2.0], resource.RUSAGE_CHILDREN: [10.0, 20.0]}
    monkeypatch.setattr(
        "hat.files.cost.resource.getrusage",
        lambda who: SimpleNamespace(ru_utime=used[who][0], ru_stime=used[who][1]),
    )
    with Cost(tmp_path / "cost.json", threads=1, processes=4):
        used[resource.RUSAGE_SELF] = [6.0, 3.0]  # 6 s more in each of four processes
        used[resource.RUSAGE_CHILDREN] = [16.0, 21.0]  # 7 s more
    assert read_cost(tmp_path / "cost.json").cpu_s == 4 * 6 + 7


@pytest.mark.parametrize("text", ["", "[]", '{"sittings": [1]}', '{"sittings": [{"wall_s": -1}]}', "\0"])
def test_a_damaged_record_of_costs_stops_nothing(text, tmp_path) -> None:
    path = tmp_path / "cost.json"
    path.write_text(text)
    spent = read_cost(path)
    assert spent is None or spent.wall_s == 0
    with Cost(path, threads=1):
        pass
    assert read_cost(path).wall_s >= 0
