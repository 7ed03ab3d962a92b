"""One step in the terminal: its tree with both models' probabilities, and the text so far."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import exp

from attrs import frozen
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from toolkit.nodes import Fate, Node
from toolkit.show.labels import SIGNS, show_piece
from toolkit.show.recording import RecordedStep
from toolkit.show.totals import find_likeliest_path, path_probabilities

CELLS = 14  # of a piece
LEAST = 20  # cells that branches and piece take at least
COLUMNS = (("q", 7), ("log q", 7), ("p", 6), ("log p", 7), ("Σ log q", 8), ("Σ log p", 8))
BAR = 10  # cells of probability 1
MEANINGS = ("q: the drafter's, ~ drawn by chance; p: the target's", "q drafter, ~ drawn; p target")
WRITER: dict[Fate, str] = {"accepted": "green", "bonus": "blue underline"}


@frozen
class Tree:
    """One step's nodes, ready to be drawn: who is below whom, and what is left out."""

    nodes: list[Node]
    children: dict[int, list[Node]]  # likeliest first by the target
    sums: dict[int, tuple[float, float]]  # log-probabilities of the path, drafter's and target's
    shown: set[int]

    @classmethod
    def of(cls, nodes: list[Node], height: int | None) -> Tree:
        """The nodes to draw in `height` lines; all without it. What is committed is always among them,
        then what the drafter finds likeliest from the root."""
        children: dict[int, list[Node]] = {node.node: [] for node in nodes}
        sums = {0: (0.0, 0.0)}
        for node in nodes[1:]:
            children[node.parent].append(node)
            q, p = sums[node.parent]
            sums[node.node] = q + (node.draft_logprob or 0.0), p + (node.target_logprob or 0.0)
        for below in children.values():
            below.sort(key=lambda node: -(node.target_logprob or 0.0))
        tree = cls(nodes, children, sums, {n.node for n in nodes})
        return tree if height is None else tree._cut(height)

    def _cut(self, height: int) -> Tree:
        chances = path_probabilities(self.nodes)
        must = {n.node for n in self.nodes if n.fate in ("root", "accepted", "bonus")}
        shown = set(must)
        rest = [n for n in self.nodes if n.node not in must]
        for node in sorted(rest, key=lambda n: (-chances[n.node], n.node)):
            if node.parent in shown and self._count({*shown, node.node}) <= height:
                shown.add(node.node)
        return Tree(self.nodes, self.children, self.sums, shown)

    def _count(self, shown: set[int]) -> int:
        """Lines of the shown nodes and of what is left out below them."""
        hiding = {n.parent for n in self.nodes[1:] if n.parent in shown and n.node not in shown}
        return len(shown) + len(hiding)

    def hidden(self, node: int) -> list[Node]:
        """Children of a node that are left out."""
        return [child for child in self.children[node] if child.node not in self.shown]


@frozen
class Columns:
    """What fits a width: cells of branches and piece, columns of numbers, and whether bars."""

    room: int
    numbers: list[tuple[str, int]]
    bars: bool

    @classmethod
    def of(cls, width: int) -> Columns:
        numbers = list(COLUMNS)
        while numbers and width - sum(size for _, size in numbers) < LEAST:
            numbers.pop()
        room = width - sum(size for _, size in numbers)
        bars = room - 2 * (BAR + 1) >= LEAST + CELLS
        return cls(room - 2 * (BAR + 1) if bars else room, numbers, bars)

    def draw_names(self) -> Text:
        """The line above the nodes."""
        meaning = next((said for said in MEANINGS if len(said) <= self.room), "")
        head = meaning.ljust(self.room) + "".join(name.rjust(size) for name, size in self.numbers)
        head += f" {'q':<{BAR}} {'p':<{BAR}}" if self.bars else ""
        return Text(head.rstrip(), style="dim")


def draw_step(step: RecordedStep, width: int, height: int | None = None) -> Text:
    """A step's figures, its likeliest path and its tree; `height` holds all."""
    tree = draw_tree(step.nodes, width, None if height is None else height - 2)
    return Text("\n").join([draw_figures(step, width), draw_likeliest(step.nodes, width), tree])


def draw_figures(step: RecordedStep, width: int) -> Text:
    """A line of figures of a step."""
    head = Text(style="bold", no_wrap=True)
    head.append(f"step {step.number}  {len(step.nodes)} nodes  {len(step.committed)} committed")
    if "length" in step.row:
        head.append(f"  L {step.row['length']}")
    for name, value in step.times.items():
        head.append(f"  {name.removesuffix('_ms')} {value:.1f}")
    head.append(" ms" if step.times else "")
    head.truncate(width, overflow="ellipsis")
    return head


def draw_likeliest(nodes: list[Node], width: int) -> Text:
    """A line for the drafted leaf whose path the drafter finds likeliest."""
    path = find_likeliest_path(nodes)
    if not path:
        return Text("nothing was drafted", style="dim")
    q, p = (
        sum(value or 0.0 for value in column)
        for column in zip(
            *((node.draft_logprob, node.target_logprob) for node in path), strict=True
        )
    )
    sums = f"  Σ log q {q:.2f}  Σ log p {p:.2f}"
    text = "".join(show_piece(node.piece) for node in path)
    room = width - len("likeliest path  ") - len(sums)
    if cell_len(text) > room:
        text = set_cell_size(text, room - 1).rstrip() + "…"
    return Text.assemble(("likeliest path  ", "dim"), text, (sums, "dim"), no_wrap=True)


def draw_tree(nodes: list[Node], width: int, height: int | None = None) -> Text:
    """A step's tree, a line for each node, siblings by the target's probability.

    With a `height`, what does not fit is counted on a line for its parent.
    """
    tree, columns = Tree.of(nodes, None if height is None else height - 1), Columns.of(width)
    lines = [columns.draw_names()]
    for lead, node in _walk(tree, 0, "", ""):
        if isinstance(node, Node):
            lines.append(draw_node(tree, node, lead, columns))
        else:
            lines.append(Text(set_cell_size(f"{lead}{_fold(node)}", width).rstrip(), style="dim"))
    return Text("\n", no_wrap=True, overflow="crop").join(lines)


def _walk(tree: Tree, node: int, lead: str, branch: str) -> Iterator[tuple[str, Node | list[Node]]]:
    """Every line's branches, and its node or the nodes that it stands for."""
    yield lead + branch, tree.nodes[node]
    lead += {"├─": "│ ", "└─": "  ", "": ""}[branch]
    below = [child for child in tree.children[node] if child.node in tree.shown]
    hidden = tree.hidden(node)
    for child in below:
        last = child is below[-1] and not hidden
        yield from _walk(tree, child.node, lead, "└─" if last else "├─")
    if hidden:
        yield lead + "└─", hidden


def draw_node(tree: Tree, node: Node, lead: str, columns: Columns) -> Text:
    """A node's line, after the branches that lead to it. A ~ marks the q of a drawn token."""
    sign, room = SIGNS[node.fate], columns.room
    if cell_len(lead) > room - LEAST // 2:  # a deep tree in a narrow terminal
        lead = "…" + lead[-(room - LEAST // 2 - 1) :]
    piece = show_piece(node.piece, min(CELLS, room - cell_len(lead) - 3))
    text = Text()
    text.append(lead, style="dim")
    text.append(f"{sign.glyph} {piece}", style=sign.style)
    text.append(" " * (room - text.cell_len))
    q, p = node.draft_logprob, node.target_logprob
    q_sum, p_sum = tree.sums[node.node]
    values = {
        "q": ("~" if node.proposal == "sampled" else "") + _probability(q),
        "log q": _log(q),
        "p": _probability(p),
        "log p": _log(p),
        "Σ log q": _log(None if q is None else q_sum),
        "Σ log p": _log(None if p is None else p_sum),
    }
    for name, size in columns.numbers:
        text.append(values[name].rjust(size))
    if columns.bars:
        text.append(f" {_bar(q):<{BAR}} ", style="dim")
        text.append(f"{_bar(p):<{BAR}}", style="blue")
    text.rstrip()
    return text


def _fold(nodes: list[Node]) -> str:
    q = sum(exp(node.draft_logprob) for node in nodes if node.draft_logprob is not None)
    p = sum(exp(node.target_logprob) for node in nodes if node.target_logprob is not None)
    return f"+ {len(nodes)} more, Σ q {q:.2f}, Σ p {p:.2f}"


def _probability(logprob: float | None) -> str:
    return "–" if logprob is None else f"{exp(logprob):.3f}"


def _log(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _bar(logprob: float | None) -> str:
    return "" if logprob is None else "█" * max(1, round(BAR * exp(logprob)))


def draw_text(tokens: Iterable[tuple[str, Fate]]) -> Text:
    """Pieces of text by who wrote them: drafted ones, and the target's own underlined."""
    text = Text()
    for piece, fate in tokens:
        text.append(piece, style=WRITER.get(fate, ""))
    return text


def draw_legend() -> Text:
    """What the signs mean, in a line."""
    text = Text()
    for fate, sign in SIGNS.items():
        text.append(f"{sign.glyph} {fate}  ", style=sign.style)
    return text
