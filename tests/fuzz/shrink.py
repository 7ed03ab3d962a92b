"""A failing case made small: fewer and shorter requests, defaults for whatever does not matter."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import attrs
from case import REGISTRY, Case, Request, results

from toolkit.conformance.cases import KINDS

SECONDS = 60.0
SHORT = (1, 2, 4)  # tokens of the prompts that are tried first


def shrunk(case: Case, kind: str, seconds: float = SECONDS) -> Case:
    """The smallest case found that fails for the same kind of reason."""
    until = monotonic() + seconds
    while found := next((c for c in simpler(case) if fails(c, kind, until)), None):
        case = found
    return case


def fails(case: Case, kind: str, until: float) -> bool:
    """Whether some request fails for a kind of reason; when time is up, none does."""
    return monotonic() < until and any(
        result.outcome == "failed" and result.kind == kind for result in results(case)
    )


def simpler(case: Case) -> Iterator[Case]:
    """Cases that are one step simpler, those that leave most away first."""
    for index in range(len(case.requests) if len(case.requests) > 1 else 0):
        yield _replaced(case, index)
    for field in attrs.fields(Case):
        if field.default not in (attrs.NOTHING, getattr(case, field.name)):
            yield attrs.evolve(case, **{field.name: field.default})
    for field in (*KINDS, "draft_kv"):
        for spec in _fewer_options(field.removeprefix("draft_"), getattr(case, field)):
            yield attrs.evolve(case, **{field: spec})
    for index, request in enumerate(case.requests):
        for smaller in _shorter(request):
            yield _replaced(case, index, smaller)


def _replaced(case: Case, index: int, *by: Request) -> Case:
    requests = case.requests
    return attrs.evolve(case, requests=(*requests[:index], *by, *requests[index + 1 :]))


def _fewer_options(kind: str, spec: str) -> Iterator[str]:
    choice = REGISTRY.resolve(kind, spec)
    for option in choice.options:
        rest = tuple(other for other in choice.options if other != option)
        yield str(attrs.evolve(choice, options=rest))


def _shorter(request: Request) -> Iterator[Request]:
    prompt, tokens = request.prompt, request.max_new_tokens
    if request.threads > 1:
        yield attrs.evolve(request, threads=1)
    for count in dict.fromkeys((tokens // 2, tokens - 1)):
        if count:
            yield attrs.evolve(request, max_new_tokens=count)
    for count in (*SHORT, len(prompt) // 2, len(prompt) - 1):
        if 0 < count < len(prompt):
            yield attrs.evolve(request, prompt=prompt[:count])
            yield attrs.evolve(request, prompt=prompt[-count:])
