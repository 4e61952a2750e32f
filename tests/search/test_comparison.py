"""The table of a front, and the comparison with random search."""

import csv
import io
import json

import pytest

from hat.search.front import compare, comparison_table, front_numbers
from hat.search.record import evaluations_csv
from hat.space import Arch, DecoderArch, EncoderArch

ARCH = Arch(EncoderArch(8, (8, 16), (1, 2)), DecoderArch(8, (8,), (1,), (2,), (2,)))


def test_a_table_holds_the_architecture_as_its_yaml() -> None:
    text = evaluations_csv(
        [{"loss": 1.5, "measured_ms": None}, {"loss": 2.5, "measured_ms": 3.25}], [ARCH] * 2
    )
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["loss"], first["measured_ms"], second["measured_ms"]) == ("1.5", "", "3.25")
    values = {key: json.loads(value) for key, value in first.items() if key.endswith("subtransformer")}
    assert len(values) == 10 and Arch.from_yaml(values) == ARCH


def test_the_front_from_the_lowest_loss() -> None:
    assert front_numbers([(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.0, 4.0)]) == [1, 2, 0]
    assert front_numbers([]) == []


def test_comparison_by_hand() -> None:
    random = [(4.0, 10.0), (2.0, 5.0)]  # reference (4, 10): the second one has half by half
    search = [(3.0, 5.0), (1.0, 5.0), (1.0, 2.5)]  # 1/8, 3/8, 9/16
    found = compare({"search": search, "random": random}, share=0.99)
    assert found["reference"] == [4.0, 10.0]
    ours = found["methods"]["search"]
    assert ours["hypervolume"] == pytest.approx(9 / 16) and ours["share"] == pytest.approx(9 / 4)
    assert ours["reached"] == 2 and ours["evaluations"] == 3
    assert found["methods"]["random"] == {"evaluations": 2, "hypervolume": 0.25, "share": 1.0, "reached": 2}
    text = comparison_table(found)
    assert "225.00%" in text and "99% after" in text and "reference: loss 4.0000, 10" in text
    few = compare({"search": search, "random": random[:1]})
    assert few["methods"]["search"]["share"] is None and "never" in comparison_table(few)


@pytest.mark.parametrize("others", [{"random": [], "depth": [(3.0, 5.0)]}, {"random": []}, {}])
def test_without_random_points_nothing_is_compared(others) -> None:
    found = json.loads(json.dumps(compare({"search": [(3.0, 5.0), (1.0, 7.0)]} | others)))
    assert found["reference"] == []
    nothing = {"hypervolume": None, "share": None, "reached": None}
    counts = {"search": 2} | {name: len(points) for name, points in others.items()}
    assert found["methods"] == {name: {"evaluations": count} | nothing for name, count in counts.items()}
    *rows, last = comparison_table(found).splitlines()
    assert last == "no random architecture was scored, so there is no reference to compare by"
    assert len(rows) == 1 + len(counts) and rows[1].split() == ["search", "2", "-", "-", "-"]
