"""Which strategies fit together, and which are taken where none is named."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from attrs import frozen

from toolkit.choice import Choice
from toolkit.errors import MismatchError
from toolkit.interfaces import Drafter, TreeShaper, Verifier
from toolkit.limits import Limits
from toolkit.logits_processing import PathProcessor
from toolkit.proposer import Proposal, Proposer
from toolkit.sampling import Sampling

if TYPE_CHECKING:
    from toolkit.registry import Registry

DRAWS: tuple[Proposal, ...] = ("sampled", "iid")  # in the order in which they are preferred


@frozen
class Default:
    """A spec that is taken where none is named, and why."""

    spec: str
    why: str


def default_drafter(target: object) -> Default:
    """The drafter for a target; None: no target is named."""
    if target is None:
        return Default("model", "no target was named: the shipped draft model")
    return Default("ngram", "a target was named, and this drafter needs no second model")


def default_verifier(sampling: Sampling) -> Default:
    """The verifier for a temperature."""
    if sampling.greedy:
        return Default("greedy", "the temperature is 0: the tokens of greedy decoding")
    return Default(
        "sampler-match",
        f"the temperature is {sampling.temperature:g}: the tokens of sampled AR with the same seed",
    )


def default_shaper(
    drafter: Choice[Drafter],
    verifier: Choice[Verifier],
    sampling: Sampling,
    *,
    graphs: bool = False,
) -> Default:
    """The shaper for a verifier and a drafter; `graphs`: whole steps of static trees may be graphs."""
    if needs_draws(drafter, verifier):
        return Default("growmap", f"verifier {verifier.cls.name} needs every drawn candidate")
    if graphs and drafter.cls.name == "model" and verifier.cls.name == "greedy":
        return Default("growmap", "its trees are static, so that a step may be one CUDA graph")
    why = "follows the drafter's confidence, and the verifier takes any tree"
    if choose_proposal(drafter, verifier, sampling) == "matched":
        return Default(
            "adaptive:stop=0.3", f"{why}; sampled drafts agree less often, so it stops sooner"
        )
    return Default("adaptive", why)


def proposals_of(drafter: Choice[Drafter]) -> frozenset[Proposal]:
    """How a drafter can choose candidates. A drafter made of drafters proposes what its first one
    does."""
    first = next((part for part in drafter.nested if part.cls.kind == "drafter"), None)
    return drafter.cls.proposals if first is None else proposals_of(first)


def find_draws(drafter: Choice[Drafter], verifier: Choice[Verifier]) -> Proposal:
    """How the drafter should choose candidates at temperatures above 0 for the verifier's proof."""
    covered = verifier.cls.assumes & proposals_of(drafter)
    drawn = [how for how in DRAWS if how in covered and verifier.cls.exactness == "distribution"]
    return drawn[0] if drawn else "fixed"


def needs_draws(drafter: Choice[Drafter], verifier: Choice[Verifier]) -> bool:
    """Whether the verifier's proof is about candidates that this drafter draws."""
    return find_draws(drafter, verifier) != "fixed"


def make_proposer(
    drafter: Choice[Drafter],
    verifier: Choice[Verifier],
    sampling: Sampling,
    seed: int,
    process: PathProcessor | None = None,
) -> Proposer:
    """What makes the drafter's candidates in the way that suits the verifier and the drafter."""
    how = choose_proposal(drafter, verifier, sampling)
    return Proposer(how, sampling, seed, process or PathProcessor())


def choose_proposal(
    drafter: Choice[Drafter], verifier: Choice[Verifier], sampling: Sampling
) -> Literal[Proposal, "matched"]:
    """How candidates are made, as `Proposer.how` has it."""
    if sampling.greedy or proposals_of(drafter) == {"fixed"}:
        return "fixed"
    return "matched" if verifier.cls.exactness == "token" else find_draws(drafter, verifier)


def require_fit(
    drafter: Choice[Drafter],
    shaper: Choice[TreeShaper],
    verifier: Choice[Verifier],
    registry: Registry,
) -> None:
    """Raise `MismatchError` unless the verifier's proof covers the drafter and the shaper."""
    gives, assumes = proposals_of(drafter), verifier.cls.assumes
    if not gives & assumes:
        raise MismatchError(
            f"cannot use verifier {verifier.cls.name!r} with drafter {drafter.cls.name!r}: the drafter "
            f"makes {', '.join(sorted(gives))} proposals, but the verifier's proof covers "
            f"only {', '.join(sorted(assumes))} ones; `--verifier sampler-match` fits any drafter"
        )
    if needs_draws(drafter, verifier) and shaper.cls.prunes:
        every: list[Any] = [registry.find("shaper", name) for name in registry.names("shaper")]
        keep = ", ".join(cls.name for cls in every if not cls.prunes)
        raise MismatchError(
            f"cannot use verifier {verifier.cls.name!r} with shaper {shaper.cls.name!r}: its proof "
            f"needs every drawn candidate, and this shaper drops some; these keep them all: {keep}; "
            f"`--verifier sampler-match` fits any shaper"
        )


def require_whole_map(shaper: Choice[TreeShaper], limits: Limits) -> None:
    """Raise `MismatchError` for a growmap, or one among several shapers, that has more nodes than the
    limits allow."""
    for part in shaper.nested:
        require_whole_map(part, limits)
    shape = shaper.build().shape if shaper.cls.name == "growmap" else None
    if shape is None:
        return
    widest = max(Counter(shape.depths).values())
    for name, most, found, where in (
        ("max_nodes", limits.max_nodes, len(shape), "root included"),
        ("max_nodes_per_level", limits.max_nodes_per_level, widest, "on its widest level"),
    ):
        if most is not None and found > most:
            raise MismatchError(
                f"{shaper} has {found} nodes, {where}, but {name}={most}: name a smaller map or plan "
                f"one (`toolkit growmap plan`), or raise the limit"
            )


def require_temperature(verifier: Choice[Verifier], sampling: Sampling) -> None:
    """Raise `MismatchError` when the verifier cannot sample."""
    if verifier.cls.exactness == "greedy" and not sampling.greedy:
        raise MismatchError(
            f"cannot use verifier {verifier.cls.name!r} at temperature {sampling.temperature:g}: it is "
            f"for temperature 0; `--verifier sampler-match` fits any temperature, and is the default; "
            f"`--temperature 0` decodes greedily"
        )
