"""Which place a name stands for, and the error when there is none."""

import json
import shutil
from pathlib import Path

import pytest

from toolkit import Pipeline, embedded
from toolkit.errors import ModelError
from toolkit.runtime.models.locate import locate, named_target, resolve


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./missing", "no model folder ./missing: looked for a folder with a config.json"),
        ("/missing/model", "no model folder /missing/model"),
        ("~/missing", f"no model folder {Path.home()}/missing"),
        (
            "pythia-70n",
            "no model called 'pythia-70n': it is no folder, alias or hub id (owner/name); "
            "did you mean pythia-70m?",
        ),
        (
            "zzz",
            "no model called 'zzz': it is no folder, alias or hub id (owner/name); "
            "`toolkit models` lists the known names",
        ),
        ("nobody/nothing", "model 'nobody/nothing' is not here and not reachable: looked in "),
        ("pythia-70m", "model 'pythia-70m' (EleutherAI/none-such) is not here and not reachable"),
        ("a/b/c", "'a/b/c' is neither a folder nor a hub id"),
    ],
)
def test_a_model_that_is_not_here(name, said):
    with pytest.raises(ModelError) as caught:
        locate(name, {"pythia-70m": "EleutherAI/none-such"})
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("short", "owner/long"),
        ("owner/name", "owner/name"),
        ("shipped", str(embedded.folder("drafter"))),
    ],
)
def test_where_a_name_leads(name, place):
    assert resolve(name, {"short": "owner/long", "shipped": "package:drafter"}) == place


def write_config(folder, **changes):
    shutil.copytree(embedded.folder("drafter"), folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_a_drafter_may_name_its_target(tmp_path):
    """As the speculators library writes it; a named target and a known family come first."""
    verifier = {"verifier": {"name_or_path": "stories-3m", "architectures": ["LlamaForCausalLM"]}}
    drafter = write_config(tmp_path / "d", speculators_config=verifier)
    assert Pipeline(drafter=drafter).target == "stories-3m"
    assert Pipeline("stories-11m", drafter=drafter).target == "stories-11m"
    assert Pipeline(drafter="stories-1m").target == "stories-11m"


@pytest.mark.parametrize("named", [None, [], {"verifier": None}, {"verifier": {"name_or_path": None}}])
def test_a_config_that_names_none_leaves_the_default(tmp_path, named):
    drafter = write_config(tmp_path / "d", speculators_config=named)
    assert named_target(locate(drafter, {})) is None
    assert Pipeline(drafter=drafter).target == "stories-11m"
