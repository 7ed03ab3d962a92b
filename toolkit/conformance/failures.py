"""A failing example as people read it: the prompt, the tree, and where AR and the strategy part."""

from __future__ import annotations

import io
from math import exp
from typing import Any

from rich.console import Console
from rich.tree import Tree
from torch import Tensor

from toolkit.conformance.generators import Case
from toolkit.conformance.properties import Broken
from toolkit.conformance.subject import Subject
from toolkit.engine import Event
from toolkit.errors import trace
from toolkit.stream import Stream
from toolkit.tree import TokenTree, Verdict

WIDTH = 96


def told(subject: Subject, sentence: str, example: Any, error: BaseException) -> str:
    """What failed, on what, and where; without the parts that are the same for everyone."""
    lines = [sentence + ".", "", *_message(error, subject), ""]
    if isinstance(example, Case):
        lines += _case(example, subject)
    else:
        lines += _parts(example)
    return "\n".join(lines).rstrip()


def _message(error: BaseException, subject: Subject) -> list[str]:
    """The error's own words; for one that is not ours, the author's frames too."""
    text = str(error).partition(", in ")[0] if isinstance(error, Broken) else ""
    return [text] if text else trace(error, subject.choice.cls.__module__).splitlines()


def _case(case: Case, subject: Subject) -> list[str]:
    """The case's choices, and the step at which its tokens part from AR's, if they do."""
    lines = [
        f"prompt      {' '.join(map(str, case.prompt))}",
        f"model       {case.family} {case.seed}, tiny, float64; stop ids "
        f"{' '.join(map(str, case.stops)) or 'none'}",
        f"drafter     {case.drafter}, noise {case.noise}, under {case.draft_kv}",
        f"shaper      {case.shaper}",
        f"verifier    {case.verifier}",
        f"kv          {case.kv}",
        f"new tokens  {case.max_new_tokens} at most",
    ]
    try:
        return [*lines, "", *_parting(case, subject)]
    except Exception:  # noqa: BLE001 the failure is told; it may be one that leaves nothing to draw
        return lines


def _parting(case: Case, subject: Subject) -> list[str]:
    ours, ar = _decoded(case, subject, speculating=True), _decoded(case, subject, speculating=False)
    mine, wanted = _tokens(ours.events), _tokens(ar.events)
    at = _first_difference(mine, wanted)
    lines = [f"ours        {_row(mine, at)}", f"AR          {_row(wanted, at)}"]
    drafted = [event for event in ours.events if event.tree is not None]
    if at is None:
        return [*lines, "", *(_step(drafted[-1], "last step") if drafted else [])]
    said = wanted[at] if at < len(wanted) else "the end"
    emitted = 0
    for number, event in enumerate(ours.events):
        emitted += len(event.tokens)
        if emitted > at or event is ours.events[-1]:
            where = f"step {number}, where they part at token {at}: AR says {said}"
            return [*lines, "", *_step(event, where)]
    return lines


def _decoded(case: Case, subject: Subject, *, speculating: bool) -> Stream:
    """The case decoded, as far as it goes."""
    pipeline = case.pipeline(subject.registry)
    pipeline = pipeline if speculating else pipeline.autoregressive
    stream = pipeline.stream(case.prompt, max_new_tokens=case.max_new_tokens)
    for _ in stream.decode():
        pass
    return stream


def _tokens(events: list[Event]) -> list[int]:
    return [token for event in events for token in event.tokens]


def _first_difference(ours: list[int], theirs: list[int]) -> int | None:
    if ours == theirs:
        return None
    both = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(both) if a != b), min(len(ours), len(theirs)))


def _row(tokens: list[int], at: int | None) -> str:
    """Tokens in a row, the one where they part in brackets."""
    shown = [f"[{token}]" if index == at else str(token) for index, token in enumerate(tokens)]
    return " ".join(shown[: None if at is None else at + 4])


def _step(event: Event, title: str) -> list[str]:
    return [title, *([drawn(event.tree, event.verdict)] if event.tree is not None else [])]


def drawn(tree: TokenTree, verdict: Verdict | None = None) -> str:
    """A token tree in text: node, token and probability; accepted nodes ticked."""
    path = set(verdict.path) if verdict else set()
    branches: list[Tree] = []
    for node, parent in enumerate(tree.parents):
        label = f"{tree.tokens[node]}"
        if node:
            label += f"  p {exp(tree.logprobs[node]):.2g}"
        if node in path and node:
            label += "  accepted"
        if verdict is not None and path and node == max(path):
            label += f"  then {verdict.bonus}"
        branches.append(branches[parent].add(label) if node else Tree(f"root {label}"))
    out = io.StringIO()
    Console(file=out, width=WIDTH, color_system=None, markup=False).print(branches[0])
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _parts(example: Any) -> list[str]:
    """An example of one part, piece by piece."""
    pieces = example if isinstance(example, (tuple, list)) else [example]
    return ["tried on:", *(line for piece in pieces for line in _shown(piece))]


def _shown(piece: Any) -> list[str]:
    match piece:
        case TokenTree():
            return drawn(piece).splitlines()
        case Tensor():
            return [f"logits after node {i}: {row}" for i, row in enumerate(piece.tolist())]
        case (TokenTree() as tree, list() as path):
            return [*_shown(tree), f"committed path: nodes {path}"]
        case [*parts] if any(map(_drawable, parts)):
            return [line for part in parts for line in _shown(part)]
        case tuple() if piece and all(isinstance(p, int) for p in piece):
            return [f"prompt {' '.join(map(str, piece))}"]
    return [str(piece)]


def _drawable(piece: Any) -> bool:
    """Whether a piece is, or begins with, a tree or logits."""
    first = piece[0] if isinstance(piece, tuple) and piece else piece
    return isinstance(first, (TokenTree, Tensor))
