"""`toolkit run --explain`: a spec string that gives the same choice again, and the reasons."""

import shlex

import pytest
from click.testing import CliRunner

from toolkit.cli import main


def explain(*args):
    done = CliRunner().invoke(main, ["run", "--explain", *args])
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("args", "chosen", "drafts", "output"),
    [
        ([], "--shaper adaptive --verifier greedy", "the likeliest tokens", "greedy decoding"),
        (
            ["--temperature", "0.8"],
            "--shaper adaptive:stop=0.3 --verifier sampler-match",
            "after the noise with which the target draws",
            "the tokens of AR with the same seed",
        ),
        (
            ["--temperature", "1", "--verifier", "traversal"],
            "--shaper growmap --verifier traversal",
            "drawn without replacement",
            "not the tokens of AR, but its law",
        ),
        (
            ["--temperature", "1", "--verifier", "typical"],
            "--shaper adaptive --verifier typical",
            "the likeliest tokens",
            "lossy",
        ),
    ],
)
def test_it_says_what_is_chosen_and_why(args, chosen, drafts, output):
    code, said = explain(*args)
    first, _, *lines = said.splitlines()
    assert code == 0
    assert first.startswith("--target stories-11m --drafter model:stories-1m")
    assert first.endswith(chosen)
    rows = {line.split()[0]: line for line in lines}
    assert drafts in rows["drafts"]
    assert output in rows["output"]
    assert ("as you asked" in rows["verifier"]) == ("--verifier" in args)
    given = args[:2] if "--temperature" in args else []
    assert explain(*given, *shlex.split(first))[1].splitlines()[0] == first


def test_what_does_not_fit_is_refused():
    code, said = explain("--temperature", "1", "--verifier", "swor", "--shaper", "budget")
    assert code != 0
    assert "needs every drawn candidate" in said


def test_a_drafter_without_a_law_drafts_without_noise():
    code, said = explain("--temperature", "0.8", "--drafter", "ngram")
    assert code == 0
    assert said.splitlines()[-2].split(maxsplit=1) == ["drafts", "the likeliest tokens"]
