"""record, fit, replay, run and report on the shipped models, and what each refuses."""

import copy
import json

import attrs
import numpy as np
import pytest
from click.testing import CliRunner
from toolkit.cascade import fitting, study
from toolkit.cascade.answers import Answer, hash_text
from toolkit.cascade.live import answer_prompt, answer_tasks
from toolkit.cascade.policy_file import read_fitted
from toolkit.cascade.stages import Stage, make_stages, parse_stage
from toolkit.cascade.tasks import load_tasks

from toolkit import Pool, ToolkitError
from toolkit.cli import main

STAGES = ("--stage", "ar target=stories-1m", "--stage", "target=stories-3m drafter=ngram")
PROMPTS = [f"Once upon a time there was a {n} {m}" for n in ("big", "red") for m in "abcdefgh"]


def toolkit(*words):
    return CliRunner().invoke(main, ["cascade", *map(str, words)])


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    file = tmp_path_factory.mktemp("tasks") / "t.jsonl"
    rows = [{"prompt": p, "answer": "named", "grader": "word"} for p in PROMPTS]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture(scope="module")
def rows(tasks, tmp_path_factory):
    """Recorded answers. The third one was interrupted, and the same command went on."""
    folder = tmp_path_factory.mktemp("rows") / "out"
    words = ("record", tasks, *STAGES, "--max-new-tokens", 3, "--out", folder)
    whole, made = Stage.answer, []

    def interrupted(self, prompt, *, chat):
        made.append(prompt)
        if len(made) == 4:  # after the warm-up and two answers
            raise KeyboardInterrupt
        return whole(self, prompt, chat=chat)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "answer", interrupted)
        done = toolkit(*words)
        assert done.exit_code == 130
        assert "2 of 32 answers" in done.output
        assert len(list(folder.glob("part-*.parquet"))) == 2
        done = toolkit(*words)
    assert done.exit_code == 0, done.output
    assert f"next: toolkit cascade fit {folder} with --trade-off" in done.output.replace("\n", " ")
    assert len(made) == 4 + 1 + 14 + 1 + 16
    assert [file.name for file in folder.iterdir()] == ["answers.parquet"]
    return folder


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(fitting, "FEWEST", 3)
    monkeypatch.setattr(study, "FEWEST", 3)
    monkeypatch.setattr(study, "TURNS", 16)
    monkeypatch.setattr(fitting, "SWEEP", np.array([0.0, 1.0]))


def test_every_command_reads_what_the_one_before_wrote(rows, tasks, tmp_path, registry):
    file = tmp_path / "c.json"
    fit = ("fit", rows, "--scorer", "agreement", "--cost", "flops", "--out", file)
    done = toolkit(*fit, "--trade-off", 0)
    assert done.exit_code == 0, done.output
    assert read_fitted(file, registry).policies[0].name == "dp"
    done = toolkit("replay", rows, file)
    assert done.exit_code == 0, done.output
    assert "100% / 0%" in done.output
    assert "oracle" in done.output
    done = toolkit("run", file, "--tasks", tasks, "--count", 2)
    assert done.exit_code == 0, done.output
    assert "2 of 2 tasks" in done.output
    done = toolkit("run", file, PROMPTS[0])
    assert done.exit_code == 0, done.output
    assert "stage 0 answered" in done.output
    done = toolkit("report", rows, "--cost", "flops", "--scorer", "agreement", "--out", tmp_path / "r")
    assert done.exit_code == 0, done.output


def test_the_text_is_ars_of_the_stage_that_answered(rows, tmp_path, registry):
    """Token by token. The control: AR of the other stage has other tokens."""
    found = {}
    for stage, policy in enumerate(("fixed-stage", "fixed-stage:stage=1")):
        file = tmp_path / f"{stage}.json"
        words = ("fit", rows, "--policy", policy, "--scorer", "mean-logprob", "--cost", "flops")
        assert toolkit(*words, "--trade-off", 1, "--out", file).exit_code == 0
        fitted = read_fitted(file, registry)
        stages = make_stages(fitted.stages, Pool(), registry)
        for prompt in PROMPTS[:4]:
            live = answer_prompt(fitted, stages, prompt, chat=False)
            assert live.stage == stage
            assert len(live.ran) == stage + 1
            slow = stages[stage].pipeline.autoregressive.generate(prompt, max_new_tokens=3)
            assert live.generation.token_ids == slow.token_ids
            found[stage, prompt] = live.generation.token_ids
    assert any(found[0, prompt] != found[1, prompt] for prompt in PROMPTS[:4])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--trade-off", -1), "--trade-off is a number from 0 on, not -1"),
        ((), "give one of --trade-off"), (("--budget", 1, "--floor", 1), "give one of --trade-off"),
        (("--floor", 1.5), "a share from 0 to 1"), (("--floor", 0.9, "--delta", 0), "--delta is a"),
        (("--trade-off", 1), "has no recorded answers"),
    ],
)  # fmt: skip
def test_fit_refuses_before_it_reads(words, error, tmp_path):
    done = toolkit("fit", tmp_path / "none.parquet", *words, "--out", tmp_path / "c.json")
    assert done.exit_code == 2
    assert error in " ".join(done.output.split())
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("drafter=ngram", "has no target"), ("target=a targte=b", "did you mean target"),
        ("target=a target=b", "target twice"), ("target='a", "not closed"), ("target", "cannot have"),
    ],
)  # fmt: skip
def test_bad_stages(text, error):
    with pytest.raises(ToolkitError, match=error):
        parse_stage(text)


def test_what_breaks_the_promise_is_no_stage(tasks, tmp_path):
    lossy = "target=stories-1m verifier=typical"
    for stages, error in (((lossy, lossy), "is lossy"), (("ar target=stories-1m",), "two stages")):
        given = [word for stage in stages for word in ("--stage", stage)]
        done = toolkit("record", tasks, *given, "--out", tmp_path / "out")
        assert done.exit_code == 2
        assert error in " ".join(done.output.split())


def test_stages_out_of_order_are_named_once_they_are_measured(tasks, tmp_path, monkeypatch):
    """Their answers are recorded all the same: by another cost they may be in order."""
    seconds = iter([1.0] * 3 + [0.5] * 3 + [0.25] * 3)  # a warm-up and two answers a stage
    monkeypatch.setattr(
        Stage, "answer", lambda *args, **kwargs: (answer_in(next(seconds), *args), None)
    )
    stages = (*STAGES[:2], *STAGES[2:], "--stage", "target=stories-11m")
    done = toolkit("record", tasks, *stages, "--count", 2, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "stage 1 takes less time than stage 0" in done.output
    assert "stage 2 takes less time than stage 1" in done.output


def answer_in(seconds, stage, prompt):
    return Answer(
        prompt_id=hash_text(prompt), stage=stage.number, name=stage.name, text="a", prompt_tokens=1,
        tokens=1, seconds=seconds, flops=1.0, bytes=1.0, logprobs=[-1.0], margins=[1.0], quality=None,
    )  # fmt: skip


TEMPLATE = "[INST]{{ messages[0]['content'] }}[/INST]"  # says that its model is an instruct model


@pytest.mark.parametrize("template", [TEMPLATE, "{{ messages[0]['content'] }}", None])
def test_questions_are_messages_to_instruct_models_alone(template, registry):
    """The beginning of a text is none, and base models read texts alone, with a template or without."""
    pool, text = Pool(), "A dog"
    stage, other = make_stages(["target=stories-1m"] * 2, pool, registry, 1)
    plain = stage.decode(text, chat=False).prompt_ids
    tokenizer = copy.copy(pool.find("stories-1m").tokenizer)
    tokenizer.chat_template = template
    object.__setattr__(pool.find("stories-1m"), "tokenizer", tokenizer)
    assert other.decode(text, chat=False).prompt_ids == plain
    asked = stage.decode(text, chat=True).prompt_ids
    assert (asked != plain) == (template == TEMPLATE)


def test_the_policy_that_stopped_is_the_one_that_learns(rows, tasks, tmp_path, registry):
    """Of two that are mixed."""
    file = tmp_path / "c.json"
    fit = ("--policy", "expweights", "--scorer", "mean-logprob", "--cost", "flops", "--trade-off", 1)
    assert toolkit("fit", rows, *fit, "--out", file).exit_code == 0
    one, other = (read_fitted(file, registry).policies[0] for _ in range(2))
    fitted = attrs.evolve(read_fitted(file, registry), policies=[one, other], share=1.0)
    stages = make_stages(fitted.stages, Pool(), registry)
    chosen = load_tasks(str(tasks), registry, 2)
    assert [found.policy for _, found, _ in answer_tasks(fitted, stages, chosen)] == [other] * 2
    assert not one._losses.any()
    assert other._losses.any()
