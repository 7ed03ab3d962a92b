"""Counts on the command line are read strictly."""

import click
import pytest
from toolkit.bench.options import Counts, Whole


def test_a_count_and_counts():
    assert Whole(min=1).convert("12", None, None) == 12
    assert Whole(min=1).convert(10, None, None) == 10  # a default
    assert Counts().convert("64,128", None, None) == [64, 128]


@pytest.mark.parametrize("text", ["1_0", "٣", "²", "1.0", "0x1", "", "9" * 5000])
def test_what_is_no_count(text):
    with pytest.raises(click.BadParameter, match="whole number"):
        Whole(min=1).convert(text, None, None)
    with pytest.raises(click.BadParameter, match="whole numbers"):
        Counts().convert(text, None, None)


@pytest.mark.parametrize("kind", [Whole(min=1), Counts()])
def test_what_is_below_one(kind):
    with pytest.raises(click.BadParameter, match="1"):
        kind.convert("0", None, None)
