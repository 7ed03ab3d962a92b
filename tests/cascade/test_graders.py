"""Graders: right answers, wrong ones, and programs that misbehave."""

import pytest
from toolkit.cascade import graders
from toolkit.cascade.graders import GRADERS, grade_execution, take_code

PROMPT = 'def double(x):\n    """Twice x."""\n'
TESTS = "def check(f):\n    assert f(2) == 4\ncheck(double)"


@pytest.mark.parametrize(
    ("grader", "answer", "reference", "grade"),
    [
        ("letter", " B", "B", 1), ("letter", "(B) two", "B", 1), ("letter", "B. two\nC. three", "B", 1),
        ("letter", "The answer is B.", "B", 1), ("letter", "A dog, so the answer: B", "B", 1),
        ("letter", "C", "B", 0), ("letter", "A big dog", "A", 0), ("letter", "", "B", 0),
        ("word", " dog. The", "dog", 1), ("word", "Dog", "dog", 1), ("word", "dogs", "dog", 0),
        ("word", "...", "dog", 0),
        ("exact", " 42\n", "42", 1), ("exact", "42.", "42", 0),
        ("normalised", "\nThe  Eiffel tower!\nIt is tall.", "Eiffel Tower", 1),
        ("normalised", "Paris", "Rome", 0),
    ],
)  # fmt: skip
def test_grades(grader, answer, reference, grade):
    assert GRADERS[grader]("", answer, reference) == grade


def test_a_right_program_passes_however_it_is_written():
    for answer in (
        "    return 2 * x\n\nprint(unknown)",
        "```python\ndef double(x):\n    return x + x\n```\nThis doubles.",
    ):
        assert grade_execution(PROMPT, answer, TESTS) == 1


@pytest.mark.parametrize(
    "body",
    [
        "return x", "return (", "import sys; sys.exit(0)", "import os; os._exit(0)",
        "print('done'); raise SystemExit",
    ],
)  # fmt: skip
def test_a_wrong_program_fails_also_when_it_exits_early(body):
    assert grade_execution(PROMPT, f"    {body}", TESTS) == 0


@pytest.mark.parametrize(
    "body", ["while True: pass", "x = bytearray(1 << 31)", "open('f', 'wb').write(bytes(1 << 21))"]
)
def test_a_program_has_limits(monkeypatch, body):
    monkeypatch.setattr(graders, "SECONDS", 1)
    assert grade_execution("", body, "") == 0
    assert grade_execution("", "pass", "") == 1


def test_a_program_that_sleeps_is_ended(monkeypatch):
    monkeypatch.setattr(graders, "WAIT", 0.5)
    assert grade_execution("", "import time; time.sleep(9)", "") == 0


def test_code_is_taken_from_an_answer():
    assert take_code("    return 1\n\n\ndef other():\n    pass") == "    return 1\n\n"
    assert take_code("import math\n\ndef f():\n    return 1") == "import math\n\ndef f():\n    return 1"
    assert take_code("") == ""
