"""The live tree of `toolkit run --watch`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import attrs
from attrs import frozen
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from toolkit.generation import label_pieces
from toolkit.nodes import list_nodes
from toolkit.runtime.models.pieces import Pieces
from toolkit.show.recording import RecordedStep
from toolkit.show.terminal import draw_legend, draw_step, draw_text
from toolkit.stream import Stream

FRAMES = 10  # a second, at most
TEXT_LINES = 6  # of the text below the tree


@frozen
class Watch:
    """Draws a request while it is decoded. Frames are painted by a thread of rich's from the newest
    event, so decoding does not wait for them; steps between two frames are not drawn."""

    decoding: Stream
    piece: Pieces
    console: Console

    @classmethod
    def of(cls, decoding: Stream) -> Watch:
        """Draw on stdout."""
        console = Console(highlight=False)
        return cls(decoding, Pieces(decoding.target.model.tokenizer), console)

    def run(self, pieces: Iterable[str]) -> None:
        """Decode to the end, or to a Ctrl-C. Where stdout is no terminal, print every step."""
        if not self.console.is_terminal:
            with suppress(KeyboardInterrupt):
                for number, _ in enumerate(pieces):
                    if (
                        0 < number < len(self.decoding.events)
                    ):  # neither prefill nor the text's rest
                        self.console.print(self._draw_step(number), "", sep="\n", soft_wrap=True)
            return
        live = Live(
            get_renderable=self._draw_frame,
            console=self.console,
            refresh_per_second=FRAMES,
            transient=True,
            vertical_overflow="crop",
        )
        with suppress(KeyboardInterrupt), live:
            for _ in pieces:
                pass

    def _draw_frame(self) -> RenderableType:
        """The newest step's tree above the end of the text."""
        count = len(self.decoding.events)
        width, height = self.console.size
        tree = self._draw_step(count - 1, height - TEXT_LINES - 4) if count else Text()
        text = draw_text(label_pieces(self.decoding.events[:count], self.piece)).wrap(
            self.console, width
        )
        limits = Text(str(self.decoding.limits), style="dim")
        return Group(tree, draw_legend(), limits, *text[-TEXT_LINES:])

    def _draw_step(self, number: int, height: int | None = None) -> Text:
        """An event's step; nothing for the prefill."""
        event = self.decoding.events[number]
        if (
            event.step is None
            or event.tree is None
            or event.verdict is None
            or event.scores is None
        ):
            return Text()
        nodes = [*list_nodes(event.tree, event.verdict, event.scores, self.piece)]
        step = RecordedStep(number - 1, nodes, attrs.asdict(event.step))
        return draw_step(step, self.console.width, height)
