"""Which place a name stands for, and the error when there is none."""

from pathlib import Path

import pytest

from toolkit import embedded
from toolkit.errors import ModelError
from toolkit.runtime.models.locate import locate, resolve


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
