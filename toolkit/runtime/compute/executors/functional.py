"""A decoder as it is described in `blocks/`: in C as a whole where our kernels multiply, else step by
step in PyTorch, on any device and in any dtype.

A module that is not described, or was changed after loading, is run as it is instead.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

import torch
from attrs import define
from torch import Tensor, nn

from toolkit.runtime.compute.attention import WIDE, Pass
from toolkit.runtime.compute.executors.compiled import Compiled, compiled
from toolkit.runtime.compute.executors.linears import Linears, known
from toolkit.runtime.compute.layers.layer import Decoder, Rows
from toolkit.runtime.kernels import native
from toolkit.runtime.machine.remembered import remembered

FAMILIES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "llama",
    "qwen3": "llama",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "gpt_neox": "gpt_neox",
    "gpt2": "gpt2",
    "opt": "opt",
}  # model type → the file in blocks/ that describes it


@define(eq=False)
class FunctionalExecutor:
    """Runs a described decoder over rows of tokens; the cache has room for them already."""

    model: Decoder
    maps: Linears
    compiled: Compiled | None
    steady: bool = False
    name: ClassVar[str] = "functional"

    @property
    def why(self) -> str:
        """Why this one, and how it runs."""
        how = "step by step" if self.compiled is None else "whole passes run in C"
        return f"its family is described; {how}"

    @classmethod
    def of(
        cls, module: nn.Module, windows: tuple[int | None, ...], linears: Linears
    ) -> FunctionalExecutor:
        """An executor of a loaded module that nothing speaks against."""
        config: Any = module.config
        family = import_module(f"toolkit.runtime.compute.layers.{FAMILIES[config.model_type]}")
        decoder = family.describe(module, windows, linears)
        return cls(decoder, linears, compiled(decoder, linears.dtype))

    def settle(self, about: tuple[str, ...]) -> None:
        """Find the counts of rows at which its linears keep a row's bits, or remember them."""

        def find_out() -> dict[str, Any]:
            return {"steady": self.maps.settle(), "step": self.maps.rule.step}

        about = "rule", self.maps.kernel.name, *about
        found = remembered(about, find_out, "Comparing the bits of linears (once)")
        self.steady, self.maps.rule.step = found["steady"], found["step"]

    @property
    def linears(self) -> str:
        """Which kernel multiplies, and from which counts of rows."""
        return f"{self.maps.kernel.name}, {self.maps.rule.said}"

    def forward(self, tokens: Tensor, now: Pass, keep: int = 0) -> Tensor:
        """Logits [N, V] of `tokens[N]`; their K/V become the last N rows of the pass's cache.

        `keep` asks for the last rows' logits alone, [keep, V]; 0 for all.
        """
        prompt = now.whole_prompt or (keep and len(tokens) > WIDE)  # PyTorch is quicker there
        if self.compiled is None or prompt or (kernels := native.library()) is None:
            return self._stepwise(tokens, now, keep)
        return self.compiled.forward(kernels, tokens, now, keep)

    @torch.no_grad()
    def _stepwise(self, tokens: Tensor, now: Pass, keep: int) -> Tensor:
        model, count = self.model, len(tokens)
        padding = self.maps.rule.padded(count) - count
        positions = now.query_pos
        if padding:
            tokens = torch.cat([tokens, tokens[-1:].expand(padding)])
            positions = torch.cat([positions, positions[-1:].expand(padding)])
        rows = Rows(now, count, positions)
        rows.rotations = {
            kind: table.at(positions, now.deepest) for kind, table in model.rotations.items()
        }
        x = model.embed(tokens, positions)
        for block in model.blocks:
            x = block(x, rows)
        first = count - keep if keep else 0
        return model.logits(x[first:])[: count - first]


def against(module: nn.Module) -> str | None:
    """Why a loaded module has no functional description; None where it has one."""
    config: Any = module.config
    if config.model_type not in FAMILIES:
        return f"no description of {config.model_type} blocks"
    if getattr(config, "add_cross_attention", False):
        return "it attends to another model, too"
    if module.training:
        return "the module is in training mode"
    for name, part in module.named_modules():
        weight = getattr(part, "weight", None)
        matrix = isinstance(weight, Tensor) and weight.ndim == 2
        if matrix and not known(part) and not isinstance(part, nn.Embedding):
            return f"{name} is a {type(part).__name__}, not a plain linear"
        if part._forward_hooks or part._forward_pre_hooks:
            return f"{name or 'the module'} has hooks, which only the module itself runs"
    return None
