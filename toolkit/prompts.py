"""Prompts: a text, a conversation or token ids, encoded as token ids by the model's tokenizer."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from toolkit.errors import MismatchError

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.runtime.models.pool import Pool

Message: TypeAlias = Mapping[str, Any]
"""One message of a conversation: `role` (system, user, assistant) and `content`, its text."""
Prompt: TypeAlias = "str | Sequence[int] | Tensor | Sequence[Message]"
"""A text, token ids [P], or a conversation, which is formatted by the model's chat template."""

INSTRUCT = re.compile(
    r"(?<![a-z])(instruct|chat|assistant|it|sft|dpo|rlhf)(?![a-z])", re.IGNORECASE
)
BASE = re.compile(r"(?<![a-z])(base|pt)(?![a-z])", re.IGNORECASE)
INSTRUCT_TEMPLATE = re.compile(r"instruct|\[INST\]|enable_thinking|<think>", re.IGNORECASE)
LINE = 200  # most characters quoted of another library's error


class Speaker(Protocol):
    """What encoding needs of a model, loaded or not."""

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def vocabulary(self) -> int: ...


def encode_prompt(
    prompt: Prompt, model: Speaker, template_args: Mapping[str, Any] | None = None
) -> list[int]:
    """Token ids [P] of a prompt for a target. `template_args` are variables of its chat template.

    Raises `MismatchError` when the prompt is empty or not one of the three kinds, when it holds ids
    that the model does not know, and when the model has no tokenizer or chat template for it.
    """
    if isinstance(prompt, str):
        if model.tokenizer is None:
            raise MismatchError(f"target {model.name!r} has no tokenizer: give token ids")
        if not prompt:
            raise MismatchError("the prompt is empty: give at least one character")
        ids = encode_text(prompt, model.tokenizer)
    elif _is_conversation(prompt):
        ids = encode_messages(prompt, model.tokenizer, template_args)  # type: ignore[arg-type]
    else:
        ids = _listed(prompt)
    if not ids:
        raise MismatchError("the prompt is empty: give at least one token")
    unknown = [token for token in ids if not 0 <= token < model.vocabulary]
    if unknown:
        raise MismatchError(
            f"a prompt has ids from 0 to {model.vocabulary - 1}, the vocabulary of target "
            f"{model.name!r}; this one holds {unknown[:3]}"
        )
    return ids


def encode_text(text: str, tokenizer: Any) -> list[int]:
    """Token ids of a text. A text that begins with the begin-of-sequence token itself, as one that a
    chat template has made, does not get a second one."""
    ids: list[int] = tokenizer(text).input_ids
    first = tokenizer.bos_token_id
    doubled = first is not None and ids[:2] == [first, first]
    return ids[1:] if doubled and text.startswith(tokenizer.bos_token) else ids


def encode_messages(
    messages: Sequence[Message], tokenizer: Any, template_args: Mapping[str, Any] | None = None
) -> list[int]:
    """Token ids of a conversation in the tokenizer's chat template, up to where the answer begins.

    The template writes the special tokens, so the tokenizer adds none. Raises `MismatchError` when
    there is no template, or when the template rejects the messages.
    """
    if not has_template(tokenizer):
        raise MismatchError(
            "the target has no chat template, so it cannot read messages: give the prompt as a text"
        )
    args = dict(template_args or {})
    taken = set(inspect.signature(tokenizer.apply_chat_template).parameters) & set(args)
    if taken:
        raise MismatchError(
            f"{sorted(taken)[0]!r} is no variable of a chat template, but an option of transformers: "
            f"leave it out"
        )
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise MismatchError(
                f"message {number} of the conversation is no message: expected "
                f'{{"role": "user", "content": "…"}}, got {str(message)[:LINE]}'
            )
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=True,
            return_dict=False,
            **args,
        )
    except Exception as error:  # whatever a template can raise
        raise MismatchError(
            f"the target's chat template rejects the messages: {str(error)[:LINE]}"
        ) from error
    return ids


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def is_chat_model(name: str, pool: Pool) -> bool:
    """Whether questions to a model of a pool are sent as messages, where the user does not say: it has
    a chat template, and its name, the end of its folder or hub id, or the template says that it is an
    instruct model. Base models often have a template too, which they were not trained on."""
    model: Speaker = pool.find(name)
    if not has_template(model.tokenizer):
        return False
    names = f"{Path(model.name).name} {Path(pool.origin(name)).name}"
    if BASE.search(names):
        return False
    template = str(model.tokenizer.chat_template)
    return bool(INSTRUCT.search(names) or INSTRUCT_TEMPLATE.search(template))


def _is_conversation(prompt: Any) -> bool:
    """Whether a prompt is a list of messages. Raises `MismatchError` for a single message or a list of
    texts."""
    if isinstance(prompt, Mapping):
        raise MismatchError("a conversation is a list of messages: put this one into a list")
    if not isinstance(prompt, (list, tuple)):
        return False
    kinds = {str if isinstance(part, str) else type(part) for part in prompt}
    if str in kinds:
        raise MismatchError(
            f"a prompt is one text, and this is a list with {len(prompt)} entries: decode them one by "
            f"one, or join them"
        )
    return any(issubclass(kind, Mapping) for kind in kinds)


def _listed(prompt: Any) -> list[int]:
    """Token ids that were given as such. Raises `MismatchError` unless they are one row of whole
    numbers."""
    import torch

    try:
        ids = torch.as_tensor(prompt).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise MismatchError(
            f"a prompt is a text, a list of messages or one row of token ids, not "
            f"{type(prompt).__name__} ({str(error)[:LINE]})"
        ) from error
    if ids.ndim != 1 or (ids.numel() and (ids.is_floating_point() or ids.is_complex())):
        raise MismatchError(
            f"token ids are one row of whole numbers; these have shape {list(ids.shape)} and dtype "
            f"{str(ids.dtype).removeprefix('torch.')}"
        )
    known: list[int] = ids.tolist()
    return known
