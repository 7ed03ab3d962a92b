"""What changes a GPU's bits beside the card: its driver, cuBLAS, and settings of PyTorch and NVIDIA."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from importlib import metadata

import torch

from toolkit.runtime.machine.cpu import gpu_driver

CUBLAS = ("nvidia-cublas", "nvidia-cublas-cu12")  # the packages that PyTorch's builds take it from
SETTINGS = (  # of torch.backends.cuda.matmul; not every PyTorch has all
    "fp32_precision",
    "allow_bf16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction_split_k",
    "allow_fp16_reduced_precision_reduction",
    "allow_fp16_reduced_precision_reduction_split_k",
    "allow_fp16_accumulation",
)
TF32 = "NVIDIA_TF32_OVERRIDE"
VARIABLES = (TF32, "CUBLAS_WORKSPACE_CONFIG")


def gpu_numerics() -> list[str]:
    """What results about bits on a GPU hold for: of another driver, library or setting they say
    nothing."""
    matmul = torch.backends.cuda.matmul
    return [
        f"driver {gpu_driver()}",
        f"cuBLAS {_cublas()}, {torch.backends.cuda.preferred_blas_library()}",
        *(f"{name}={getattr(matmul, name, None)}" for name in SETTINGS),
        f"deterministic={torch.are_deterministic_algorithms_enabled()}",
        *(f"{name}={os.environ.get(name)}" for name in VARIABLES),
    ]


def multiplies_in_tf32() -> bool:
    """Whether cuBLAS may round fp32 to TF32's 10 bits; the variable counts more than the setting."""
    forced = {"0": False, "1": True}.get(os.environ.get(TF32, ""))
    return torch.backends.cuda.matmul.fp32_precision == "tf32" if forced is None else forced


@cache
def _cublas() -> str | None:
    """The version of cuBLAS; None: no package brings it."""
    for package in CUBLAS:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None
