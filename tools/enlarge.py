"""Enlarge a small trained model: a larger one that computes the same function.

    python tools/enlarge.py stories-11m FOLDER

The cost of a pass depends on a model's sizes, acceptance on the function that it computes. The
enlarged model has the cost of a large one and the acceptance of the small one. Its config says
`enlarged_from`. docs/enlarge.md has the method and its limits.
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
class Sublayer:
    """Attention or MLP: a norm, linear layers that read the normed stream, one that writes to it."""

    norm: str
    readers: tuple[str, ...]
    writer: str


@frozen
class Architecture:
    """The module paths of a family of models, and the names in its config."""

    embedding: str
    layers: str
    norm: str
    attention: Sublayer
    mlp: Sublayer
    eps: str
    centres: bool  # LayerNorm subtracts the mean, RMSNorm does not


_NEOX = Architecture(
    embedding="gpt_neox.embed_in",
    layers="gpt_neox.layers",
    norm="gpt_neox.final_layer_norm",
    attention=Sublayer("input_layernorm", ("attention.query_key_value",), "attention.dense"),
    mlp=Sublayer("post_attention_layernorm", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"),
    eps="layer_norm_eps",
    centres=True,
)
_LLAMA = Architecture(
    embedding="model.embed_tokens",
    layers="model.layers",
    norm="model.norm",
    attention=Sublayer(
        "input_layernorm",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.o_proj",
    ),
    mlp=Sublayer("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    eps="rms_norm_eps",
    centres=False,
)
UNLIKELY = -30.0  # logit of an added token
ARCHITECTURES = {"gpt_neox": _NEOX, "llama": _LLAMA, "mistral": _LLAMA, "qwen2": _LLAMA}


def enlarge(
    model: PreTrainedModel,
    *,
    width: int,
    layers: int | None = None,
    neurons: int | None = None,
    vocabulary: int | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """Build a model of the given sizes with the logits of `model`: same family, same head size.

    `width`: the new hidden size; the number of heads grows with it. `layers`: as many as before by
    default. `neurons` of an MLP: in proportion to the width by default. `vocabulary`: the added tokens
    are never likely; for families whose norms have a bias. The result is computed in float64 on the
    model's device and has its dtype; its embeddings are untied. Raises `ToolkitError` for an
    unsupported family and for sizes that do not fit.
    """
    family = ARCHITECTURES.get(model.config.model_type)
    if family is None:
        raise ToolkitError(
            f"cannot enlarge a {model.config.model_type} model: its family must be one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    config = _enlarge_config(model, family, width, layers, neurons, vocabulary)
    with torch.no_grad(), model.device:
        large = AutoModelForCausalLM.from_config(config, dtype=model.dtype).eval()
        _Enlargement.of(model, large, family, seed).write_weights()
    large.generation_config = copy.deepcopy(model.generation_config)
    return large


def _enlarge_config(
    model: PreTrainedModel,
    family: Architecture,
    width: int,
    layers: int | None,
    neurons: int | None,
    vocabulary: int | None,
) -> Any:
    """The enlarged model's config. Raises `ToolkitError`."""
    old, new = model.config, copy.deepcopy(model.config)
    heads, groups = old.num_attention_heads, _groups(old)
    head = getattr(old, "head_dim", None) or old.hidden_size // heads
    layers = old.num_hidden_layers if layers is None else layers
    neurons = old.intermediate_size * width // old.hidden_size if neurons is None else neurons
    if width <= old.hidden_size or (family.centres and width % head):
        step = f" and a multiple of the head size {head}" if family.centres else ""
        raise ToolkitError(f"width must be above the model's {old.hidden_size}{step}: got {width}")
    vocabulary = old.vocab_size if vocabulary is None else vocabulary
    if vocabulary > old.vocab_size and not family.centres:
        raise ToolkitError(
            f"cannot enlarge the vocabulary of a {old.model_type} model: its norms have no bias"
        )
    for what, least, got in (
        ("layers", old.num_hidden_layers, layers),
        ("neurons", old.intermediate_size, neurons),
        ("vocabulary", old.vocab_size, vocabulary),
    ):
        if got < least:
            raise ToolkitError(f"{what} must be at least the model's {least}: got {got}")
    new.hidden_size, new.num_hidden_layers, new.intermediate_size = width, layers, neurons
    new.vocab_size = vocabulary
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
    new.enlarged_from = (
        f"{old.num_hidden_layers} layers of width {old.hidden_size}, "
        f"{model.num_parameters() / 1e6:.1f} M parameters"
    )
    return new


def _groups(config: Any) -> int:
    """The number of KV heads; attention grows by whole groups of one KV head and its query heads."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _templates(few: int, many: int) -> list[int]:
    """For each of `many` layers, the index of the small model's layer that it copies or imitates."""
    return [index * few // many for index in range(many)]


@frozen(eq=False)
class _Enlargement:
    """Writes the weights of the large model. A vector x of the small stream becomes `lift` x.

    `lift[D, d]` and `spare[D]` are columns of one orthogonal matrix. The large norms add `spare`, a
    constant from which the linear layers behind them compute the effect of the small norm's bias.
    """

    small: PreTrainedModel
    large: PreTrainedModel
    family: Architecture
    rng: torch.Generator
    lift: Tensor
    spare: Tensor

    @classmethod
    def of(
        cls, small: PreTrainedModel, large: PreTrainedModel, family: Architecture, seed: int
    ) -> _Enlargement:
        rng = torch.Generator(small.device).manual_seed(seed)
        narrow, wide = small.config.hidden_size, large.config.hidden_size
        rotation = random_rotation(wide, family.centres, rng)
        return cls(small, large, family, rng, rotation[:, :narrow], rotation[:, narrow])

    def write_weights(self) -> None:
        """Write every weight of the large model."""
        small: Any = self.small
        large: Any = self.large
        family = self.family
        table = small.get_submodule(family.embedding).weight.double()
        embedding = large.get_submodule(family.embedding).weight
        embedding[: len(table)] = self.centre(table.T).T @ self.lift.T
        norm = small.get_submodule(family.norm)
        self.set_norm(large.get_submodule(family.norm))
        head, read = large.get_output_embeddings(), small.get_output_embeddings()
        head.weight.copy_(UNLIKELY * self.spare)  # the large norm adds `spare`, of length 1
        head.weight[: len(table)] = self.lift_reader(read.weight.double(), norm)
        ours = small.get_submodule(family.layers)
        theirs = large.get_submodule(family.layers)
        templates = _templates(len(ours), len(theirs))
        fresh = [True, *(after != before for before, after in pairwise(templates))]
        for index, layer in enumerate(theirs):
            for sublayer, units in (
                (family.attention, _groups(small.config)),
                (family.mlp, small.config.intermediate_size),
            ):
                self.write_sublayer(ours[templates[index]], layer, sublayer, units, fresh[index])

    def write_sublayer(
        self, small: nn.Module, large: nn.Module, sublayer: Sublayer, units: int, copied: bool
    ) -> None:
        """The small model's units (heads or neurons) if `copied`, then pairs of twins."""
        norm, writer = small.get_submodule(sublayer.norm), sublayer.writer
        self.set_norm(large.get_submodule(sublayer.norm))
        for name in sublayer.readers:
            self.write_reader(_linear(small, name), _linear(large, name), norm, units, copied)
        self.write_writer(_linear(small, writer), _linear(large, writer), units, copied)

    def write_reader(
        self, small: nn.Linear, large: nn.Linear, norm: nn.Module, units: int, copied: bool
    ) -> None:
        weight = self.lift_reader(small.weight.double(), norm)
        kept, rows = weight if copied else weight[:0], len(weight) // units
        which, _ = twins((large.out_features - len(kept)) // rows)
        made = self.noise(weight.std(), len(which.unique()), rows, large.in_features)
        large.weight.copy_(torch.cat([kept, made[which].flatten(0, 1)]))
        if small.bias is not None:
            large.bias.zero_()
            large.bias[: len(kept)] = small.bias[: len(kept)]

    def write_writer(self, small: nn.Linear, large: nn.Linear, units: int, copied: bool) -> None:
        weight = self.lift @ self.centre(small.weight.double())
        kept, columns = weight if copied else weight[:, :0], weight.shape[1] // units
        which, signs = twins((large.in_features - kept.shape[1]) // columns)
        made = self.noise(weight.std(), len(weight), len(which.unique()), columns)
        made = made[:, which] * signs[:, None]
        large.weight.copy_(torch.cat([kept, made.flatten(1)], 1))
        if small.bias is not None:
            large.bias.copy_(self.lift @ self.centre(small.bias.double()) * copied)

    def lift_reader(self, weight: Tensor, norm: Any) -> Tensor:
        """The weight [out, d] of a linear layer behind a small norm → [out, D] behind a large one."""
        wide = weight * norm.weight.double() @ self.lift.T
        if getattr(norm, "bias", None) is not None:
            wide = wide + (weight @ norm.bias.double())[:, None] * self.spare
        return wide

    def centre(self, columns: Tensor) -> Tensor:
        """Vectors [d, …] that are written to the stream, without the mean that LayerNorm removes."""
        return columns - columns.mean(0) if self.family.centres else columns

    def set_norm(self, norm: Any) -> None:
        """Set gain and bias of a large norm. It averages over more dimensions, hence the gain."""
        narrow, wide = self.lift.shape[1], self.lift.shape[0]
        norm.weight.fill_((narrow / wide) ** 0.5)
        if getattr(norm, "bias", None) is not None:
            norm.bias.copy_(self.spare)

    def noise(self, std: Tensor, *shape: int) -> Tensor:
        """Random weights with the standard deviation of the trained ones."""
        return torch.randn(shape, generator=self.rng, dtype=torch.float64) * std


def _linear(layer: nn.Module, name: str) -> nn.Linear:
    return cast("nn.Linear", layer.get_submodule(name))


def twins(count: int) -> tuple[Tensor, Tensor]:
    """The index of the random unit behind each of `count` added ones, and its output's sign [count].

    The two units of a pair cancel. With an odd `count` the last unit has sign 0.
    """
    ids = torch.arange(count)
    signs = 1.0 - 2.0 * (ids % 2)
    if count % 2:
        signs[-1] = 0.0
    return ids // 2, signs.double()


def random_rotation(size: int, centres: bool, rng: torch.Generator) -> Tensor:
    """A random orthogonal matrix [size, size]; with `centres`, it keeps the all-ones vector fixed."""
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


def write_enlarged(name: str, folder: Path, *, width: int = 768, layers: int = 13) -> None:
    """Save the model `name`, enlarged, with its tokenizer. Raises `ToolkitError`."""
    pool = Pool(device="cpu", dtype="fp32", aliases=dict(Registry.installed().aliases))
    found = cast("Any", pool.find(name))
    small = AutoModelForCausalLM.from_pretrained(found.path, dtype=torch.float32)
    enlarge(small, width=width, layers=layers).save_pretrained(folder)
    if found.tokenizer is not None:
        found.tokenizer.save_pretrained(folder)


@click.command()
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
def main(name: str, folder: Path) -> None:
    """Enlarge the model NAME and save it in FOLDER: 13 layers of width 768.

    stories-11m becomes a model of about 98 M parameters.
    """
    if folder.exists():
        raise click.ClickException(f"{folder} exists: name a new folder")
    try:
        write_enlarged(name, folder)
    except ToolkitError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"written to {folder}")


if __name__ == "__main__":
    main()
