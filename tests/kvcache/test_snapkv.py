"""SnapKV: attention of the last prompt queries, averaged over neighbours."""

import pytest
import torch

from toolkit.errors import SpecError


@pytest.mark.parametrize(("kernel", "reach"), [(1, 0), (3, 1), (7, 3), (5, 2)])
@pytest.mark.parametrize("recent", [1, 3])
def test_attention_of_the_last_queries_smoothed(make, view_of, weights_of, kernel, reach, recent):
    view = view_of(rows=12, queries=12)
    ours = make("kv", f"snapkv:recent={recent},kernel={kernel}").score(view)
    mass, older = weights_of(view)[:, :, -recent:].sum(2).mean(1), 12 - recent
    for head in range(2):
        for row in range(older):
            near = range(max(0, row - reach), min(older, row + reach + 1))
            expected = sum(float(mass[head, other]) for other in near) / (2 * reach + 1)
            assert float(ours[head, row]) == pytest.approx(expected)
    assert not ours[:, older:].any()  # those are kept anyway


def test_a_prompt_of_no_more_than_the_window(make, view_of):
    scores = make("kv", "snapkv:recent=16").score(view_of(rows=5, queries=5))
    assert scores.shape == (2, 5)
    assert torch.isfinite(scores).all()


def test_it_decides_once(make):
    policy = make("kv", "snapkv:recent=7")
    assert policy.once
    assert policy.recent == 7


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("snapkv:recent=0", "'recent' must be >= 1"),
        ("snapkv:kernel=0", "'kernel' must be odd"),
        ("snapkv:budget=8", "recent=16 .*do not fit into budget=8"),
        ("snapkv:epoch=8", "no option 'epoch'"),
    ],
)
def test_bad_options(registry, spec, said):
    with pytest.raises(SpecError, match=said):
        registry.resolve("kv", spec)
