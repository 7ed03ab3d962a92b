"""Model expansion: a small trained model as a larger one that computes the same function.

What a pass costs depends on sizes, what a drafter gets right depends on the function. Expanded, a
small model meets the cost of a large one and keeps its own acceptance. docs/expansion.md has the
method and its limits. Results from an expanded model say so by its name and by `expanded_from` in
its config.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import click
import torch
from attrs import frozen
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from toolkit import Pool, Registry, ToolkitError


@frozen
class Block:
    """Half a layer: a norm, linear layers that read the normed stream, and one that writes to it."""

    norm: str
    readers: tuple[str, ...]
    writer: str


@frozen
class Family:
    """Where a family keeps its parts, and what its config calls them."""

    embedding: str
    layers: str
    norm: str
    attention: Block
    mlp: Block
    eps: str
    centres: bool  # LayerNorm, which subtracts the mean, and not RMSNorm


_NEOX = Family(
    embedding="gpt_neox.embed_in",
    layers="gpt_neox.layers",
    norm="gpt_neox.final_layer_norm",
    attention=Block("input_layernorm", ("attention.query_key_value",), "attention.dense"),
    mlp=Block("post_attention_layernorm", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"),
    eps="layer_norm_eps",
    centres=True,
)
_LLAMA = Family(
    embedding="model.embed_tokens",
    layers="model.layers",
    norm="model.norm",
    attention=Block(
        "input_layernorm",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.o_proj",
    ),
    mlp=Block("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    eps="rms_norm_eps",
    centres=False,
)
FAMILIES = {"gpt_neox": _NEOX, "llama": _LLAMA, "mistral": _LLAMA, "qwen2": _LLAMA}


def enlarge(pool: Pool, name: str, *, width: int = 768, layers: int = 13) -> str:
    """Hold an expansion of the model `name` in the pool; returns its name there, which says so.

    The default sizes make about 100 M parameters of the shipped target. Raises `ToolkitError`.
    """
    pool.aliases |= Registry.installed().aliases
    small = pool.modules.get(name)
    if small is None:  # from the weights as they are, before any rounding to the pool's dtype
        place = cast("Any", pool.find(name)).place
        small = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    large = expand(small, width=width, layers=layers)
    for weight in large.parameters():  # not the buffers: rounded frequencies would rotate otherwise
        weight.data = weight.data.to(pool.torch_dtype or small.dtype)
    label = f"{name}-as-{round(large.num_parameters() / 1e6)}m"
    pool.modules[label] = large.to(pool.torch_device)
    return label


def expand(
    model: PreTrainedModel,
    *,
    width: int,
    layers: int | None = None,
    neurons: int | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """A model with the logits of `model` and the sizes given: same family, same head size.

    `width` is the new hidden size; heads grow with it. `layers` and `neurons` (of an MLP) stay or,
    for neurons, grow with the width when left out. Computed in float64, returned in the model's
    dtype, embeddings untied. Raises `ToolkitError` for another family or for sizes that do not fit.
    """
    family = FAMILIES.get(model.config.model_type)
    if family is None:
        raise ToolkitError(
            f"cannot expand a {model.config.model_type} model: its family must be one of "
            f"{', '.join(FAMILIES)}"
        )
    config = _config(model, family, width, layers, neurons)
    large = AutoModelForCausalLM.from_config(config, dtype=model.dtype).eval()
    large.generation_config = copy.deepcopy(model.generation_config)
    with torch.no_grad():
        _Expansion.of(model, large, family, seed).run()
    return large


def _config(
    model: PreTrainedModel, family: Family, width: int, layers: int | None, neurons: int | None
) -> Any:
    """The expanded model's config. Raises `ToolkitError`."""
    old, new = model.config, copy.deepcopy(model.config)
    heads, groups = old.num_attention_heads, _groups(old)
    head = getattr(old, "head_dim", None) or old.hidden_size // heads
    layers = old.num_hidden_layers if layers is None else layers
    neurons = old.intermediate_size * width // old.hidden_size if neurons is None else neurons
    if width <= old.hidden_size or (family.centres and width % head):
        step = f" and a multiple of the head size {head}" if family.centres else ""
        raise ToolkitError(f"width must be above the model's {old.hidden_size}{step}: got {width}")
    for what, least, got in (
        ("layers", old.num_hidden_layers, layers),
        ("neurons", old.intermediate_size, neurons),
    ):
        if got < least:
            raise ToolkitError(f"{what} must be at least the model's {least}: got {got}")
    new.hidden_size, new.num_hidden_layers, new.intermediate_size = width, layers, neurons
    if family.centres:
        new.num_attention_heads = width // head
    else:
        new.num_key_value_heads = groups * width // old.hidden_size
        new.num_attention_heads = new.num_key_value_heads * (heads // groups)
        new.head_dim = head
    if getattr(old, "layer_types", None):
        new.layer_types = [old.layer_types[i] for i in _templates(old.num_hidden_layers, layers)]
    setattr(new, family.eps, getattr(old, family.eps) * old.hidden_size / width)
    new.tie_word_embeddings = False
    new.expanded_from = (
        f"{old.num_hidden_layers} layers of width {old.hidden_size}, "
        f"{model.num_parameters() / 1e6:.1f} M parameters"
    )
    return new


def _groups(config: Any) -> int:
    """KV heads, each with its query heads: what attention can grow by."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _templates(few: int, many: int) -> list[int]:
    """For each of `many` layers, the layer of `few` that it is or is made like; in order."""
    return [index * few // many for index in range(many)]


@frozen(eq=False)
class _Expansion:
    """One expansion: x of the small model's stream is `lift` x in the large one's.

    `lift[D, d]` and `spare[D]` are columns of one orthogonal matrix. The large norms add `spare`, so
    that what reads the stream can read a constant there: the small norm's bias, through its weights.
    """

    small: PreTrainedModel
    large: PreTrainedModel
    family: Family
    rng: torch.Generator
    lift: Tensor
    spare: Tensor

    @classmethod
    def of(
        cls, small: PreTrainedModel, large: PreTrainedModel, family: Family, seed: int
    ) -> _Expansion:
        rng = torch.Generator().manual_seed(seed)
        narrow, wide = small.config.hidden_size, large.config.hidden_size
        turned = rotation(wide, family.centres, rng)
        return cls(small, large, family, rng, turned[:, :narrow], turned[:, narrow])

    def run(self) -> None:
        """Write every weight of the large model."""
        small: Any = self.small
        large: Any = self.large
        family = self.family
        table = small.get_submodule(family.embedding).weight.double()
        large.get_submodule(family.embedding).weight.copy_(self.centred(table.T).T @ self.lift.T)
        norm = small.get_submodule(family.norm)
        self.set_norm(large.get_submodule(family.norm))
        head, read = large.get_output_embeddings(), small.get_output_embeddings()
        head.weight.copy_(self.reading(read.weight.double(), norm))
        ours = small.get_submodule(family.layers)
        theirs = large.get_submodule(family.layers)
        templates = _templates(len(ours), len(theirs))
        fresh = [True, *(after != before for before, after in pairwise(templates))]
        for index, layer in enumerate(theirs):
            for block, units in (
                (family.attention, _groups(small.config)),
                (family.mlp, small.config.intermediate_size),
            ):
                self.block(ours[templates[index]], layer, block, units, fresh[index])

    def block(
        self, small: nn.Module, large: nn.Module, block: Block, units: int, copied: bool
    ) -> None:
        """Write half a layer: the small one's units (heads or neurons) if `copied`, then twins."""
        norm = small.get_submodule(block.norm)
        self.set_norm(large.get_submodule(block.norm))
        for name in block.readers:
            self.reader(_linear(small, name), _linear(large, name), norm, units, copied)
        self.writer(_linear(small, block.writer), _linear(large, block.writer), units, copied)

    def reader(
        self, small: nn.Linear, large: nn.Linear, norm: nn.Module, units: int, copied: bool
    ) -> None:
        weight = self.reading(small.weight.double(), norm)
        kept, rows = weight if copied else weight[:0], len(weight) // units
        which, _ = twins((large.out_features - len(kept)) // rows)
        made = self.noise(weight.std(), len(which.unique()), rows, large.in_features)
        large.weight.copy_(torch.cat([kept, made[which].flatten(0, 1)]))
        if small.bias is not None:
            large.bias.zero_()
            large.bias[: len(kept)] = small.bias[: len(kept)]

    def writer(self, small: nn.Linear, large: nn.Linear, units: int, copied: bool) -> None:
        weight = self.lift @ self.centred(small.weight.double())
        kept, columns = weight if copied else weight[:, :0], weight.shape[1] // units
        which, signs = twins((large.in_features - kept.shape[1]) // columns)
        made = self.noise(weight.std(), len(weight), len(which.unique()), columns)
        made = made[:, which] * signs[:, None]
        large.weight.copy_(torch.cat([kept, made.flatten(1)], 1))
        if small.bias is not None:
            large.bias.copy_(self.lift @ self.centred(small.bias.double()) * copied)

    def reading(self, weight: Tensor, norm: Any) -> Tensor:
        """A reader's weight [out, d], after a norm of the small model → [out, D]."""
        wide = weight * norm.weight.double() @ self.lift.T
        if getattr(norm, "bias", None) is not None:
            wide = wide + (weight @ norm.bias.double())[:, None] * self.spare
        return wide

    def centred(self, columns: Tensor) -> Tensor:
        """What is written to the stream [d, …], without the mean that a LayerNorm takes out."""
        return columns - columns.mean(0) if self.family.centres else columns

    def set_norm(self, norm: Any) -> None:
        """A norm of the large model: over more, mostly empty, dimensions, hence the gain."""
        narrow, wide = self.lift.shape[1], self.lift.shape[0]
        norm.weight.fill_((narrow / wide) ** 0.5)
        if getattr(norm, "bias", None) is not None:
            norm.bias.copy_(self.spare)

    def noise(self, std: Tensor, *shape: int) -> Tensor:
        """Random weights as large as the trained ones."""
        return torch.randn(shape, generator=self.rng, dtype=torch.float64) * std


def _linear(layer: nn.Module, name: str) -> nn.Linear:
    return cast("nn.Linear", layer.get_submodule(name))


def twins(count: int) -> tuple[Tensor, Tensor]:
    """Which random unit each of `count` added ones is, and the sign [count] that it writes with.

    Two of a kind write opposite things; an odd one out writes nothing.
    """
    ids = torch.arange(count)
    signs = 1.0 - 2.0 * (ids % 2)
    if count % 2:
        signs[-1] = 0.0
    return ids // 2, signs.double()


def rotation(size: int, centres: bool, rng: torch.Generator) -> Tensor:
    """A random orthogonal matrix [size, size]; with `centres`, one that fixes the all-ones vector."""
    free = size - centres
    turn = torch.eye(size, dtype=torch.float64)
    turn[-free:, -free:] = torch.linalg.qr(
        torch.randn(free, free, generator=rng, dtype=torch.float64)
    )[0]
    if not centres:
        return turn
    mirror = torch.full((size,), size**-0.5, dtype=torch.float64)
    mirror[0] -= 1.0  # reflects the first axis into the all-ones direction and back
    reflect = torch.eye(size, dtype=torch.float64) - 2 * torch.outer(mirror, mirror) / mirror.dot(
        mirror
    )
    return reflect @ turn @ reflect


@click.command()
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
def main(name: str, folder: Path) -> None:
    """Write an expansion of the model NAME to FOLDER; about 100 M parameters for the shipped target."""
    if folder.exists():
        raise click.ClickException(f"{folder} is there already: name a new folder")
    pool = Pool(device="cpu", dtype="fp32")
    pool.modules[enlarge(pool, name)].save_pretrained(folder)
    tokenizer = pool.find(name).tokenizer
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    click.echo(f"written to {folder}")


if __name__ == "__main__":
    main()
