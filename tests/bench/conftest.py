"""What the bench's tests share: a quick command, and results that nobody measured."""

import json
import random
import subprocess
import sys
from datetime import datetime

import pytest
from click.testing import CliRunner
from toolkit.bench.columns import SCHEMA_VERSION
from toolkit.bench.results import Results

from toolkit.cli import main

BEGAN = datetime.fromisoformat("2026-01-01T00:00:00")
LIAR = '''
import attrs
from toolkit import Verdict, Verifier, hookimpl

@attrs.define
class Liar(Verifier):
    """Says that whatever was drafted is right."""

    name = "liar"
    exactness = "greedy"
    assumes = frozenset({"fixed", "sampled"})

    def judge(self, tree, logits, rng):
        path = list(range(min(len(tree), 2)))
        return Verdict(path, (int(logits[path[-1]].argmax()) + 1) % logits.shape[-1])

@hookimpl
def strategies():
    return [Liar]
'''


@pytest.fixture
def toolkit():
    """The command in this process."""

    def call(*args):
        return CliRunner().invoke(main, list(map(str, args)))

    return call


COMMAND = "from toolkit.cli import main; main(prog_name='toolkit')"


@pytest.fixture
def process():
    """The command in a process of its own."""

    def start(*args):
        return subprocess.Popen(
            [sys.executable, "-P", "-c", COMMAND, *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture
def liar(tmp_path):
    """A plugin file with a verifier that breaks its promise."""
    path = tmp_path / "liar.py"
    path.write_text(LIAR)
    return path


def run_row(arm, **changes):
    """A row of `runs`."""
    options = {
        "drafter": {"name": "model"}, "shaper": {"name": "chain", "k": 5},
        "verifier": {"name": "greedy"}, "kv": {"name": "full"}, "draft_kv": {"name": "full"},
    }  # fmt: skip
    options |= changes.pop("options", {})
    row = {
        "run_id": arm, "created": BEGAN, "toolkit_version": "0",
        "toolkit_revision": None, "load_average": 0.1, "cuda": None, "gpu_driver": None,
        "executors": "{}", "python": "3", "torch": "2", "transformers": "5", "platform": "p",
        "device": "cpu", "cpu": "A Good CPU", "threads": 1, "isa": "avx2", "torch_isa": "AVX2",
        "dtype": "float32", "numerics": "fp32", "target": "t",
        "target_revision": "sha256:0", "drafter": "model", "shaper": "chain", "verifier": "greedy",
        "kv": "full", "draft_kv": "full", "temperature": 0.0, "top_k": 0, "top_p": 1.0,
        "min_p": 0.0, "logits_processors": "", "max_nodes_per_level": None, "max_nodes": None,
        "max_seconds": None,        "schema_version": SCHEMA_VERSION, "config_digest": "d",
        "plan": "arms = []\n", "arm": arm, "arm_spec": arm, "engine": "toolkit", "baseline": "ar",
        "lossless": True, "synthetic": False, "tuned": None, "options": json.dumps(options),
        "models": "{}", "datasets": "{}", "weight_bytes": 10**6, "bandwidth_bytes_per_s": 1e9,
    }  # fmt: skip
    return row | changes


def request_row(number, arm, prompt, speed, **changes):
    """A row of `requests`; `speed` in tokens per second."""
    tokens = changes.pop("tokens", 64)
    decode = 1e3 * (tokens - 1) / speed
    row = {
        "run_id": arm, "request_id": number, "prompt_id": "p", "prompt_tokens": 9, "seed": 0,
        "token_ids": list(range(tokens)), "text": "", "stop_reason": "length", "steps": tokens // 2,
        "tau": 2.0, "ttft_ms": 10.0, "decode_ms": decode, "tokens_per_s": speed,
        "tokens_per_s_end_to_end": 1e3 * tokens / (decode + 10), "tpot_ms": 1e3 / speed,
        "drafted": 90, "accepted": tokens // 2, "acceptance": 0.5, "nodes_mean": 4.0,
        "draft_share": 0.3, "verify_share": 0.6, "commit_share": 0.1, "kv_bytes": 1 << 20,
        "kv_peak_bytes": 3 << 20, "draft_kv_bytes": 0, "peak_memory_bytes": None,
        "graphs_captured": 0,
        "verdict": "exact", "ties": 0, "arm": arm, "split": "test", "dataset": "stories",
        "prompt_index": prompt, "turn": 0, "prompt_limit": 256, "max_new_tokens": 64, "round": 0,
        "place": 0, "started": BEGAN, "against_ar": None, "places": None, "first_tokens": 1,
        "wall_ms": decode + 10,
        "load": 0.01, "path_length": 1.0, "distinct_3grams": 0.9,
        "reached_by_depth": [30, 25, 22], "accepted_by_depth": [20, 10, 4],
    }  # fmt: skip
    return row | changes


@pytest.fixture
def invented():
    """`invented({arm: speed}, …)`: results of these mean speeds, prompts differing in difficulty."""

    def make(arms, prompts=12, settings=((256, 64),), options=None, noise=0.02, **changes):
        rng, rows = random.Random(0), []
        runs = [run_row(arm, options=(options or {}).get(arm, {})) for arm in arms]
        for limit, count in settings:
            for prompt in range(prompts):
                ease = rng.uniform(0.3, 3.0)
                for arm, speed in arms.items():
                    now = speed * ease * rng.uniform(1 - noise, 1 + noise)
                    where = {"prompt_limit": limit, "max_new_tokens": count}
                    rows.append(request_row(len(rows), arm, prompt, now, **where, **changes))
        return Results(runs, rows)

    return make
