"""What is remembered of a GPU's bits holds for one driver, library and setting."""

from importlib import metadata

import pytest
import torch

from toolkit.runtime.machine import gpu_numerics as gpu

MATMUL = torch.backends.cuda.matmul
NAMES = [name for name in gpu.SETTINGS if not name.endswith("split_k")]  # set with the ones above them


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """PyTorch's settings are for the process."""
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    before = {name: getattr(MATMUL, name) for name in NAMES}
    yield
    for name, value in before.items():
        setattr(MATMUL, name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fp32_precision", "tf32"),
        ("allow_tf32", True),
        ("allow_bf16_reduced_precision_reduction", False),
        ("allow_fp16_reduced_precision_reduction", False),
        ("allow_fp16_accumulation", True),
    ],
)
def test_settings_of_products_count(name, value):
    before = gpu.gpu_numerics()
    assert before == gpu.gpu_numerics()
    setattr(MATMUL, name, value)
    assert gpu.gpu_numerics() != before


@pytest.mark.skipif(
    not hasattr(MATMUL, "allow_bf16_reduced_precision_reduction_split_k"),
    reason="this PyTorch has no such setting",
)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_split_k_counts(dtype):
    name = f"allow_{dtype}_reduced_precision_reduction"
    setattr(MATMUL, name, False)
    before = gpu.gpu_numerics()
    setattr(MATMUL, name, (False, False))
    assert gpu.gpu_numerics() != before


def test_deterministic_algorithms_count():
    before = gpu.gpu_numerics()
    torch.use_deterministic_algorithms(True)
    try:
        assert gpu.gpu_numerics() != before
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", gpu.VARIABLES)
def test_variables_count(monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    before = gpu.gpu_numerics()
    monkeypatch.setenv(name, "1")
    assert gpu.gpu_numerics() != before


def test_the_driver_and_cublas_count(monkeypatch):
    before = gpu.gpu_numerics()
    monkeypatch.setattr(gpu, "gpu_driver", lambda: "580.95")
    after = gpu.gpu_numerics()
    assert after != before

    def version(package):
        if package != gpu.CUBLAS[-1]:
            raise metadata.PackageNotFoundError
        return "12.8.4.1"

    monkeypatch.setattr(gpu.metadata, "version", version)
    gpu._cublas.cache_clear()
    try:
        assert gpu.gpu_numerics() != after
        assert "12.8.4.1" in str(gpu.gpu_numerics())
    finally:
        gpu._cublas.cache_clear()


@pytest.mark.parametrize(
    ("precision", "variable", "expected"),
    [
        ("ieee", None, False),
        ("tf32", None, True),
        ("tf32", "0", False),
        ("ieee", "1", True),
        ("tf32", "", True),
    ],
)
def test_tf32_is_as_the_variable_says_and_else_the_setting(monkeypatch, precision, variable, expected):
    if variable is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", variable)
    MATMUL.fp32_precision = precision
    assert gpu.multiplies_in_tf32() == expected
