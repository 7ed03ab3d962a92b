"""The keys of a comparison: the setting that its requests share, and what pairs them across arms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen


@frozen(order=True)
class Setting:
    """What is equal for all requests that are compared, the prompt apart."""

    dataset: str  # as given
    prompt_limit: int  # tokens that a turn is cut to
    max_new_tokens: int  # T

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Setting:
        """The setting of a row of `requests`."""
        return cls(row["dataset"], row["prompt_limit"], row["max_new_tokens"])

    @property
    def dataset_name(self) -> str:
        """The name of the data set or of its file, without the path."""
        head, _, rest = self.dataset.partition(":")
        named = rest and "/" not in head and "." not in head
        return head if named else self.dataset.rpartition("/")[2]

    @property
    def label(self) -> str:
        """The data set and T, in short."""
        return f"{self.dataset_name}, T = {self.max_new_tokens}"

    @property
    def title(self) -> str:
        """The setting in words."""
        return (
            f"{self.dataset_name}, prompts of at most {self.prompt_limit} tokens, "
            f"T = {self.max_new_tokens}"
        )


@frozen
class Key:
    """One turn of one prompt under one setting in one round: what pairs the requests of the arms."""

    setting: Setting
    prompt_index: int  # row in the data set
    turn: int
    round: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Key:
        """The key of a row of `requests`."""
        return cls(Setting.of(row), row["prompt_index"], row["turn"], row["round"])

    @property
    def prompt(self) -> str:
        """The prompt, all its settings and turns together."""
        return f"{self.setting.dataset} {self.prompt_index}"
