"""docs/design.md says what is there: its paths exist, and its rules are import-linter's."""

import re
import tomllib


def test_every_path_exists(root):
    page = (root / "docs" / "design.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", page)
    assert len(paths) > 30
    assert [path for path in paths if not (root / path).exists()] == []


def test_the_rules_are_those_that_are_checked(root):
    page = (root / "docs" / "design.md").read_text(encoding="utf-8")
    rules = page.partition("## Rules that are checked")[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    assert re.findall("^- (.+)$", rules, re.MULTILINE) == [rule["name"] for rule in contracts]
