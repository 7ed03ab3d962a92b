"""Chat: a conversation of several turns with the target of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import define, field

from toolkit.prompts import Message

if TYPE_CHECKING:
    from toolkit.pipeline import Pipeline
    from toolkit.stream import Stream


@define(eq=False)
class Chat:
    """A conversation with a pipeline's target, in its chat template.

    The target keeps its KV between turns and forwards only what a turn's prompt does not share with
    the turn before. Each answer has the tokens that a new request with the whole conversation gives.
    """

    pipeline: Pipeline
    system: str | None = None
    template_args: Mapping[str, Any] = field(factory=dict)
    _said: list[Message] = field(factory=list, init=False)  # up to the last turn's question
    _last: Stream | None = field(default=None, init=False)

    @property
    def messages(self) -> list[Message]:
        """The messages so far, the last answer included."""
        if self._last is None:
            first = [] if self.system is None else [{"role": "system", "content": self.system}]
            return [*first, *self._said]
        return [*self._said, {"role": "assistant", "content": self._last.result.text}]

    def ask(self, text: str, **request: Any) -> Stream:
        """Add a user message; iterate over the returned stream for the answer.

        `request` are options of `Pipeline.stream`. An answer that is interrupted is kept as far as it
        came. Raises `MismatchError`, and adds no message, when the conversation does not fit the
        target.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self.pipeline.encode(messages, self.template_args)
        stream = self.pipeline.stream(ids, after=self._last, **request)
        self._said, self._last = messages, stream
        return stream
