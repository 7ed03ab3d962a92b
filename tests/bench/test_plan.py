"""Plans: TOML ↔ attrs, and those that ship."""

import tomllib
from importlib.resources import files

import pytest
from toolkit.bench.arms import parse_arms
from toolkit.bench.configuration import hash_json
from toolkit.bench.plan import Plan, Tune, read_protocols
from toolkit.bench.tuning import list_candidates

from toolkit import Registry, ToolkitError

SHIPPED = sorted(read_protocols())


def test_a_plan_survives_its_toml():
    plan = Plan(
        arms=["drafter=model"], tune=[Tune("drafter=model", {"k": [1, 2], "x": ["a", True]})],
        max_new_tokens=[10, 20], record=["steps"],
    )  # fmt: skip
    assert Plan.of(tomllib.loads(plan.toml), "x") == plan


@pytest.mark.installed
def test_the_template_is_a_plan(tmp_path):
    text = (files("toolkit.bench") / "template.toml").read_text()
    (tmp_path / "t.toml").write_text(text)
    plan = Plan.read(str(tmp_path / "t.toml"), {"prompts": 3})
    assert plan.prompts == 3
    assert plan.tune[0].grid == {"k": [3, 5, 8]}
    assert list_candidates(plan.tune, parse_arms(plan.arms), Registry.installed())
    for name in Plan.__attrs_attrs__:
        assert f"\n{name.name} = " in text or f"\n[[{name.name}]]" in text, name.name


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_is_a_plan_whose_specs_exist(name):
    registry, plan = Registry.installed(), Plan.read(name)
    assert read_protocols()[name].startswith("# ")
    assert all(dataset in registry.datasets for dataset in plan.datasets)
    for arm in parse_arms(plan.arms):
        for kind in ("drafter", "shaper", "kv"):
            if arm.engine == "toolkit" and kind in arm.specs:
                assert registry.resolve(kind, arm.specs[kind])


def test_the_earlier_works_settings_are_these():
    main = Plan.read("dynatree-main")
    assert (main.max_new_tokens, main.prompts, main.warmup) == ([1500], 10, 2)
    assert len(parse_arms(Plan.read("dynatree-fixed-sweep").arms)) == 1 + 6 * 3 * 5
    assert Plan.read("dynatree-lengths").max_new_tokens[0] == 100
    assert Plan.read("dynatree-lengths").max_new_tokens[-1] == 1000


BAD = {
    'arm = ["x"]': "no key 'arm'",
    "prompts = 3": "names no arms",
    'arms = ["x"]\nprompts = 0': "prompts",
    'arms = ["x"]\nprompts = "3"': "a whole number is expected",
    'arms = ["x"]\nignore_eos = 1': "true or false",
    'arms = ["x"]\nmax_new_tokens = []': "max_new_tokens",
    'arms = ["x"]\nrecord = ["stps"]': "record",
    'arms = ["x"]\ndevice = "tpu"': "device",
    'arms = ["x"]\ndevice = "cuda:x"': "a GPU as cuda:1",
    'arms = ["x"]\nexecutor = "fast"': "executor",
    'arms = ["x"]\n[[tune]]\narm = "x"': "grid",
    'arms = ["x"]\nmax_new_tokens = [5, 5]': "has 5 twice",
    'arms = ["x"]\ndatasets = ["c4", "c4"]': "has 'c4' twice",
    "arms = [": "not TOML",
    'arms = ["x"]\nseed = ' + "9" * 5000: "not TOML",
    'arms = ["x"]\n[[tune]]\narm = "x"\ngrid = {k = []}': "has no value for 'k'",
    'arms = ["x"]\n[[tune]]\narm = "x"\ngrid = {k = [2, 2]}': "'k' has 2 twice",
}


@pytest.mark.parametrize(("text", "word"), BAD.items())
def test_a_bad_plan_is_one_clear_error(tmp_path, text, word):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(ToolkitError, match=word):
        Plan.read(str(tmp_path / "p.toml"))


def test_a_plan_that_is_no_text(tmp_path):
    (tmp_path / "p.toml").write_bytes('arms = ["x"] # ä'.encode("latin-1"))
    with pytest.raises(ToolkitError, match="is not UTF-8"):
        Plan.read(str(tmp_path / "p.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ToolkitError, match=r"folder\.toml' cannot be read: Is a directory"):
        Plan.read(str(tmp_path / "folder.toml"))
    with pytest.raises(ToolkitError, match="cannot be read: File name too long"):
        Plan.read("x" * 5000 + ".toml")


def test_a_plan_that_is_not_there():
    with pytest.raises(ToolkitError, match=r"bench init nowhere\.toml"):
        Plan.read("nowhere.toml")
    with pytest.raises(ToolkitError, match="dynatree-main"):
        Plan.read("dynatre")


def test_the_digest_sees_every_change():
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})
