"""Runs a decoder as described in `layers/`: in C where our kernels multiply, else layer by layer in
PyTorch, on any device and in any dtype.

A module that is not described, or that was changed after loading, is run by the module executor.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from attrs import define
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolkit.runtime.compute.attention import WIDE, Pass
from toolkit.runtime.compute.executors.c_decoder import CDecoder
from toolkit.runtime.compute.executors.captured import ROWS, Captured
from toolkit.runtime.compute.executors.module_structure import reason_changed
from toolkit.runtime.compute.layers import descriptions
from toolkit.runtime.compute.layers.decoder import Decoder, PassRows
from toolkit.runtime.compute.linears.linears import Linears
from toolkit.runtime.kernels import native
from toolkit.runtime.kv.slab import Slabs


@define(eq=False)
class FunctionalExecutor:
    """Runs a described decoder over rows of tokens; the cache already has room for them."""

    decoder: Decoder
    maps: Linears
    c_decoder: CDecoder | None
    captured: Captured | None = None
    batch_invariant: bool = False
    name: ClassVar[str] = "functional"

    @classmethod
    def of(
        cls, module: PreTrainedModel, windows: tuple[int | None, ...], linears: Linears
    ) -> FunctionalExecutor:
        """An executor of a module that is described."""
        config: Any = module.config
        decoder = descriptions()[config.model_type](module, windows, linears)
        in_c = CDecoder.of(decoder, linears.dtype)
        captured = None if in_c else Captured.of(decoder, linears, module.device)
        if captured is not None:
            linears.rule.largest = ROWS[-1]  # larger passes are prompts, or several graphs
        return cls(decoder, linears, in_c, captured)

    @property
    def why(self) -> str:
        """Why this executor was chosen, and how it runs."""
        return f"its family is described; {self._how}"

    @property
    def _how(self) -> str:
        if self.c_decoder is not None:
            return "whole passes run in C"
        if self.captured is None:
            return "passes run layer by layer"
        if self.failure is not None:
            return f"passes run layer by layer, because capturing failed: {self.failure}"
        return (
            f"passes of up to {ROWS[-1]} rows run as CUDA graphs, with {self.captured.attention}"
        )

    @property
    def slabs(self) -> Slabs | None:
        """Where its sessions keep K/V; None for buffers of their own."""
        return None if self.captured is None else self.captured.slabs

    @property
    def failure(self) -> str | None:
        """Why capturing its passes failed; None where it did not, or was not tried."""
        return None if self.captured is None else self.captured.failure

    @property
    def linears(self) -> str:
        """Which kernel multiplies, and for which counts of rows."""
        return self.maps.description

    def forward(self, now: Pass, keep: int = 0) -> Tensor:
        """Logits [N, V] of the pass's tokens; their K/V become the last N rows of the pass's cache.

        With `keep`, only the last `keep` rows' logits: [keep, V].
        """
        prompt = now.whole_prompt or (
            keep and len(now.host.tokens) > WIDE
        )  # PyTorch is faster there
        logits = None if self.captured is None else self.captured.forward(now, keep)
        if logits is not None:
            return logits
        if self.c_decoder is None or prompt or (kernels := native.library()) is None:
            return self._layer_by_layer(now, keep)
        return self.c_decoder.forward(kernels, now, keep)

    @torch.no_grad()
    def _layer_by_layer(self, now: Pass, keep: int) -> Tensor:
        decoder, tokens, positions = self.decoder, now.rows.tokens, now.rows.query_pos
        count = len(tokens)
        padding = self.maps.rule.padded(count) - count
        if padding:
            tokens = torch.cat([tokens, tokens[-1:].expand(padding)])
            positions = torch.cat([positions, positions[-1:].expand(padding)])
        cos_sin = {kind: table.at(positions, now.deepest) for kind, table in decoder.rotary.items()}
        rows = PassRows(now, count, cos_sin)
        x, branches = decoder.hidden(tokens, positions, rows)
        first = count - keep if keep else 0
        kept = [branch[first:] for branch in branches]
        return decoder.logits(x[first:], tuple(kept))[: count - first]


def reason_not_described(module: nn.Module) -> str | None:
    """Why no file in `layers/` describes a loaded module; None where one does."""
    config: Any = module.config
    if config.model_type not in descriptions():
        return f"no description of {config.model_type} layers"
    if getattr(config, "add_cross_attention", False):
        return "it attends to another model, too"
    if module.training:
        return "the module is in training mode"
    return reason_changed(module)
