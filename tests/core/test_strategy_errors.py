"""A plugin's exception names its strategy, its method and its own lines; ours stay what they are."""

import attrs
import pytest

from toolkit import (
    Drafter,
    MaskPolicy,
    Pipeline,
    Pool,
    Registry,
    ScorePolicy,
    TreeShaper,
    Verifier,
    option,
)
from toolkit.choice import Choice
from toolkit.conformance.models import noisy, tiny
from toolkit.errors import SpecError, StrategyError
from toolkit.strategy_errors import name_failed_strategy

LITTLE = {"target": "target", "drafter": "model:drafter", "shaper": "chain:k=2"}


def decoded(**choices):
    pool = Pool(modules={"target": tiny("llama", 3), "drafter": noisy("llama", 3)})
    return Pipeline(**{**LITTLE, **choices}, pool=pool).generate([5, 9, 33], max_new_tokens=6)


@attrs.define(eq=False)
class Drafts(Drafter):
    name = "drafts"
    fails: str = option("")

    def start(self, prompt, runtime):
        self._now("start")

    def expand(self, tree, frontier, k):
        self._now("expand")

    def commit(self, tokens):
        self._now("commit")

    def _now(self, method):
        if method == self.fails:
            raise ZeroDivisionError("division by zero")


@attrs.define(eq=False)
class Shapes(TreeShaper):
    name = "shapes"
    fails: str = option("")
    nodes = 8

    def plan(self, costs, length):
        self._now("plan")

    def grow(self, root, expand):
        self._now("grow")
        return root if self.fails else None

    def observe(self, tree, verdict):
        self._now("observe")

    def _now(self, method):
        if method == self.fails:
            raise ZeroDivisionError("division by zero")


@attrs.define
class Judges(Verifier):
    name = "judges"
    exactness = "lossy"
    assumes = frozenset({"fixed"})
    fails: bool = option(True)

    def judge(self, tree, logits, rng):
        return 1 / 0 if self.fails else None


@attrs.define
class Keeps(ScorePolicy):
    name = "keeps"
    budget: int = option(128)

    def score(self, view):
        return 1 / 0


@pytest.fixture(autouse=True)
def _costs(monkeypatch):
    monkeypatch.setattr("toolkit.runtime.measure_costs.measure_costs", lambda *_: None)
    monkeypatch.setattr("toolkit.runtime.costs.store", lambda *_: None)


@pytest.mark.parametrize(
    ("choices", "said", "line"),
    [
        ({"drafter": Drafts("start")}, "drafter 'drafts' failed in `start`:", "in _now"),
        ({"drafter": Drafts("expand")}, "drafter 'drafts' failed in `expand`:", "in _now"),
        ({"shaper": Shapes("plan")}, "shaper 'shapes' failed in `plan`:", "in _now"),
        ({"shaper": Shapes("grow")}, "shaper 'shapes' failed in `grow`:", "in _now"),
        ({"shaper": Shapes("observe")}, "shaper 'shapes' failed in `observe`:", "in _now"),
        ({"verifier": Judges()}, "verifier 'judges' failed in `judge`:", "in judge"),
        ({"kv": Keeps()}, "KV policy 'keeps' failed in `score`:", "in score"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else None,
)
def test_an_exception_names_strategy_and_method(choices, said, line):
    with pytest.raises(StrategyError) as caught:
        decoded(**choices)
    message = str(caught.value)
    assert message.startswith(said)
    assert message.endswith("ZeroDivisionError: division by zero")
    assert line in message
    assert "engine.py" not in message
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"drafter": Drafts()}, "drafter 'drafts' returned nothing from `expand`: return a Candidates"),
        ({"shaper": Shapes()}, "shaper 'shapes' returned nothing from `grow`: return a TokenTree"),
        ({"verifier": Judges(False)},
         "verifier 'judges' returned nothing from `judge`: return a Verdict"),
        ({"kv": attrs.define(type("Hides", (MaskPolicy,), {
            "name": "hides", "__module__": __name__, "epoch": 8, "visible": lambda *_: None,
        }))}, "KV policy 'hides': `visible` gives bool, got None"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_names_strategy_and_method(choices, said):
    with pytest.raises(StrategyError) as caught:
        decoded(**choices)
    assert str(caught.value) == said


def test_tuning_names_them_too(monkeypatch):
    monkeypatch.setattr(
        "toolkit.runtime.measure_costs.measure_costs", lambda *_: Drafts("start").start([], None)
    )
    pool = Pool(modules={"target": tiny("llama", 3)})
    with pytest.raises(StrategyError, match="drafter 'drafts' failed in `start`"):
        Pipeline("target", drafter=Drafts("start"), pool=pool).costs(fresh=True)


@attrs.define
class Breaks(TreeShaper):
    name = "breaks"
    nodes: int = option(4)

    def __attrs_post_init__(self):
        1 / 0  # noqa: B018

    def grow(self, root, expand): ...


def test_a_strategy_that_cannot_be_built_is_refused():
    with pytest.raises(SpecError) as caught:
        Registry.installed().resolve("shaper", Choice(Breaks))
    assert str(caught.value).startswith("shaper 'breaks' cannot be built:\n")
    assert "in __attrs_post_init__" in str(caught.value)
    assert "spec.py" not in str(caught.value)


def test_a_built_ins_error_is_ours():
    ours = Registry.installed().find("shaper", "chain")()
    with pytest.raises(AttributeError), name_failed_strategy():
        ours.grow(None, None)


def test_an_error_in_no_strategy_is_ours():
    with pytest.raises(ZeroDivisionError), name_failed_strategy():
        1 / 0  # noqa: B018


def test_what_says_already_what_is_wrong_is_left_alone():
    class Says(Drafts):
        def start(self, prompt, runtime):
            raise SpecError("in its own words")

    with pytest.raises(SpecError, match=r"^in its own words$"), name_failed_strategy():
        Says().start([], None)
