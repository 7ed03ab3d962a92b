"""One case of the fuzzer: a tiny model, a pipeline, its requests, and what each of them must give.

With the full cache in fp64 and fp32, that is what transformers' `generate` gives on a module of its
own. Elsewhere it is what our AR gives. A failing case becomes a script that starts with this file.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import attrs
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from toolkit import Generation, Pipeline, Pool, Registry, ToolkitError, verify
from toolkit.conformance.cases import KINDS
from toolkit.conformance.models import COSTS, DRAFT_MODEL, EXACT_MODEL, fresh
from toolkit.runtime.kernels import native

REGISTRY = Registry.installed()
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}


@attrs.frozen
class Request:
    """A prompt, how much to decode, and PyTorch's count of threads meanwhile."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    threads: int = 1


@attrs.frozen
class Case:
    """A pipeline over tiny models and the requests that go through it, one after the other.

    The defaults are the simplest values; a failing case is shrunk towards them. `sabotage` names a
    bug of the conformance kit's gallery.
    """

    requests: tuple[Request, ...]
    family: str = "llama"
    seed: int = 0
    noise: float = 0.02
    stops: tuple[int, ...] = ()
    dtype: str = "fp64"
    executor: str = "auto"
    kernels: bool = True
    drafter: str = "model:noisy"
    shaper: str = "chain"
    verifier: str = "greedy"
    kv: str = "full"
    draft_kv: str = "full"
    sabotage: str = ""


@attrs.frozen
class Result:
    """What came of a request: `exact`, `tie`, `nothing drafted`, `refused` or `failed`.

    `why` is a kind of reason, a colon, and details.
    """

    outcome: str
    why: str = ""
    generation: Generation | None = None

    @property
    def kind(self) -> str:
        return self.why.partition(":")[0]


def results(case: Case) -> list[Result]:
    """What comes of each request; those of a case that is refused are all refused."""
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.enter_context(native.using("best" if case.kernels else None))
        specs = {kind: getattr(case, kind) for kind in (*KINDS, "draft_kv")}
        if case.sabotage:
            from saboteurs import GALLERY  # only a checkout has it

            bug = next(bug for bug in GALLERY if bug.name == case.sabotage)
            stack.enter_context(bug.context())
            if not isinstance(bug.subject, str):
                specs[bug.subject.kind] = bug.subject
        try:
            pipeline = _pipeline(case, specs)
        except ToolkitError as error:
            return [Result("refused", _said(error))] * len(case.requests)
        theirs = _untouched(case)
        return [_result(case, pipeline, theirs, request) for request in case.requests]


def _pipeline(case: Case, specs: dict[str, Any]) -> Pipeline:
    drafters = {DRAFT_MODEL: _model(case, case.noise), EXACT_MODEL: _model(case)}
    pool = Pool(modules=drafters, costs=COSTS, executor=case.executor)
    return Pipeline(_model(case), **specs, pool=pool, registry=REGISTRY)


def _untouched(case: Case) -> PreTrainedModel:
    """A module that no pipeline has seen, for transformers' own greedy decoding."""
    model = _model(case)
    # Gemma 2 caps attention logits, which transformers does under "eager" alone.
    model.set_attn_implementation("eager" if case.family == "gemma2" else "sdpa")
    model.generation_config = GenerationConfig(
        eos_token_id=list(case.stops) or None, pad_token_id=0, do_sample=False
    )
    return model


def _model(case: Case, noise: float = 0.0) -> PreTrainedModel:
    """A module that nobody else holds, with noise on its weights."""
    model = fresh(case.family, case.seed, case.stops)
    rng = torch.Generator().manual_seed(case.seed + 1)
    for weight in model.parameters() if noise else ():
        if weight.ndim >= 2:
            weight.data += noise * torch.randn(weight.shape, generator=rng, dtype=torch.double)
    return model.to(DTYPES[case.dtype])


def _result(case: Case, pipeline: Pipeline, theirs: PreTrainedModel, request: Request) -> Result:
    torch.set_num_threads(request.threads)
    try:
        ours = pipeline.generate(request.prompt, max_new_tokens=request.max_new_tokens)
        torch.set_num_threads(1)
        if case.kv == "full" and case.dtype != "bf16":
            return _against_generate(case, theirs, request, ours)
        return _against_ar(case, pipeline, ours)
    except Exception as error:  # noqa: BLE001 whatever a bug may raise
        return Result("failed", _said(error))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _against_ar(case: Case, pipeline: Pipeline, ours: Generation) -> Result:
    if case.dtype == "bf16" and ours.numerics != "bitwise":
        return Result("refused", f"bf16 at level {ours.numerics}: compared at bitwise only")
    found = verify(pipeline, ours)
    if found.verdict == "inconclusive":
        return Result("nothing drafted", generation=ours)
    if found.verdict == "exact":
        return Result("exact", generation=ours)
    return Result("failed", f"other tokens: {found}, at level {ours.numerics}", ours)


def _against_generate(
    case: Case, theirs: PreTrainedModel, request: Request, ours: Generation
) -> Result:
    ids, tokens = torch.tensor([request.prompt]), ours.token_ids
    wanted = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=request.max_new_tokens
    )[0, ids.shape[1] :].tolist()
    if tokens == wanted:
        return Result("exact", generation=ours)
    if _ended(case, request, tokens) and _within_rounding(theirs, request, tokens):
        return Result("tie", generation=ours)
    return Result("failed", f"other tokens: {tokens}, and generate gives {wanted}", ours)


def _ended(case: Case, request: Request, tokens: list[int]) -> bool:
    """Whether tokens end where they should: at the first stop id, or at the length asked for."""
    stopped = [token in case.stops for token in tokens]
    return not any(stopped[:-1]) and (stopped[-1] or len(tokens) == request.max_new_tokens)


@torch.no_grad()
def _within_rounding(theirs: PreTrainedModel, request: Request, tokens: list[int]) -> bool:
    """Whether rounding decides between each of these tokens and the best one.

    Two implementations may each be off on each of two logits. By how much is measured: the module's
    logits in float32 against those in float64. It is the same for a float64 model, as transformers
    computes norms in float32.
    """
    ids = torch.tensor([[*request.prompt, *tokens[:-1]]])
    exact, rounded = (_logits(theirs, ids, dtype) for dtype in (torch.float64, torch.float32))
    exact, rounded = exact[-len(tokens) :], rounded[-len(tokens) :]
    off = (exact - rounded).abs().amax(1)
    gap = exact.amax(1) - exact[torch.arange(len(tokens)), tokens]
    return bool((gap <= 4 * off).all())


def _logits(model: PreTrainedModel, ids: Tensor, dtype: torch.dtype) -> Tensor:
    logits: Tensor = copy.deepcopy(model).to(dtype)(ids).logits[0]
    return logits.double()


def main(case: Case) -> int:
    """Say what comes of each request; 1 when one fails."""
    found = results(case)
    for number, result in enumerate(found):
        print(f"request {number}: {result.outcome}", *filter(None, [result.why]), sep=", ")
    return int(any(result.outcome == "failed" for result in found))
