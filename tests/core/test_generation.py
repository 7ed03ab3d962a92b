"""The figures of a generation, by hand-computed examples."""

import math

import attrs
import pytest

from toolkit.engine import Event, Step
from toolkit.generation import Generation, Verification, compute_rates
from toolkit.sampling import Sampling


def step(nodes=1, depth=0, accepted=0, times=(1.0, 0.5, 2.0, 0.5)):
    draft, shape, verify, commit = times
    return Step(
        length=3, nodes=nodes, depth=depth, accepted=accepted, committed=accepted + 1,
        draft_ms=draft, shape_ms=shape, verify_ms=verify, commit_ms=commit, margin=1.0,
    )


def generation(*steps, ttft_ms=10.0):
    events = [Event([7]), *(Event([7] * s.committed, s) for s in steps)]
    ids = [token for event in events for token in event.tokens]
    return Generation(
        text="", token_ids=ids, prompt_ids=[1, 2, 3], stop_reason="length", stop=(), specs={},
        sampling=Sampling(), seed=0, numerics="fp32", ttft_ms=ttft_ms, kv_bytes=11, kv_peak_bytes=12,
        draft_kv_bytes=5, peak_memory_bytes=None, graphs_captured=3, steps_run="", events=events,
        piece=str,
    )


THREE = generation(
    step(nodes=5, depth=4, accepted=3), step(nodes=4, depth=2, accepted=0), step(nodes=1)
)


def test_tau_counts_the_bonus_and_not_the_prefill():
    assert THREE.tau == (4 + 1 + 1) / 3
    assert generation(step(), step(), step()).tau == 1.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decode_ms", 12.0),
        ("tpot_ms", 12.0 / 6),
        ("tokens_per_s_end_to_end", 7 / 0.022),
        ("target_forwards", 3),
        ("target_forwards_saved", 3),
        ("drafted", 7),
        ("accepted", 3),
        ("acceptance", 3 / 6),
        ("nodes_mean", 10 / 3),
        ("draft_share", 3 / 12),
        ("verify_share", 6 / 12),
        ("commit_share", 3 / 12),
        ("kv_bytes", 11),
        ("kv_peak_bytes", 12),
        ("draft_kv_bytes", 5),
        ("peak_memory_bytes", None),
        ("graphs_captured", 3),
    ],
)
def test_a_metric(name, value):
    assert THREE.metrics[name] == pytest.approx(value)


def test_tokens_per_second_leaves_the_first_token_out():
    assert THREE.tokens_per_s == pytest.approx(6 / 0.012)


def test_rates_of_another_decoder_whose_first_forward_gave_several_tokens():
    rates = compute_rates(tokens=10, first=3, steps=4, ttft_ms=5.0, decode_ms=20.0)
    assert rates == {
        "tau": 7 / 4,
        "decode_ms": 20.0,
        "tokens_per_s": 7 / 0.020,
        "tokens_per_s_end_to_end": 10 / 0.025,
        "tpot_ms": 20 / 7,
    }
    none = compute_rates(tokens=3, first=3, steps=0, ttft_ms=5.0, decode_ms=0.1)
    assert (none["tau"], none["tokens_per_s"], none["tpot_ms"]) == (None, None, None)


def test_saved_forwards_are_those_that_ar_would_have_run_more():
    ar = generation(*[step()] * 6)
    assert len(ar.token_ids) == len(THREE.token_ids)
    assert ar.metrics["target_forwards"] - THREE.metrics["target_forwards"] == (
        THREE.metrics["target_forwards_saved"]
    )


def test_one_token_has_no_rates_and_does_not_crash():
    one = generation()
    assert (one.tau, one.tokens_per_s, one.decode_ms) == (None, None, 0.0)
    metrics = one.metrics
    none = {"tpot_ms", "acceptance", "nodes_mean", "draft_share", "verify_share", "commit_share"}
    assert {name for name, value in metrics.items() if value is None} == {*none, "peak_memory_bytes"}
    assert metrics["tokens_per_s_end_to_end"] == pytest.approx(1 / 0.010)
    assert metrics["target_forwards"] == metrics["target_forwards_saved"] == 0


def test_shares_add_up():
    metrics = THREE.metrics
    assert math.isclose(sum(metrics[f"{s}_share"] for s in ("draft", "verify", "commit")), 1.0)


def test_a_verified_generation_is_the_same_one_with_a_verdict():
    assert THREE.verdict is None
    verified = THREE.with_verification(Verification("exact"))
    assert (verified.verdict, verified.token_ids) == ("exact", THREE.token_ids)
    assert THREE.verdict is None


def test_a_generation_says_what_matters_in_two_lines():
    found = attrs.evolve(THREE, text="Once upon a time " * 40)
    first, second = repr(found).splitlines()
    assert first == f"<Generation: {THREE.line}>"
    assert THREE.line == "7 tokens, τ 2.00, 500.0 tokens/s"
    assert second.startswith("'Once upon")
    assert len(second) < 250
    assert found.with_verification(Verification("exact")).line.endswith(" tokens/s, exact")
