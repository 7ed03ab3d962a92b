"""Names and specs that the registry finds, and suggestions for those it does not."""

import attrs
import pytest

from toolkit import Registry, TreeShaper, option
from toolkit.errors import SpecError


def test_built_ins_are_installed_and_whole(registry):
    assert registry.broken == {}
    assert {"none", "model", "ngram"} <= set(registry.names("drafter"))
    assert {"chain", "fixed", "adaptive", "budget"} <= set(registry.names("shaper"))
    assert "greedy" in registry.names("verifier")
    assert {"full", "window"} <= set(registry.names("kv"))


def test_an_empty_registry_says_what_to_do():
    with pytest.raises(
        SpecError, match="no shaper is registered: in a checkout, run `pip install -e"
    ):
        Registry().find("shaper", "chain")


@pytest.mark.parametrize(
    ("name", "said"),
    [("chian", "did you mean chain"), ("zzz", "there are: adaptive, budget, chain, ")],
)
def test_suggestions(registry, name, said):
    with pytest.raises(SpecError, match=f"no shaper called '{name}'") as caught:
        registry.find("shaper", name)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "spec"),
    [
        ("pythia-70m", "model:pythia-70m"),
        ("EleutherAI/pythia-70m", "model:EleutherAI/pythia-70m"),
        ("model:pythia-70m", "model:pythia-70m"),
        ("ngram", "ngram"),
        ("ngram:3", "ngram:n=3"),
    ],
)
def test_a_model_is_shorthand_for_a_model_drafter(registry, typed, spec):
    assert str(registry.resolve("drafter", typed)) == spec


def test_a_folder_is_shorthand_and_a_registered_name_wins(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "ngram"):
        (tmp_path / name).mkdir()
    assert str(registry.resolve("drafter", "mine")) == "model:mine"
    assert str(registry.resolve("drafter", str(tmp_path))) == f"model:{tmp_path}"
    assert str(registry.resolve("drafter", "ngram")) == "ngram"


@pytest.mark.parametrize("typed", ["pythia-7m", "", "pythia-70m:n=3"])
def test_what_is_neither_model_nor_drafter(registry, typed):
    with pytest.raises(SpecError, match="no drafter called"):
        registry.resolve("drafter", typed)


def test_shorthand_is_for_drafters_alone(registry):
    with pytest.raises(SpecError, match="no shaper called 'pythia-70m'"):
        registry.resolve("shaper", "pythia-70m")


@attrs.define
class Mine(TreeShaper):
    name = "mine"
    nodes: int = option(4)

    def grow(self, root, expand):
        return root


def test_objects_and_classes_resolve_and_kinds_are_checked(registry):
    assert str(registry.resolve("shaper", Mine(nodes=9))) == "mine:nodes=9"
    assert str(registry.resolve("shaper", Mine)) == "mine"
    with pytest.raises(SpecError, match="mine is a shaper, but a verifier is needed here"):
        registry.resolve("verifier", Mine)
