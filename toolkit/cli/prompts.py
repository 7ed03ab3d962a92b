"""Prompts on the command line: where they are read from, and how they are sent to the model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from toolkit.errors import MismatchError, ToolkitError
from toolkit.words import quote, shorten

if TYPE_CHECKING:
    from toolkit import Pipeline
    from toolkit.prompts import Prompt

FIELDS = ("prompt", "messages")  # of a row, where no field is named
BUILT_IN_PROMPT = "Once upon a time there was a little girl who"


@frozen
class Formatting:
    """How texts are sent: as messages in the chat template, or as they are."""

    chat: bool | None  # None: as messages to instruct models
    system: str | None
    template_args: dict[str, Any]

    def __attrs_post_init__(self) -> None:
        if self.chat is False and (self.system is not None or self.template_args):
            raise ToolkitError(
                "--system and --template-arg are for the chat template, and --no-chat leaves it out: "
                "use --chat"
            )

    def encode_all(self, prompts: Sequence[Prompt], pipeline: Pipeline) -> list[list[int]]:
        """Token ids of every prompt. Raises `MismatchError` that says which of several it is about."""
        encoded: list[list[int]] = []
        for number, prompt in enumerate(prompts, 1):
            try:
                encoded.append(self.encode(prompt, pipeline))
            except MismatchError as error:
                where = f"prompt {number} of {len(prompts)}: " if len(prompts) > 1 else ""
                raise MismatchError(f"{where}{error}") from error
        return encoded

    def encode(self, prompt: Prompt, pipeline: Pipeline) -> list[int]:
        """Token ids of a text or of messages. Raises `MismatchError`."""
        if isinstance(prompt, str) and prompt and self.uses_template(pipeline):
            prompt = [*self.opening, {"role": "user", "content": prompt}]
        elif not isinstance(prompt, str):
            prompt = [*self.opening, *prompt]
        return pipeline.encode(prompt, self.template_args)

    @property
    def opening(self) -> list[dict[str, str]]:
        """The messages before the user's first one."""
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    def uses_template(self, pipeline: Pipeline) -> bool:
        """Whether texts are sent as messages."""
        if self.chat is not None:
            return self.chat
        if self.system is not None or self.template_args:
            return True
        from toolkit.prompts import is_chat_model

        return is_chat_model(pipeline.target, pipeline.pool)

    def describe(self, pipeline: Pipeline) -> str | None:
        """How texts are sent, in words; None where the model has no template and so no choice."""
        from toolkit.prompts import has_template

        if not has_template(pipeline.pool.find(pipeline.target).tokenizer):
            return None
        if self.uses_template(pipeline):
            return "as messages, in the model's chat template (--no-chat: as it is)"
        return "as it is (--chat: as messages, in the model's chat template)"


def read_prompts(argument: str | None, file: Path | None, field: str | None) -> list[Prompt]:
    """The prompts to decode: those of a .jsonl file, or one. Raises `ToolkitError`."""
    rows = argument is None and file is not None and file.suffix == ".jsonl"
    if rows and file is not None:
        return _read_rows(file, field)
    if field is not None:
        raise ToolkitError("--field names a field of a .jsonl file: give one with --prompt-file")
    return [read_prompt(argument, file)]


def _read_rows(file: Path, field: str | None) -> list[Prompt]:
    """The prompts of a file with a JSON object in each line. Raises `ToolkitError`."""
    prompts: list[Prompt] = []
    text = decode_text(file.read_bytes(), f"prompt file {file}")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                prompts.append(_prompt_of(line, field))
            except (ValueError, RecursionError) as error:
                raise ToolkitError(f"{file}, line {number}: {error}") from error
    if not prompts:
        raise ToolkitError(f"prompt file {file} is empty: put a JSON object into each line")
    return prompts


def _prompt_of(line: str, field: str | None) -> Prompt:
    """The prompt of a row: a text or a list of messages. Raises `ValueError`."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(  # noqa: TRY004 the value of the line is wrong
            f"a row is a JSON object, and this one is {shorten(line)}"
        )
    name = field or next((name for name in FIELDS if name in row), FIELDS[0])
    if name not in row:
        wanted = quote(field) if field else " or ".join(map(quote, FIELDS))
        raise ValueError(f"no field {wanted}; there are {', '.join(row)}: name one with --field")
    prompt = row[name]
    messages = isinstance(prompt, list) and all(isinstance(part, dict) for part in prompt)
    if not prompt or not (isinstance(prompt, str) or messages):
        raise ValueError(f"field {quote(name)} holds neither a text nor a list of messages")
    found: Prompt = prompt
    return found


def show_prompt(prompt: Prompt) -> str:
    """A prompt as a person sees it: its text, or the last message's."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])  # type: ignore[index]


def read_prompt(argument: str | None, file: Path | None) -> str:
    """The prompt: from the argument, the file, piped stdin, or the built-in one, in this order.

    Raises `ToolkitError`.
    """
    if argument is not None and file is not None:
        raise ToolkitError("a prompt and --prompt-file are both given: use one of them")
    if argument is not None:
        if not argument:
            raise ToolkitError("the prompt is empty: give some text, or no argument at all")
        return decode_text(argument.encode("utf-8", "surrogateescape"), "the prompt")
    if file is not None:
        text = decode_text(file.read_bytes(), f"prompt file {file}")
        if not text:
            raise ToolkitError(f"prompt file {file} is empty: put some text into it")
        return text
    if sys.stdin is None or sys.stdin.isatty():
        return BUILT_IN_PROMPT
    return decode_text(sys.stdin.buffer.read(), "the piped prompt") or BUILT_IN_PROMPT


def decode_text(data: bytes, what: str) -> str:
    """Decode UTF-8 without a byte order mark and one final line break. Raises `ToolkitError`."""
    try:
        return data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ToolkitError(
            f"{what} is not UTF-8 text (byte {error.start}): convert it first"
        ) from error
