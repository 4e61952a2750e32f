"""The table that ends a run: what is above its limit is marked."""

from dataclasses import replace

from hat.report.summary import ModelRow, text_table

LARGEST = ModelRow("largest", 1_390_000, 39_000_000, None, 26.97, 24.48, 86.79, "inherited")
FOUND = ModelRow("found@20ms", 880_000, 22_000_000, 20.0, 18.39, 18.64, 97.54, "trained")
PLAIN = """\
model       #Params    FLOPs  limit ms  predicted ms  measured ms   BLEU  weights
-----------------------------------------------------------------------------------
largest      1.39 M  0.039 G                   26.97        24.48  86.79  inherited
found@20ms   0.88 M  0.022 G        20         18.39        18.64  97.54  trained"""
MARKED = """\
found@20ms   0.88 M  0.022 G        20         18.39        20.50  97.54  trained !
! found@20ms measures 20.50 ms, 2.5% above its limit of 20 ms; search under a lower limit, or measure a \
larger latency dataset"""


def test_all_within_their_limits() -> None:
    assert text_table([LARGEST, FOUND]) == PLAIN
    assert text_table([replace(FOUND, measured_ms=20.0)]).count("!") == 0
    assert [row.to_plain()["within_limit"] for row in (LARGEST, FOUND)] == [None, True]


def test_one_above_its_limit_is_marked_and_explained() -> None:
    above = replace(FOUND, measured_ms=20.5)
    assert text_table([LARGEST, above]).split("\n")[3:] == MARKED.split("\n")
    assert above.to_plain()["within_limit"] is False
