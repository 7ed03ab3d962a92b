"""`toolkit growmap`: from measured acceptance to a map that `run` takes."""

import json

import pytest
from click.testing import CliRunner

from toolkit import Costs, GrowMap
from toolkit.cli import main
from toolkit.cli.growmap import fastest


def toolkit(*args):
    done = CliRunner().invoke(main, [str(arg) for arg in args])
    return done.exit_code, done.output


def test_measure_plan_show_and_run(tmp_path):
    vector, tree = tmp_path / "vector.json", tmp_path / "map.pt"
    sampled = ["--temperature", "1", "--verifier", "traversal"]
    code, said = toolkit(
        "growmap", "measure", *sampled, "--max-new-tokens", 24, "--width", 4, "--out", vector
    )
    assert code == 0, said
    held = json.loads(vector.read_text())
    assert held["verifier"] == "traversal"
    assert held["sampling"] == "temperature=1"
    assert 0 < sum(held["acceptance"]) <= 1
    code, said = toolkit("growmap", "plan", vector, "--nodes", 9, "--out", tree)
    assert code == 0, said
    assert "9 nodes" in said
    assert f"--shaper growmap:{tree}" in said
    assert "9 nodes" in toolkit("growmap", "show", tree)[1]
    code, said = toolkit(
        "run", "Once", *sampled, "--shaper", f"growmap:{tree}", "--max-new-tokens", 8
    )
    assert code == 0, said


def test_the_fastest_map_follows_the_costs():
    vector = [0.7, 0.15, 0.05]
    rows = (1, 64)
    flat = Costs((1, 2), rows, ((9.0, 9.0),) * 2, rows, ((0.01, 0.01),) * 2)
    steep = Costs((1, 2), rows, ((1.0, 300.0),) * 2, rows, ((1.0, 9.0),) * 2)
    assert len(fastest(vector, flat, 12)) == 64
    assert len(fastest(vector, steep, 12)) == 2
    assert max(fastest(vector, flat, 3).depths) == 3


@pytest.mark.parametrize(
    ("held", "said"),
    [("[]", "is no acceptance vector"), ("{", "is no acceptance vector"),
     ('{"acceptance": [0.9, 0.9], "target": "", "drafter": ""}', "at most 1"),
     ('{"acceptance": [0.9]}', "is no acceptance vector")],
)  # fmt: skip
def test_a_file_that_is_no_vector_is_refused(tmp_path, held, said):
    (tmp_path / "v.json").write_text(held)
    code, output = toolkit("growmap", "plan", tmp_path / "v.json", "--out", tmp_path / "m.pt")
    assert code != 0
    assert said in output


def test_bad_names_are_refused_before_anything_runs(tmp_path):
    (tmp_path / "v.json").write_text('{"acceptance": [0.9], "target": "", "drafter": ""}')
    code, said = toolkit("growmap", "plan", tmp_path / "v.json", "--out", tmp_path / "m.txt")
    assert code != 0
    assert "must end in .pt or .json" in said
    code, said = toolkit("growmap", "show", "4y2")
    assert code != 0
    assert "is no growmap" in said
    assert GrowMap.parse("2").parents == (-1, 0, 0)
