"""What a module is made of: compared with its architecture, and with itself at an earlier time."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch import Size, nn
from torch.nn.modules.module import _has_any_global_hook
from transformers import PretrainedConfig

from toolkit.runtime.compute.executors.build_on_meta import build_on_meta

Parts: TypeAlias = "dict[str, tuple[type, dict[str, Size]]]"
"""Class, and shapes of parameters, of each part by its name."""

_expected: dict[tuple[type, str], Parts] = {}  # by config class and contents


def reason_changed(module: nn.Module) -> str | None:
    """How a module differs from what transformers builds for its config, in code or shapes; None where
    it does not. Changes of a class itself are not seen here."""
    if _has_any_global_hook():
        return "PyTorch has global module hooks, which only the module itself runs"
    expected, found = _expected_parts(module.config), _parts_of(module)
    for name, part in module.named_modules():
        about = name or "the module"
        if name not in expected:
            return f"{about} is not part of a {module.config.model_type} model"  # type: ignore[union-attr]
        (cls, shapes), (own, own_shapes) = expected[name], found[name]
        if own is not cls:
            return f"{about} is a {own.__name__}, not a {cls.__name__}"
        if own_shapes != shapes:
            return f"{about} has weights of other shapes than its config says"
        if "forward" in vars(part) or "__call__" in vars(part):
            return f"{about} has a forward of its own, which only the module itself runs"
        if part._forward_hooks or part._forward_pre_hooks:
            return f"{about} has hooks, which only the module itself runs"
    absent = next((name for name in expected if name not in found), None)
    return f"it has no {absent}" if absent else None


def structure_of(module: nn.Module) -> list[Any]:
    """What decides how a module computes, apart from its weights: the code and the plain attributes of
    each part, and whether it has hooks. It equals that of another time unless one of them changed."""
    return [
        (
            type(part),
            type(part).forward,
            vars(part).get("forward"),
            len(part._forward_hooks) + len(part._forward_pre_hooks),
            [(k, v) for k, v in vars(part).items() if isinstance(v, (int, float, str))],
        )
        for part in module.modules()
    ]


def _parts_of(module: nn.Module) -> Parts:
    return {
        name: (
            type(part),
            {key: value.shape for key, value in part.named_parameters(recurse=False)},
        )
        for name, part in module.named_modules()
    }


def _expected_parts(config: PretrainedConfig) -> Parts:
    key = type(config), config.to_json_string()
    if key not in _expected:
        _expected[key] = _parts_of(build_on_meta(config))
    return _expected[key]
