"""`toolkit run --explain`: which strategies are chosen, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.words import shorten

if TYPE_CHECKING:
    from toolkit.pipeline import Pipeline

DRAFTS = {
    "fixed": "the likeliest tokens",
    "matched": "the likeliest tokens after the noise with which the target draws its own token",
    "sampled": "drawn without replacement from the drafter's law",
    "iid": "drawn with replacement from the drafter's law",
}
PROMISES = {
    "greedy": "the tokens of greedy decoding",
    "token": "the tokens of AR with the same seed",
    "distribution": "not the tokens of AR, but its law",
    "lossy": "neither the tokens of AR nor its law: lossy",
}


def explain_choices(pipeline: Pipeline) -> str:
    """The specs as options of `toolkit run`, and a line on each choice."""
    from toolkit.fit import choose_proposal

    specs = pipeline.specs
    chosen = {kind: specs[kind] for kind in ("target", "drafter", "shaper", "verifier")}
    how = choose_proposal(pipeline.drafter, pipeline.verifier, pipeline.sampling)
    own = shorten(pipeline.defaults.describe(pipeline.sampling))
    lines = [
        " ".join(f"--{kind} {spec}" for kind, spec in chosen.items()),
        "",
        *(f"{kind:10}{chosen[kind]}: {why}" for kind, why in pipeline.reasons.items()),
        *([f"{'decoding':10}{own}: the target's generation config says so"] if own else []),
        f"{'drafts':10}{DRAFTS[how]}",
        f"{'output':10}{PROMISES[pipeline.verifier.cls.exactness]}",
    ]
    return "\n".join(lines)
