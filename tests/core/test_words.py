"""What people type: which numbers are read, and how much of a text is quoted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.words import parse_real, parse_whole, quote

ODD = [
    "",
    " ",
    "1_0",
    "٣",
    "²",
    "１",
    "1 ",
    " 1",
    "1\n",
    "0x1",
    "+-1",
    "nan",
    "1e",
    ".",
    "e5",
    "-",
    "--1",
]


@given(st.integers(-(10**17), 10**17))
def test_whole_numbers_are_read(number):
    assert parse_whole(str(number)) == number


@given(st.floats(allow_nan=False))
def test_numbers_are_read(number):
    assert parse_real(str(number)) == number


@pytest.mark.parametrize("text", ["1.", ".5", "1e5", "1E-5", "+2.5e+3", "-inf", "Inf"])
def test_usual_ways_to_write_a_number(text):
    assert parse_real(text) == float(text)


@pytest.mark.parametrize("text", [*ODD, "1.0", "1e3", "inf", "9" * 5000])
def test_what_is_no_whole_number(text):
    with pytest.raises(ValueError, match="is not a whole number") as caught:
        parse_whole(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", [*ODD, "1_0.5", "٣.٥", "infinity", "1e9999", "1,5"])
def test_what_is_no_number(text):
    with pytest.raises(ValueError, match="is not a number"):
        parse_real(text)


def test_a_long_number_is_read_and_an_endless_one_is_infinite():
    assert parse_real("0." + "1" * 5000) == pytest.approx(1 / 9)
    assert parse_real("9" * 5000) == math.inf


def test_a_short_text_is_quoted_whole_and_a_long_one_cut():
    assert quote("a 'b' \0") == repr("a 'b' \0")
    assert quote("x" * 150) == repr("x" * 150)
    long = quote("begin" + "x" * 100_000 + "end")
    assert len(long) == 201
    assert long.startswith("'begin")
    assert long.endswith("end'")
