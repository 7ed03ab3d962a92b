"""Numbers as people write them, and quotations that stay short."""

import pytest
from toolkit.bench.words import cut, whole


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("12", 12), ("-3", -3), ("+4", 4)])
def test_decimal_digits_are_a_number(text, number):
    assert whole(text) == number


@pytest.mark.parametrize("text", ["", "²", "٣", "1_0", " 1", "1 ", "1.0", "1e3", "0x1", "9" * 5000])
def test_nothing_else_is(text):
    with pytest.raises(ValueError, match="no whole number"):
        whole(text)


def test_a_quotation_is_cut():
    assert cut("short") == "'short'"
    assert len(cut("x" * 100_000)) < 200
