"""Hugging Face's arms: the same tokens, honestly timed, on the same weights."""

import pytest
from attrs import evolve
from toolkit.bench.arms import parse_arm
from toolkit.bench.hf import LibraryEngine, copy_module, load_module
from toolkit.bench.plan import Plan
from toolkit.bench.prepared_plan import make_pipeline
from transformers import GenerationConfig

from toolkit import Pipeline, Pool, Registry, Sampling, ToolkitError, run_record

PROMPT = "Once upon a time there was a"


def arm(text, **options):
    made = parse_arm(text)
    drafter = made.specs.get("drafter", "model") if made.engine == "hf:assisted" else "none"
    return LibraryEngine(made, Pipeline("stories-3m", drafter=drafter, **options))


@pytest.fixture(scope="module")
def plain():
    pipeline = Pipeline("stories-3m", drafter="none", shaper="chain")
    return pipeline, pipeline.generate(PROMPT, max_new_tokens=40)


@pytest.mark.parametrize(
    "words", ["hf:generate", "hf:assisted", "hf:assisted k=3", "hf:lookup k=4"]
)
def test_the_tokens_are_ars(plain, words):
    pipeline, ar = plain
    made = arm(words)
    found = made.run(run_record(pipeline), 7, ar.prompt_ids, 40, 0)
    request = found.request
    assert request.token_ids == ar.token_ids
    assert request.request_id == 7
    assert request.stop_reason == "length"
    assert 0 < request.ttft_ms < found.wall_ms
    assert request.ttft_ms + request.decode_ms == pytest.approx(found.wall_ms)
    assert request.kv_bytes > 0


@pytest.mark.parametrize("words", ["hf:generate", "hf:assisted", "hf:lookup k=4"])
def test_the_models_own_logits_processors_are_part_of_every_arm(plain, words):
    """The control: they change the tokens."""
    own = GenerationConfig(repetition_penalty=1.3, suppress_tokens=[*range(0, 4096, 7)])
    pipeline, ar = plain
    ours = Pipeline("stories-3m", drafter="none", generation_config=own, pool=pipeline.pool)
    expected = ours.generate(PROMPT, max_new_tokens=24).token_ids
    made = arm(words, generation_config=own)
    request = made.run(run_record(ours), 0, ar.prompt_ids, 24, 0).request
    assert request.token_ids == expected != ar.token_ids[:24]
    assert run_record(ours).logits_processors == ours.defaults.processing


def test_sampled_arms_draw_as_the_model_says():
    own = GenerationConfig(do_sample=True, top_k=1, temperature=3.0)
    made = arm("hf:generate", generation_config=own)
    run, ids = run_record(made.pipeline), made.pipeline.encode(PROMPT)
    assert (run.temperature, run.top_k) == (3.0, 1)
    first, again = (made.run(run, 0, ids, 12, seed).request.token_ids for seed in (1, 2))
    greedy = arm("hf:generate", generation_config=own, sampling=Sampling())
    assert first == again == greedy.run(run, 0, ids, 12, 3).request.token_ids
    free = arm("hf:generate", generation_config=own, sampling={"top_k": 0})
    assert free.run(run, 0, ids, 12, 1).request.token_ids != first


def test_arms_of_the_library_are_refused_where_stop_strings_are_the_models():
    plan = Plan(["hf:lookup"], target="stories-3m")
    registry, pool = Registry.installed(), Pool()
    found = Pipeline("stories-3m", pool=pool).pool.find("stories-3m")
    found.generation_config.stop_strings = ["the end"]
    with pytest.raises(ToolkitError, match="arm 'hf:lookup' does not stop exactly at the stop_str"):
        make_pipeline(parse_arm("hf:lookup"), plan, pool, registry)
    make_pipeline(parse_arm("hf:lookup"), evolve(plan, ignore_eos=True), pool, registry)
    make_pipeline(parse_arm("drafter=ngram"), plan, pool, registry)


def test_plain_decoding_takes_a_forward_per_token_and_drafting_fewer(plain):
    pipeline, ar = plain
    run = run_record(pipeline)
    simple = arm("hf:generate").run(run, 0, ar.prompt_ids, 40, 0)
    assert simple.request.steps == 39
    assert simple.request.tau == 1
    assert simple.first_tokens == 1
    assert (simple.request.drafted, simple.request.accepted) == (0, 0)
    assisted = arm("hf:assisted k=4").run(run, 0, ar.prompt_ids, 40, 0)
    assert assisted.request.steps < 39
    assert assisted.request.tau > 1
    later = 40 - assisted.first_tokens
    assert assisted.request.tau == pytest.approx(later / assisted.request.steps)
    assert assisted.request.drafted is None


def test_stop_tokens_stop_both_or_neither(plain):
    """With every token a stop token, one is decoded; with none, all are."""
    pipeline, ar = plain
    run = run_record(pipeline)
    stops = arm("hf:generate")
    module = load_module(pipeline.pool, pipeline.target)
    module = copy_module(module, frozenset({ar.token_ids[3]}))
    stops._models = (module, None)
    short = stops.run(run, 0, ar.prompt_ids, 40, 0).request
    assert short.token_ids == ar.token_ids[: ar.token_ids.index(ar.token_ids[3]) + 1]
    assert arm("hf:generate").models[0].generation_config.eos_token_id == [0]
    assert arm("hf:generate", ignore_eos=True).models[0].generation_config.eos_token_id is None


def test_a_twin_shares_the_weights_and_leaves_ours_alone(plain):
    pipeline, ar = plain
    module = pipeline.pool.load("stories-3m").module
    other = copy_module(module, frozenset())
    assert all(a is b for a, b in zip(module.parameters(), other.parameters(), strict=True))
    assert other.config._attn_implementation == "sdpa"
    assert module.config._attn_implementation != "sdpa"
    assert module.generation_config is not other.generation_config
    assert pipeline.generate(PROMPT, max_new_tokens=40).token_ids == ar.token_ids


def test_k_reaches_the_assistant():
    module = arm("hf:assisted k=7").models[1]
    assert module.generation_config.num_assistant_tokens == 7
    assert module.generation_config.num_assistant_tokens_schedule == "constant"


def test_the_librarys_heuristic_can_be_asked_for(plain):
    _, ar = plain
    made = arm("hf:assisted k=3 schedule=heuristic")
    config = made.models[1].generation_config
    assert config.num_assistant_tokens_schedule == "heuristic_transient"
    assert config.assistant_confidence_threshold == 0.0
    request = made.run(run_record(made.pipeline), 0, ar.prompt_ids, 40, 0).request
    assert request.token_ids == ar.token_ids
    assert config.num_assistant_tokens == 3  # nothing is left for the next request
