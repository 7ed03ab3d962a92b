"""`toolkit show` through Click's runner: its files, and what it refuses."""

import shutil

import pytest
from click.testing import CliRunner

from toolkit.cli import main


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("show") / "results"
    arguments = ["run", "--max-new-tokens", "16", "--record", "nodes", "--out", str(folder)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return folder


def show(*arguments):
    return CliRunner().invoke(main, ["show", *map(str, arguments)])


def test_files_are_written_and_the_same_again(results, tmp_path):
    texts = []
    for turn in "ab":
        files = [tmp_path / f"{turn}.{kind}" for kind in ("html", "svg", "png", "dot")]
        options = [word for file in files for word in (f"--{file.suffix[1:]}", file)]
        done = show(results, "--step", "1", *options)
        assert done.exit_code == 0, done.output
        texts.append([file.read_bytes() for file in files])
    assert texts[0] == texts[1]
    assert [text[:5] for text in texts[0]] == [b"<!doc", b"<svg ", b"\x89PNG\r", b"digra"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--step", "999", "--svg", "s.svg"], "has no step 999: its steps are 0 to"),
        (["--request", "5", "--html", "p.html"], "no request 5"),
        (["--svg", "s.svg"], "say which with --step"),
        (["--html", "nowhere/p.html"], "no folder nowhere"),
    ],
)
def test_what_is_wrong_is_said(results, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    done = show(results, *options)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
    assert not [*tmp_path.iterdir()]


def test_results_without_nodes_say_how_to_record_them(results, tmp_path):
    bare = shutil.copytree(results, tmp_path / "bare")
    shutil.rmtree(bare / "nodes")
    done = show(bare, "--html", tmp_path / "p.html")
    assert done.exit_code == 2
    assert "--record nodes" in done.output


def test_without_a_terminal_every_step_is_written(results):
    done = show(results)
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    numbers = [line.split()[1] for line in done.output.splitlines() if line.startswith("step ")]
    assert numbers == [str(number) for number in range(len(numbers))]
    assert len(show(results, "--step", "1").output.splitlines()) < len(done.output.splitlines())


def test_watching_draws_every_step_where_there_is_no_terminal():
    """The text and the panel follow, as without --watch."""
    arguments = ["run", "--max-new-tokens", "16"]
    plain, watched = (CliRunner().invoke(main, [*arguments, *more]) for more in ([], ["--watch"]))
    assert watched.exit_code == 0, watched.output
    text = plain.stdout.partition("╭")[0]
    assert text.strip() in watched.stdout
    steps = [line for line in watched.stdout.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == [str(number) for number in range(len(steps))]
    assert "◆" in watched.stdout


def test_watching_and_json_do_not_go_together():
    done = CliRunner().invoke(main, ["run", "--watch", "--json"])
    assert done.exit_code == 2
    assert "give one of them" in done.output
