"""Stepping through recorded requests in the terminal, by keys or mouse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import exp
from typing import ClassVar

from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Footer, Input, Static
from textual.widgets import Tree as TreeWidget
from textual.widgets.tree import TreeNode

from toolkit.nodes import Fate, Node
from toolkit.show.labels import SIGNS, show_piece
from toolkit.show.recording import RecordedRequest, RecordedStep
from toolkit.show.terminal import (
    LEAST,
    Columns,
    Tree,
    draw_figures,
    draw_legend,
    draw_likeliest,
    draw_node,
    draw_text,
)

INDENT = 2  # cells that the widget puts before each level, and before a label


class StepTree(TreeWidget[Node]):
    """The tree of one step, a line for each node."""

    BINDINGS: ClassVar = [
        Binding("right", "app.go('next')", "step", key_display="←→", priority=True),
        Binding("left", "app.go('back')", show=False, priority=True),
        Binding("home", "app.go('first')", "first", show=False),
        Binding("end", "app.go('last')", "last", show=False),
        Binding("enter", "toggle_node", "fold"),
        Binding("tab", "app.next_request", "request", key_display="tab"),
    ]
    guide_depth = INDENT

    def show(self, step: RecordedStep, width: int) -> None:
        """Draw a step's nodes, siblings by the target's probability."""
        tree, columns = Tree.of(step.nodes, None), Columns.of(width)
        self.clear()

        def label(node: Node) -> Text:
            indent, fitting = INDENT * (node.depth + 1), columns
            if indent > columns.room - LEAST // 2:  # a deep node gives up columns
                fitting = Columns.of(max(LEAST, width - indent + LEAST // 2))
                indent = LEAST // 2
            below = draw_node(tree, node, " " * indent, fitting)[indent:]
            return below if tree.children[node.node] else Text(" " * INDENT) + below

        def add(place: TreeNode[Node], node: Node) -> None:
            for child in tree.children[node.node]:
                leaf = not tree.children[child.node]
                add(place.add(label(child), child, expand=True, allow_expand=not leaf), child)

        self.root.data = step.nodes[0]
        self.root.set_label(label(step.nodes[0]))
        add(self.root, step.nodes[0])
        self.root.expand()

    def places(self) -> Iterator[TreeNode[Node]]:
        """The tree's nodes, parents first."""
        waiting = [self.root]
        while waiting:
            yield (place := waiting.pop())
            waiting += place.children


class Browser(App[None]):
    """Steps through recorded requests by keys and mouse."""

    CSS = """
    StepTree { height: 1fr; padding: 0; scrollbar-size-vertical: 1; overflow-x: hidden; }
    #about { height: 9; border-top: solid $primary; }
    #node { width: 1fr; }
    #text { width: 1fr; padding: 0 1; }
    Input { dock: bottom; display: none; }
    """
    BINDINGS: ClassVar = [
        Binding("n", "jump('rejection')", "rejection"),
        Binding("p", "jump('whole path')", "whole"),
        Binding("f", "fold", "all"),
        Binding("slash", "ask", "find", key_display="/"),
        Binding("q", "quit", "quit"),
        Binding("escape", "cancel", show=False),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, requests: list[RecordedRequest], at: int = 0) -> None:
        super().__init__()
        self.ansi_theme_dark = SVG_EXPORT_THEME  # in which blue is blue
        self.requests, self.at = requests, at
        self.number = 0  # of the request, in the list
        self.folded = False

    @property
    def request(self) -> RecordedRequest:
        return self.requests[self.number]

    @property
    def step(self) -> RecordedStep:
        return self.request.steps[self.at]

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield StepTree("")
        yield Static(draw_legend())
        with Horizontal(id="about"):
            yield Static(id="node")
            with VerticalScroll(id="text", can_focus=False):
                yield Static(id="written")
        yield Input(placeholder="find a token")
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(StepTree).focus()
        self.call_after_refresh(self.show)

    def on_resize(self) -> None:
        self.call_after_refresh(self.show)

    def show(self, chosen: int = 0) -> None:
        """Draw the step, with the cursor on a node."""
        width = self.size.width - 1  # the scrollbar's
        title = Text(f"{self.request.title}, {len(self.request.steps)} steps", style="reverse")
        title.append(f"  {self.request.choices}", style="not reverse dim")
        title.truncate(width, overflow="ellipsis")
        head = [draw_figures(self.step, width), draw_likeliest(self.step.nodes, width)]
        names = Columns.of(width).draw_names()
        self.query_one("#title", Static).update(Text("\n").join([title, *head, names]))
        tree = self.query_one(StepTree)
        tree.show(self.step, width)
        if self.folded:
            self._fold()
        tree.call_after_refresh(self._choose, chosen)
        self.query_one("#written", Static).update(draw_text(self._written()))
        self.query_one("#text").call_after_refresh(
            self.query_one("#text").scroll_end, animate=False
        )

    def _choose(self, chosen: int) -> None:
        tree = self.query_one(StepTree)
        tree.move_cursor(next(p for p in tree.places() if p.data and p.data.node == chosen))
        self.query_one("#node", Static).update(describe_node(self.step.nodes[chosen]))

    def _written(self) -> Iterator[tuple[str, Fate]]:
        """What is committed up to and with this step."""
        steps = self.request.steps
        yield steps[0].nodes[0].piece, "bonus"
        for step in steps[: self.at + 1]:
            yield from ((node.piece, node.fate) for node in step.committed)

    def on_tree_node_highlighted(self, event: TreeWidget.NodeHighlighted[Node]) -> None:
        if event.node.data is not None:
            self.query_one("#node", Static).update(describe_node(event.node.data))

    def action_go(self, where: str) -> None:
        last = len(self.request.steps) - 1
        places = {"next": self.at + 1, "back": self.at - 1, "first": 0, "last": last}
        self.at = min(max(places[where], 0), last)
        self.show()

    def action_next_request(self) -> None:
        self.number, self.at = (self.number + 1) % len(self.requests), 0
        self.show()

    def action_jump(self, what: str) -> None:
        wanted = {"rejection": is_rejection, "whole path": is_whole}[what]
        self._jump(lambda step: 0 if wanted(step) else None, what)

    def action_fold(self) -> None:
        self.folded = not self.folded
        self.show()

    def _fold(self) -> None:
        """Fold what the step does not commit."""
        committed = {0, *(node.node for node in self.step.committed)}
        for place in self.query_one(StepTree).places():
            if place.data and place.data.node not in committed:
                place.collapse()

    def action_ask(self) -> None:
        asked = self.query_one(Input)
        asked.display = True
        asked.focus()

    def action_cancel(self) -> None:
        self.query_one(Input).display = False
        self.query_one(StepTree).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.action_cancel()
        if event.value:
            self._jump(lambda step: find_token(step, event.value), repr(event.value))

    def _jump(self, find: Callable[[RecordedStep], int | None], what: str) -> None:
        """Go to the next step, and the node in it, that `find` gives."""
        for step in self.request.steps[self.at + 1 :]:
            node = find(step)
            if node is not None:
                self.at = step.number
                self.show(node)
                return
        self.notify(f"no later step with {what}", severity="warning", markup=False)


def find_token(step: RecordedStep, text: str) -> int | None:
    """The first node whose text, as it is or as it is shown, contains `text`."""
    found = (n.node for n in step.nodes[1:] if text in n.piece or text in show_piece(n.piece))
    return next(found, None)


def is_rejection(step: RecordedStep) -> bool:
    """Whether the step drafted nodes and committed none of them."""
    return len(step.committed) == 1 < len(step.nodes) - 1


def is_whole(step: RecordedStep) -> bool:
    """Whether the step committed a path as deep as its tree."""
    deepest = max(node.depth for node in step.nodes if node.fate != "bonus")
    return len(step.committed) - 1 == deepest > 0


def describe_node(node: Node) -> Text:
    """A node in words: its token, its fate, and the target's likeliest next token."""
    sign = SIGNS[node.fate]
    text = Text.assemble(
        (f"{sign.glyph} {show_piece(node.piece)}", sign.style), f"  id {node.token}\n"
    )
    text.append(f"{node.fate}: {sign.meaning}\n")
    if node.coin is not None:
        text.append(f"accepted with probability {node.coin:.3f}\n")
    if node.target_rank is not None:
        text.append(f"target's rank {node.target_rank + 1}\n")
    if node.target_entropy is not None:
        text.append(f"after it: entropy {node.target_entropy:.2f} nats, and\n")
    following = zip(node.top_pieces, node.top_logprobs, strict=True)
    text.append("  ".join(f"{show_piece(piece, 12)} {exp(p):.2f}" for piece, p in following))
    return text


def browse(requests: list[RecordedRequest], at: int) -> None:
    """Step through requests until `q`."""
    Browser(requests, at).run()
