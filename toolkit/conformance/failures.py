"""Describe a failing example: the prompt, the tree, and where the tokens differ from AR's."""

from __future__ import annotations

import io
import random
from math import exp
from typing import Any

from rich.console import Console
from rich.tree import Tree
from torch import Tensor

from toolkit.choice import Kind
from toolkit.conformance.cases import Case
from toolkit.conformance.comparison import GLOBAL_RANDOM, Broken
from toolkit.conformance.properties.decoding import decode
from toolkit.conformance.under_test import UnderTest
from toolkit.engine import Event
from toolkit.errors import format_trace
from toolkit.sampling import Sampler
from toolkit.tree import TokenTree, Verdict

WIDTH = 96
ADVICE: dict[Kind, str] = {  # where a strategy may take random numbers from
    "drafter": "draw from a generator of your own, seeded by committed tokens",
    "shaper": "draw from a generator of your own, made for each request with a fixed seed",
    "verifier": "draw from the `sampler` that `judge` is given",
    "kv": "draw from a generator made at each call and seeded by what the call is given",
    "scorer": "draw from a generator made at each call and seeded by what the call is given",
    "policy": "use the `draw` that `stop` is given",
}


def describe_failure(subject: UnderTest, sentence: str, example: Any, error: BaseException) -> str:
    """Describe what failed, on which example, and where."""
    lines = [sentence + ".", "", *_message(error, subject), ""]
    if isinstance(example, Case):
        lines += _case(example, subject)
    else:
        lines += _pieces(example)
    return "\n".join(lines).rstrip()


def _message(error: BaseException, subject: UnderTest) -> list[str]:
    """The message of the error; for an exception of the strategy, also the author's stack frames."""
    text = str(error).partition(", in ")[0] if isinstance(error, Broken) else ""
    if text == GLOBAL_RANDOM:
        text += f": {ADVICE[subject.kind]}"
    return [text] if text else format_trace(error, subject.choice.cls.__module__).splitlines()


def _case(case: Case, subject: UnderTest) -> list[str]:
    """The choices of a case, and the step at which its tokens first differ from AR's, if any."""
    lines = [
        f"prompt      {' '.join(map(str, case.prompt))}",
        f"model       {case.family} {case.seed}, tiny, float64; stop ids "
        f"{' '.join(map(str, case.stops)) or 'none'}",
        f"drafter     {case.drafter}, noise {case.noise}, under {case.draft_kv}",
        f"shaper      {case.shaper}",
        f"verifier    {case.verifier}",
        f"sampling    {case.sampling}, seed {case.sampling_seed}",
        f"kv          {case.kv}",
        f"new tokens  {case.max_new_tokens} at most",
    ]
    try:
        return [*lines, "", *_difference(case, subject)]
    except Exception:  # noqa: BLE001 the strategy may fail before there is a tree to draw
        return lines


def _difference(case: Case, subject: UnderTest) -> list[str]:
    pipeline = case.pipeline(subject.registry)
    ours, ar = decode(pipeline, case), decode(pipeline.autoregressive, case)
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
            where = f"step {number}, where token {at} differs: AR says {said}"
            return [*lines, "", *_step(event, where)]
    return lines


def _tokens(events: list[Event]) -> list[int]:
    return [token for event in events for token in event.tokens]


def _first_difference(ours: list[int], theirs: list[int]) -> int | None:
    if ours == theirs:
        return None
    both = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(both) if a != b), min(len(ours), len(theirs)))


def _row(tokens: list[int], at: int | None) -> str:
    """Tokens in a row, with the first one that differs in brackets."""
    shown = [f"[{token}]" if index == at else str(token) for index, token in enumerate(tokens)]
    return " ".join(shown[: None if at is None else at + 4])


def _step(event: Event, title: str) -> list[str]:
    return [title, *([draw_tree(event.tree, event.verdict)] if event.tree is not None else [])]


def draw_tree(tree: TokenTree, verdict: Verdict | None = None) -> str:
    """Draw a token tree as text: tokens and probabilities, accepted nodes marked."""
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


def _pieces(example: Any) -> list[str]:
    """An example of a single strategy, piece by piece."""
    pieces = example if isinstance(example, (tuple, list)) else [example]
    return ["tried on:", *(line for piece in pieces for line in _format_piece(piece))]


def _format_piece(piece: Any) -> list[str]:
    match piece:
        case TokenTree():
            return draw_tree(piece).splitlines()
        case Tensor():
            return [f"logits after node {i}: {row}" for i, row in enumerate(piece.tolist())]
        case (TokenTree() as tree, list() as path):
            return [*_format_piece(tree), f"committed path: nodes {path}"]
        case Sampler():
            return [f"sampling {piece.sampling}, seed {piece.seed}, position {piece.position}"]
        case random.Random():  # it chose an order, which the message shows
            return []
        case [*pieces] if any(map(_drawable, pieces)):
            return [line for one in pieces for line in _format_piece(one)]
        case tuple() if piece and all(isinstance(p, int) for p in piece):
            return [f"prompt {' '.join(map(str, piece))}"]
    return [str(piece)]


def _drawable(piece: Any) -> bool:
    """Whether a piece is a tree or logits, or begins with one."""
    first = piece[0] if isinstance(piece, tuple) and piece else piece
    return isinstance(first, (TokenTree, Tensor))
