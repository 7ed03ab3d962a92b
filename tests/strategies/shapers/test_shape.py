"""`shape` is what `grow` grows, for every shaper that has one."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from toolkit import Candidates, GrowMap, Registry, TokenTree

REGISTRY = Registry.installed()
OPTIONS = {
    "chain": st.builds("k={}".format, st.integers(1, 6)),
    "fixed": st.builds(
        "threshold=0,depth={},branch={},nodes={}".format,
        st.integers(1, 9), st.integers(1, 4), st.integers(1, 20),
    ),
    "growmap": st.builds(
        "tree={}".format, st.sampled_from(["4x2x1x1", "5", "1x3", "3-chain", "2x3-tree", "2^3"])
    ),
}  # fmt: skip


def shaped(name, options=""):
    return REGISTRY.resolve("shaper", f"{name}:{options}" if options else name).build()


def grown(shaper, logprobs):
    """What a shaper grows of candidates with these log-probabilities, in turn."""
    drawn = 0

    def expand(tree, frontier, k):
        nonlocal drawn
        rows = []
        for _ in frontier:
            row = [logprobs[(drawn + i) % len(logprobs)] for i in range(k)]
            drawn += k
            rows.append(sorted(row, reverse=True))
        return Candidates([list(range(k)) for _ in frontier], rows)

    return shaper.grow(TokenTree.root(0), expand)


def require_shape(shaper, logprobs):
    tree, shape = grown(shaper, logprobs), shaper.shape
    assert tuple(tree.parents) == shape.parents
    for node, children in enumerate(shape.children):
        assert [tree.tokens[child] for child in children] == list(range(len(children))), node


LOGPROBS = st.lists(st.floats(-20, 0), min_size=1, max_size=8)


@pytest.mark.parametrize("name", [*OPTIONS])
@given(st.data(), LOGPROBS)
def test_shape_is_what_grow_grows(name, data, logprobs):
    require_shape(shaped(name, data.draw(OPTIONS[name])), logprobs)


@pytest.mark.parametrize("name", REGISTRY.names("shaper"))
@example([-0.01])
@example([-20.0])
@given(LOGPROBS)
def test_of_every_shaper_as_it_is_by_default(name, logprobs):
    shaper = shaped(name)
    if shaper.shape is None:
        assert name not in ("chain", "growmap")
    else:
        assert name in OPTIONS  # with other options as well
        require_shape(shaper, logprobs)


def test_another_shape_is_noticed():
    """The control: a shaper that stops at improbable candidates but declares a shape."""
    fixed = shaped("fixed", "threshold=0.5,depth=2,branch=2")
    lying = type("Lying", (type(fixed),), {"shape": GrowMap.of_counts([2, 2])})
    shaper = lying(threshold=0.5, depth=2, branch=2)
    require_shape(shaper, [-0.01])
    with pytest.raises(AssertionError):
        require_shape(shaper, [-5.0])
