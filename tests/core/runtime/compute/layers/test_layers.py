"""A description of a family is one file in the folder, found by itself."""

from collections import Counter
from importlib import import_module
from pkgutil import iter_modules

import pytest

from toolkit.runtime.compute import layers

NEW = """
from toolkit.runtime.compute.layers.llama import describe

MODEL_TYPES = ("brand_new",)
"""


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The package with one more file in it."""
    (tmp_path / "brand_new.py").write_text(NEW)
    monkeypatch.setattr(layers, "__path__", [*layers.__path__, str(tmp_path)])
    layers.descriptions.cache_clear()
    yield
    layers.descriptions.cache_clear()


def test_a_new_file_is_found(added):
    assert "brand_new" in layers.descriptions()


def test_no_model_type_is_described_twice():
    files = [import_module(f"{layers.__name__}.{file.name}") for file in iter_modules(layers.__path__)]
    kinds = Counter(kind for file in files for kind in getattr(file, "MODEL_TYPES", ()))
    assert set(kinds) == set(layers.descriptions())
    assert set(kinds.values()) == {1}
