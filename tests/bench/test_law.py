"""The test of sampled tokens against the target's law: right ones pass, wrong ones do not."""

import random

import pytest
from toolkit.bench import law
from toolkit.bench.law import chi_square_tail, compare_law, place_tokens
from toolkit.bench.results import Results
from transformers import GenerationConfig

from toolkit import Pipeline, Sampling
from toolkit.conformance.models import tiny

PROMPT = [5, 9, 33]


def places(sampling, judged, count=6, **options):
    """Places of tokens that are drawn by one law and judged by another."""
    own = {"generation_config": GenerationConfig(eos_token_id=[], **options)} if options else {}
    drawing = Pipeline(tiny("llama", 0, ()), drafter="none", sampling=sampling, **own)
    judging = Pipeline(tiny("llama", 0, ()), drafter="none", sampling=judged, **own)
    return [
        place_tokens(judging, PROMPT, drawing.generate(PROMPT, max_new_tokens=64, seed=s).token_ids, s)
        for s in range(count)
    ]


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.7, top_p=0.9)], ids=str)
def test_tokens_of_the_law_pass(sampling):
    found = places(sampling, sampling)
    assert all(0 <= place <= 1 for row in found for place in row)
    assert compare_law(found) > 0.001


def test_a_law_has_the_models_own_logits_processors(monkeypatch):
    """The control: the law without them is another one."""
    penalty, peaked = {"repetition_penalty": 4.0}, Sampling(0.4)
    assert compare_law(places(peaked, peaked, **penalty)) > 0.001
    monkeypatch.setattr(law, "_process", lambda pipeline, prompt, tokens, logits: logits)
    assert compare_law(places(peaked, peaked, **penalty)) < 1e-6


def test_tokens_of_another_temperature_do_not():
    assert compare_law(places(Sampling(0.7), Sampling(1.0))) < 1e-6


def test_a_place_lies_between_likelier_tokens_and_the_token_itself():
    pipeline = Pipeline(tiny("llama", 0, ()), drafter="none", sampling=Sampling(1.0))
    tokens = pipeline.generate(PROMPT, max_new_tokens=8, seed=1).token_ids
    found = place_tokens(pipeline, PROMPT, tokens, 7)
    session = pipeline.session()
    logits = session.prefill(PROMPT)
    for token, place in zip(tokens, found, strict=True):
        law = logits.double().softmax(-1)
        before = float(law[law > law[token]].sum())
        assert before - 1e-6 <= place <= before + float(law[token]) + 1e-6
        logits = session.forward([token], [-1])[0]
        session.commit([0])


def test_random_numbers_that_are_used_twice_are_found():
    rng = random.Random(3)
    right = [[rng.random() for _ in range(200)] for _ in range(4)]
    twice = [[place for place in row[::2] for _ in (0, 1)] for row in right]
    skewed = [[place**1.3 for place in row] for row in right]
    assert compare_law(right) > 0.001
    assert compare_law(twice) < 1e-6
    assert compare_law(skewed) < 1e-6
    assert compare_law([[0.5] * 9]) is None


def test_the_tail_of_chi_square():
    """Against known quantiles."""
    for freedom, quantile in ((2, 13.8155), (10, 29.588), (24, 51.179)):
        assert chi_square_tail(quantile, freedom) == pytest.approx(0.001, rel=1e-3)
    assert chi_square_tail(0.0, 4) == 1.0


def test_a_sampled_bench_shares_seeds_and_says_what_it_compared(toolkit, tmp_path):
    out = tmp_path / "r"
    done = toolkit(
        "bench", "--temperature", 1, "--prompts", 1, "--rounds", 2, "--max-new-tokens", 6,
        "--warmup", 1, "--out", out, "--arm", "name=match drafter=model",
        "--arm", "name=traversal drafter=model verifier=traversal",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    results = Results.read(out)
    rows = {(row["arm"], row["round"]): row for row in results.tested}
    assert rows["ar", 0]["seed"] == rows["match", 0]["seed"] == rows["traversal", 0]["seed"]
    assert rows["ar", 0]["seed"] != rows["ar", 1]["seed"]
    for number in (0, 1):
        assert rows["match", number]["verdict"] in ("exact", "tie")
        assert rows["match", number]["token_ids"] == rows["ar", number]["token_ids"]
        row = rows["traversal", number]
        assert row["verdict"] == "sampled"
        assert len(row["places"]) == len(row["token_ids"])
    assert results.law == {}  # too few tokens


def test_a_wrong_law_is_an_error(invented):
    results = invented({"ar": 50.0, "x": 60.0})
    rng = random.Random(0)
    for row in results.requests:
        if row["arm"] == "x":
            row["places"] = [rng.random() ** 2 for _ in range(300)]
            row["verdict"] = "sampled"
    assert results.off_law == ["x"]
    assert not results.is_sound
    assert results.summarize("x", results.settings[0]).reading == "other law"


@pytest.mark.parametrize("option", [("--temperature", -1), ("--top-p", 0), ("--top-k", 3)])
def test_settings_that_mean_nothing_are_refused(toolkit, tmp_path, option):
    done = toolkit("bench", *option, "--arm", "drafter=ngram", "--out", tmp_path / "r")
    assert done.exit_code != 0
    assert "expected" in done.output or "changes nothing" in done.output
