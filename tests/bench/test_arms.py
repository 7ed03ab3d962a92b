"""Arms as words."""

import pytest
from toolkit.bench.arms import make_ar, parse_arm, parse_arms, parse_braces

from toolkit import ToolkitError


def test_an_arm_is_words():
    arm = parse_arm(
        "name=mine drafter=model:a/b shaper=fixed:depth=3,branch=2 kv=window:budget=8 lossy"
    )
    assert arm.name == "mine"
    assert arm.engine == "toolkit"
    assert arm.lossy
    assert arm.specs == {
        "drafter": "model:a/b", "shaper": "fixed:depth=3,branch=2", "kv": "window:budget=8",
    }  # fmt: skip
    assert parse_arm(f"name=mine {arm.spec}") == arm


def test_a_name_may_hold_spaces_and_is_the_words_otherwise():
    assert parse_arm('name="my arm" drafter=ngram').name == "my arm"
    assert parse_arm("drafter=ngram lossy").name == "drafter=ngram lossy"


def test_hugging_faces_arms():
    assert parse_arm("hf:assisted drafter=a/b k=4").specs == {"drafter": "a/b", "k": "4"}
    assert parse_arm("hf:generate").engine == "hf:generate"


def test_braces_are_every_combination():
    arms = parse_braces("drafter=model shaper=fixed:depth={3,4},branch={2,3,4}")
    assert len(arms) == len({arm.name for arm in arms}) == 6
    assert arms[1].specs["shaper"] == "fixed:depth=3,branch=3"
    assert [arm.name for arm in parse_braces("name=n shaper=chain:k={1,2}")] == ["n 1", "n 2"]


def test_ar_comes_first_for_every_kv_policy():
    arms = parse_arms(["drafter=ngram kv=window:budget=8", "drafter=ngram", "ar"])
    assert arms[:2] == [make_ar(), make_ar("window:budget=8")]
    assert [arm.name for arm in arms] == [
        "ar", "ar kv=window:budget=8", "drafter=ngram kv=window:budget=8", "drafter=ngram",
    ]  # fmt: skip


MANY = "{" + ",".join(map(str, range(1, 200))) + "}"

BAD = {
    "": "empty",
    "drafter": "no arm called 'drafter'",
    "hf:asisted": "did you mean hf:assisted",
    "shapr=chain": "did you mean shaper",
    "drafter=model drafter=ngram": "twice",
    "hf:generate k=3": "cannot have 'k=3'",
    "drafter=model chain": "no arm called 'chain'",
    "ar hf:generate": "no arm called 'hf:generate'",
    'name="x drafter=model': "quote that is not closed",
    "name= drafter=model": "empty name",
    "name=' ' drafter=model": "empty name",
    "name=\x1b[31m drafter=model": "cannot be printed",
    "hf:lookup k=²": "k is a count of tokens from 1 to 1024, not '²'",
    "hf:lookup k=٣": "count of tokens",
    "hf:lookup k=1_0": "count of tokens",
    "hf:lookup k=0": "count of tokens",
    "hf:lookup k=99999999999": "count of tokens",
    "hf:assisted k=1025": "count of tokens",
    "hf:assisted schedule=steep": "schedule is heuristic, or left out; not 'steep'",
}


@pytest.mark.parametrize(("text", "word"), BAD.items())
def test_bad_words_are_one_clear_error(text, word):
    with pytest.raises(ToolkitError, match=word):
        parse_arm(text)


def test_two_arms_of_one_name_are_refused():
    with pytest.raises(ToolkitError, match="two arms are called 'x'"):
        parse_arms(["name=x drafter=ngram", "name=x drafter=model"])


@pytest.mark.parametrize(
    "texts",
    [
        ["shaper=fixed:depth={0},branch={0},threshold={0}".replace("{0}", MANY)],
        [f"shaper=fixed:depth={MANY}", f"shaper=fixed:branch={MANY}"] * 3,
    ],
)
def test_too_many_arms_are_refused_before_they_are_made(texts, monkeypatch):
    monkeypatch.setattr("toolkit.bench.arms.parse_arm", None)
    with pytest.raises(ToolkitError, match="more than 1000 arms"):
        parse_arms(texts)


def test_an_arm_given_twice_is_one():
    assert len(parse_arms(["drafter=ngram", "drafter=ngram", "ar"])) == 2


def test_what_is_long_is_quoted_cut():
    for text in ("x" * 10**5, "shaper=" + "x" * 10**5 + " y=1", "hf:lookup k=" + "9" * 10**5):
        with pytest.raises(ToolkitError) as error:
            parse_arm(text)
        assert len(str(error.value)) < 600
