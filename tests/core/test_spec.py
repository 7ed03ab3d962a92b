"""Spec strings: what is typed, what it resolves to, and what the user is told."""

from typing import Any, get_origin

import attrs
import pytest
from attrs.validators import ge, in_
from hypothesis import given
from hypothesis import strategies as st
from toolkit.kvcache.full import Full

from toolkit import Choice, Drafter, Registry, TreeShaper, option
from toolkit.choice import options_of
from toolkit.errors import SpecError
from toolkit.spec import parse


class Shaper(TreeShaper):
    def grow(self, root, expand):
        return root


class Proposer(Drafter):
    def start(self, prompt, runtime): ...
    def expand(self, tree, frontier, k): ...
    def commit(self, tokens): ...


@attrs.define
class Adaptive(Shaper):
    name = "adaptive"
    nodes: int = option(32, validator=in_(range(1, 513)))
    threshold: float = option(0.1)
    gating: bool = option(True)


@attrs.define
class Keeping(Shaper):
    name = "keeping"
    keep: str = option("low", validator=in_(("low", "high")))
    nodes = 4


@attrs.define
class Fixed(Shaper):
    name = "fixed"
    widths: tuple[int, ...] = option((2, 2))
    nodes = 64


@attrs.define
class Model(Proposer):
    name = "model"
    id: str = option("", model=True)
    revision: str = option("main")


@attrs.define
class Ngram(Proposer):
    name = "ngram"
    n: int = option(4, validator=ge(1))


@attrs.define
class Pair(Proposer):
    name = "pair"
    small: Choice = option(kind="drafter")
    middle: Choice = option(kind="drafter")


CLASSES = {cls.name: cls for cls in (Adaptive, Fixed, Keeping, Model, Ngram, Pair)}


def read(text: str, kind: str = "shaper") -> Choice:
    return parse(kind, text, lambda _, name: CLASSES[name])


@pytest.mark.parametrize(
    ("kind", "text", "name", "options"),
    [
        ("shaper", "adaptive", "adaptive", {}),
        ("shaper", "adaptive:nodes=64,threshold=0.3", "adaptive", {"nodes": 64, "threshold": 0.3}),
        ("shaper", "adaptive:64", "adaptive", {"nodes": 64}),
        ("shaper", "adaptive:64,gating=off", "adaptive", {"nodes": 64, "gating": False}),
        ("shaper", "adaptive:gating=Yes", "adaptive", {"gating": True}),
        ("shaper", "adaptive:threshold=1", "adaptive", {"threshold": 1.0}),
        ("shaper", "fixed:widths=8x4x2", "fixed", {"widths": (8, 4, 2)}),
        ("shaper", "fixed:8", "fixed", {"widths": (8,)}),
        ("drafter", "model:EleutherAI/pythia-70m", "model", {"id": "EleutherAI/pythia-70m"}),
        ("drafter", "model:a/b,revision=v2", "model", {"id": "a/b", "revision": "v2"}),
        ("drafter", "model:id=[a,b]", "model", {"id": "a,b"}),
        ("drafter", "model:revision=x=y", "model", {"revision": "x=y"}),
        ("drafter", "model:", "model", {"id": ""}),
    ],
)
def test_what_is_typed_resolves(kind, text, name, options):
    choice = read(text, kind)
    assert (choice.cls.name, dict(choice.options)) == (name, options)
    assert {key: type(value) for key, value in choice.options} == {
        key: type(value) for key, value in options.items()
    }


@pytest.mark.parametrize(
    "text", ["pair:small=[model:a/b],middle=[ngram:n=3]", "pair:[model:id=a/b],middle=[ngram:3]"]
)
def test_brackets_nest(text):
    choice = read(text, "drafter")
    assert choice["small"] == Choice(Model, (("id", "a/b"),))
    assert choice["middle"] == Choice(Ngram, (("n", 3),))
    assert str(choice) == "pair:small=[model:a/b],middle=[ngram:n=3]"


def test_brackets_nest_twice():
    inner = "pair:small=[ngram:n=1],middle=[ngram:n=2]"
    choice = read(f"pair:small=[{inner}],middle=[ngram]", "drafter")
    assert choice["small"]["middle"]["n"] == 2
    assert read(str(choice), "drafter") == choice


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "adaptive:bugdet=64",
            "shaper 'adaptive' has no option 'bugdet'; it has: nodes (int, default 32), "
            "threshold (float, default 0.1), gating (true or false, default true)",
        ),
        ("adaptive:nodes=6.4", "shaper 'adaptive': option 'nodes' takes int, got '6.4'"),
        (
            "adaptive:threshold=much",
            "shaper 'adaptive': option 'threshold' takes float, got 'much'",
        ),
        (
            "adaptive:gating=maybe",
            "shaper 'adaptive': option 'gating' takes true or false, got 'maybe'",
        ),
        ("adaptive:nodes=0", "shaper 'adaptive:nodes=0': 'nodes' must be in range(1, 513) (got 0)"),
        (
            "adaptive:nodes=1,nodes=2",
            "shaper 'adaptive': option 'nodes' is given twice, write it once",
        ),
        ("adaptive:1,nodes=2", "shaper 'adaptive': option 'nodes' is given twice, write it once"),
        (
            "fixed:widths=8x",
            "shaper 'fixed': option 'widths' takes integers joined by x, as 4x2x1, got '8x'",
        ),
        (
            "adaptive:nodes=[64",
            "the brackets of 'adaptive:nodes=[64' do not match: close every [ with a ]",
        ),
        (
            "adaptive:nodes=64]",
            "the brackets of 'adaptive:nodes=64]' do not match: close every [ with a ]",
        ),
        ("pair:small=[ngram]", "shaper 'pair:small=[ngram]' needs middle: write pair:middle=…"),
        ("pair", "shaper 'pair' needs small, middle: write pair:small=…,middle=…"),
        ("adaptive:1,2", "shaper 'adaptive' has no option '2'"),
    ],
)
def test_what_is_wrong_is_said(text, said):
    with pytest.raises(SpecError) as caught:
        read(text)
    assert str(caught.value).startswith(said)


def test_an_error_inside_brackets_names_the_inner_strategy():
    with pytest.raises(SpecError, match="drafter 'ngram' has no option 'm'; it has: n"):
        read("pair:small=[ngram:m=3],middle=[ngram]", "drafter")


def test_a_registered_name_that_is_misspelt(registry):
    with pytest.raises(SpecError, match=r"no shaper called 'adaptve': did you mean adaptive\?"):
        registry.resolve("shaper", "adaptve")


VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-3, 300),
    float: st.floats(0, 1) | st.floats(allow_nan=False),
    bool: st.booleans(),
    str: st.text("aB/9.-_:= ,é", max_size=12) | st.just("[a,[b],c]"),
    tuple[int, ...]: st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple),
}


@st.composite
def choices(draw: Any, classes: list[type]) -> Choice:
    """A random choice: some options of a class, in any order, with values of their types."""
    cls = draw(st.sampled_from(classes))
    fields = options_of(cls)
    required = [f for f in fields if f.default is attrs.NOTHING]
    others = [f for f in fields if f not in required]
    given = draw(st.lists(st.sampled_from(others), unique=True)) if others else []
    return Choice(cls, tuple((f.name, draw(values_of(f))) for f in [*required, *given]))


def values_of(field: Any) -> st.SearchStrategy[Any]:
    """Values of an option: of its type, or strategies of its kind."""
    kind = field.metadata["kind"]
    if not kind:
        return VALUES[field.type]
    if get_origin(field.type) is tuple:
        name = {"drafter": "ngram", "shaper": "chain"}[kind]
        one = st.just(Choice(Registry.installed().find(kind, name)))
        return st.lists(one, min_size=1, max_size=2).map(tuple)
    return {"drafter": choices([Model, Ngram]), "kv": st.just(Choice(Full))}[kind]


def valid(choice: Choice) -> bool:
    try:
        choice.build()
    except (ValueError, SpecError):
        return False
    return all(valid(value) for _, value in choice.options if isinstance(value, Choice))


@given(data=st.data())
def test_parse_after_print_is_the_identity(data, registry):
    """Over every registered strategy, and over ours, whose options have the other types."""
    kinds = {entry.cls: entry.cls.kind for entry in registry.entries.values()}
    choice = data.draw(choices([*kinds, *CLASSES.values()]).filter(valid))
    find = registry.find if choice.cls in kinds else lambda _, name: CLASSES[name]
    again = parse(choice.cls.kind, str(choice), find)
    assert again == choice
    assert str(again) == str(choice)


@pytest.mark.parametrize(
    ("strategy", "spec"),
    [
        (Adaptive, "adaptive"),
        (Adaptive(), "adaptive"),
        (Adaptive(nodes=64, gating=False), "adaptive:nodes=64,gating=false"),
        (Fixed(widths=(4, 1)), "fixed:widths=4x1"),
        (Pair(Choice(Ngram), Choice(Model)), "pair:small=[ngram],middle=[model]"),
    ],
)
def test_a_choice_of_an_object_or_a_class(strategy, spec):
    choice = Choice.of(strategy)
    assert str(choice) == spec
    if not isinstance(strategy, type):
        assert choice.build() == strategy
        assert choice.build() is not choice.build()


def test_a_choice_knows_its_options_values():
    choice = Choice(Adaptive, (("nodes", 8),))
    assert (choice["nodes"], choice["threshold"]) == (8, 0.1)
    assert hash(choice) == hash(Choice(Adaptive, (("nodes", 8),)))


@pytest.mark.parametrize(
    "text",
    ["nodes=1_0", "nodes=٣", "nodes=²", "nodes= 3", "nodes=", "threshold=1_0.5", "threshold=٣",
     "threshold=nan", "gating=ｙｅｓ", "widths=4x1_0"],
)  # fmt: skip
def test_numbers_are_plain_digits(text):
    with pytest.raises(SpecError, match=f"option '{text.partition('=')[0]}' takes"):
        read(f"{'fixed' if text.startswith('widths') else 'adaptive'}:{text}")


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000,
        "adaptive:" + "x" * 100_000,
        "adaptive:nodes=" + "9" * 5000,
        "adaptive:threshold=" + "x" * 100_000,
        "adaptive:nodes=[" + "x" * 100_000,
        "keeping:keep=" + "x" * 100_000,
    ],
)
def test_a_long_text_is_quoted_cut(registry, text):
    unknown = text.startswith("x")
    with pytest.raises(SpecError) as caught:
        registry.resolve("shaper", text) if unknown else read(text)
    assert "…" in str(caught.value)
    assert len(str(caught.value)) < 1000
