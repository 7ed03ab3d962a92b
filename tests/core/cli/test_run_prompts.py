"""`toolkit run`: prompts from arguments, files, messages and standard input."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

PROMPT = "w5 w9 w33 w4 w9 w33"


@pytest.mark.parametrize("by", ["argument", "file", "stdin"])
def test_a_prompt_comes_three_ways(run, pair, tmp_path, by):
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT + "\n")
    result = {
        "argument": lambda: run(PROMPT, *pair, "--json"),
        "file": lambda: run("--prompt-file", file, *pair, "--json"),
        "stdin": lambda: run(*pair, "--json", stdin=PROMPT + "\n"),
    }[by]()
    assert (
        json.loads(result.stdout)["token_ids"]
        == json.loads(run(PROMPT, *pair, "--json").stdout)["token_ids"]
    )


def test_no_prompt_at_all_runs_on_the_built_in_one(run, pair):
    assert run(*pair).exit_code == 0


def test_an_empty_prompt_file_is_refused(run, tmp_path):
    (tmp_path / "empty").touch()
    result = run("--prompt-file", tmp_path / "empty")
    assert result.exit_code == 2
    assert "empty" in result.output


def test_bytes_that_are_no_text_are_refused(run, tmp_path, refused):
    (tmp_path / "p.txt").write_bytes(b"caf\xe9")
    refused(run("--prompt-file", tmp_path / "p.txt"), "not UTF-8")
    refused(run(stdin=b"caf\xe9"), "not UTF-8")
    refused(run("caf\udce9"), "not UTF-8")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_prompt_has_no_byte_order_mark_and_no_last_line_break(run, pair, tmp_path, mark, end):
    (tmp_path / "p.txt").write_bytes(mark + f"{PROMPT}{end}".encode())
    wanted = json.loads(run(PROMPT, *pair, "--json").stdout)["text"]
    for given in (["--prompt-file", tmp_path / "p.txt"], []):
        result = run(*given, *pair, "--json", stdin=(tmp_path / "p.txt").read_bytes())
        assert json.loads(result.stdout)["text"] == wanted


def test_a_file_of_nothing_but_a_mark_and_a_line_break_is_empty(run, tmp_path, refused):
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbf\r\n")
    refused(run("--prompt-file", tmp_path / "p.txt"), "is empty")


TEMPLATE = (
    "{% for m in messages %}{{ {'user': 'w2', 'assistant': 'w3', 'system': 'w4'}[m.role] }} "
    "{{ m.content }} {% endfor %}{% if short %}w6 {% endif %}w3"
)


@pytest.fixture(scope="session")
def instruct(target, tmp_path_factory):
    """A model whose name and tokenizer say that it answers messages."""
    folder = tmp_path_factory.mktemp("models") / "tiny-instruct"
    shutil.copytree(target, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return str(folder)


def tokens(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["token_ids"]


def shown(result):
    return " ".join(result.output.replace("│", " ").split())


PROMPTS = ["w5 w9", "w33 w4 w9", "w7"]


def objects(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_an_instruct_model_gets_messages_unless_it_is_told_otherwise(run, pair, instruct):
    chat, plain = run(PROMPT, *pair, "--target", instruct), run(PROMPT, *pair)
    assert "8 tokens, as messages, in the model's chat template" in shown(chat)
    assert "as messages" not in shown(plain)
    as_text = ["--target", instruct, "--no-chat"]
    assert "6 tokens, as it is" in shown(run(PROMPT, *pair, *as_text))
    by_hand = tokens(run(f"w2 {PROMPT} w3", *pair, "--json"))
    assert tokens(run(PROMPT, *pair, "--target", instruct, "--json")) == by_hand
    assert tokens(run(PROMPT, *pair, *as_text, "--json")) == tokens(run(PROMPT, *pair, "--json"))


def test_a_system_message_and_a_variable_reach_the_template(run, pair, instruct):
    given = ["--system", "w7", "--template-arg", "short=true", "--target", instruct, "--json"]
    by_hand = f"w4 w7 w2 {PROMPT} w6 w3"
    assert tokens(run(PROMPT, *pair, *given)) == tokens(run(by_hand, *pair, "--json"))


def test_messages_without_a_template_are_refused(run, target, refused):
    for given in (["--chat"], ["--system", "w7"], ["--template-arg", "short=1"]):
        refused(run(PROMPT, "--target", target, *given), "no chat template")
    refused(run("hi", "--no-chat", "--system", "w7"), "--no-chat leaves it out")
    refused(run("hi", "--template-arg", "short"), "is not NAME=VALUE", lines=5)


def test_each_row_of_a_file_is_a_request_of_its_own(run, pair, rows, tmp_path):
    file = rows(*({"prompt": prompt, "id": 3} for prompt in PROMPTS), "")
    out = tmp_path / "out"
    found = objects(run("--prompt-file", file, *pair, "--json", "--out", out, "--verify"))
    alone = [tokens(run(prompt, *pair, "--json")) for prompt in PROMPTS]
    assert [one["token_ids"] for one in found] == alone
    assert {one["verdict"] for one in found} == {"exact"}
    table = pq.read_table(out / "requests").to_pylist()
    assert [row["token_ids"] for row in table] == alone
    assert [row["request_id"] for row in table] == [0, 1, 2]


def test_many_prompts_end_with_one_panel(run, pair, rows):
    file = rows(*({"text": prompt} for prompt in PROMPTS))
    result = run("--prompt-file", file, "--field", "text", *pair, "--verify")
    assert result.exit_code == 0, result.output
    assert "[3/3] " in result.output
    assert "3 prompts, " in result.output
    assert "3 exact" in result.output
    assert result.output.count("╭") == 1


def test_a_row_may_hold_messages(run, pair, rows, instruct):
    file = rows({"messages": [{"role": "user", "content": PROMPT}]})
    given = ["--target", instruct, "--json"]
    found = tokens(run("--prompt-file", file, *pair, *given))
    assert found == tokens(run(PROMPT, *pair, *given))


@pytest.mark.parametrize(
    ("lines", "given", "said"),
    [
        ([{"prompt": "w5"}, "w5"], [], "line 2: not JSON"),
        ([["w5"]], [], "line 1: a row is a JSON object"),
        ([{"text": "w5"}], [], "line 1: no field 'prompt' or 'messages'; there are text"),
        ([{"text": "w5"}], ["--field", "txt"], "line 1: no field 'txt'"),
        ([{"prompt": 5}], [], "line 1: field 'prompt' holds neither"),
        ([{"prompt": ""}], [], "line 1: field 'prompt' holds neither"),
        ([""], [], "is empty"),
        ([{"prompt": "w5"}, {"prompt": "w5 " * 300}], [], "prompt 2 of 2: the prompt has 300"),
        (
            [{"prompt": "w5"}, {"messages": [{"role": "user", "content": "w5"}]}],
            [],
            "chat template",
        ),
    ],
)
def test_a_bad_row_is_named_before_a_model_loads(
    run, target, rows, tmp_path, lines, given, said, refused
):
    folder = tmp_path / "m"
    shutil.copytree(target, folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    refused(run("--prompt-file", rows(*lines), "--target", folder, *given), said)


def test_a_field_needs_a_file_of_rows(run, refused):
    refused(run("hi", "--field", "text"), "--field names a field of a .jsonl file")
