"""Recorded answers without models."""

import hashlib

import numpy as np
import pytest
from toolkit.cascade.answers import Answer
from toolkit.cascade.study import Study, list_fitted_policies

from toolkit import Registry


def record(prompts=160, stages=3, seed=0, certain=0.9):
    """Answers of stages of rising skill and cost; log-probabilities say which answers are good."""
    rng, rows = np.random.default_rng(seed), []
    skills, costs = np.linspace(0.45, 0.85, stages), np.geomspace(1, 10, stages)
    for prompt in range(prompts):
        name, hard = hashlib.sha256(str(prompt).encode()).hexdigest()[:16], rng.random()
        for stage in range(stages):
            good = hard < skills[stage]
            known = good if rng.random() < certain else rng.random() < 0.5
            logprobs = [-abs(rng.normal(0.1 if known else 1.0, 0.3)) for _ in range(4)]
            rows.append(
                Answer(
                    prompt_id=name, stage=stage, name=f"model-{stage} drafter=ngram", text="x",
                    prompt_tokens=9, tokens=4, seconds=costs[stage] * (0.8 + 0.4 * rng.random()),
                    flops=1.0, bytes=1.0, logprobs=logprobs, margins=[-x for x in logprobs],
                    quality=float(good),
                )
            )  # fmt: skip
    return rows


@pytest.fixture(scope="session", name="record")
def _record():
    return record


@pytest.fixture(scope="session")
def make_study():
    """A study of all registered policies."""
    policies = list_fitted_policies(Registry.installed())
    return lambda answers, scorer: Study.of(answers, scorer, policies)
