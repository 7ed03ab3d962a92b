"""Tasks: loaded by name or from files, and refused where they cannot be graded."""

import json

import pytest
from toolkit.cascade.tasks import Task, load_tasks, require_allowed

from toolkit import ToolkitError

ROW = {"prompt": "2 + 2 =", "answer": "4", "grader": "exact"}


def write(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_file_of_ones_own(registry, tmp_path):
    lettered = {"prompt": "Which?", "answer": "B", "grader": "letter"}
    file = write(tmp_path / "t.jsonl", ROW, ROW, lettered)
    tasks = load_tasks(file, registry)
    assert tasks == [Task("2 + 2 =", "4", "exact"), Task("Which?", "B", "letter")]
    assert [task.grade(" B") for task in tasks] == [0, 1]


def test_a_set_by_name(registry, tmp_path):
    rows = [{"question": f"{n}?", "choices": list("wxyz"), "answer": n % 4} for n in range(9)]
    name = f"mmlu:{write(tmp_path / 'x.jsonl', *rows)}"
    tasks = load_tasks(name, registry, 5, seed=3)
    assert len(tasks) == 5
    assert tasks == load_tasks(name, registry, 5, seed=3)
    assert tasks != load_tasks(name, registry, 5, seed=4)
    assert all(task.chat and task.grader == "letter" for task in tasks)
    with pytest.raises(ToolkitError, match="has 9 tasks, and 10 are asked for"):
        load_tasks(name, registry, 10)


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ("{", "line 1: expected"), ({"prompt": "x"}, "line 1: expected"), ("[1]\n", "line 1: expected"),
        (ROW | {"answer": 4}, "are texts"), (ROW | {"prompt": ""}, "are texts"),
        (ROW | {"grader": "taste"}, "no grader 'taste'; there are letter"), ("", "is empty"),
    ],
)  # fmt: skip
def test_bad_files(registry, tmp_path, row, error):
    with pytest.raises(ToolkitError, match=error):
        load_tasks(write(tmp_path / "t.jsonl", row), registry)


def test_what_cannot_be_graded_is_refused(registry, tmp_path):
    with pytest.raises(ToolkitError, match="no graded data set called 'stories': there are humaneval"):
        load_tasks("stories", registry)
    with pytest.raises(ToolkitError, match="cannot be read"):
        load_tasks(str(tmp_path / "none.jsonl"), registry)
    file = write(tmp_path / "x.jsonl", {"prompt": "def f():"})
    with pytest.raises(ToolkitError, match="lack the right answers"):
        load_tasks(f"humaneval:{file}", registry)


def test_code_runs_only_where_it_is_allowed():
    require_allowed([Task("", "", "exact")], allow_execution=False)
    require_allowed([Task("", "", "execution")], allow_execution=True)
    with pytest.raises(ToolkitError, match="add --allow-execution"):
        require_allowed([Task("", "", "execution")], allow_execution=False)
