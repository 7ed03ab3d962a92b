"""Data sets: rows of each set's form become prompts; what is missing says how to get it.

The rows have the columns that each set documents. Fetching from the hub is not exercised here.
"""

import gzip
import json
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toolkit.bench import datasets as home
from toolkit.bench.dataset_loading import read_local, read_local_rows
from toolkit.bench.prepared_plan import load_dataset

from toolkit import Dataset, Registry, ToolkitError, hookimpl

LONG = "The lobster lives in the sea. " * 10
ROWS = {
    "wikitext2": [
        {"text": ""}, {"text": " = Lobster = \n"}, {"text": LONG}, {"text": " = = Life = = \n"},
        {"text": "Short.\n"}, {"text": " = = Food = = \n"}, {"text": LONG}, {"text": "More.\n"},
    ],
    "pg19": [{"short_book_title": "t", "publication_date": 1900, "url": "u", "text": LONG}],
    "c4": [{"text": LONG, "timestamp": "t", "url": "u"}],
    "cnn_dailymail": [{"article": "It rained.", "highlights": "Rain.", "id": "1"}],
    "humaneval": [
        {"task_id": "HumanEval/0", "prompt": "def f():\n", "test": "def check(f): f()",
         "entry_point": "f"}
    ],
    "simpleqa": [{"metadata": "{}", "problem": "Who?", "answer": "Nora"}],
    "mmlu": [{"question": "2+2?", "subject": "s", "choices": ["3", "4", "5", "6"], "answer": 1}],
    "gsm8k": [{"question": "How many?", "answer": "#### 3"}],
    "spec-bench": [{"question_id": 1, "category": "writing", "turns": ["First?", "Second?"]}],
    "mt-bench": [{"prompt_id": 1, "category": "c", "prompt": ["First?", "Second?"], "reference": []}],
}  # fmt: skip
EXPECTED = {
    "wikitext2": [(LONG.strip(),), (f"{LONG}More.",)],
    "pg19": [(LONG,)],
    "c4": [(LONG,)],
    "cnn_dailymail": [("Summarize this article.\n\nIt rained.\n\nSummary:",)],
    "humaneval": [("def f():\n",)],
    "simpleqa": [("Who?\nAnswer with the fact alone.\nAnswer:",)],
    "mmlu": [("2+2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:",)],
    "gsm8k": [("Question: How many?\nAnswer:",)],
    "spec-bench": [("First?", "Second?")],
    "mt-bench": [("First?", "Second?")],
}


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def registry():
    return Registry.installed()


def test_every_named_set_is_here(registry):
    assert set(registry.datasets) == {*ROWS, "stories", "last-word"}


def test_a_set_has_a_file_of_its_own_name(registry):
    stems = {p.stem.replace("_", "-") for p in Path(home.__file__).parent.glob("*.py")}
    assert {name.replace("_", "-") for name in registry.datasets} == stems - {"--init--"}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_rows_become_prompts(registry, tmp_path, name, ending):
    path = write(tmp_path / f"rows{ending}", ROWS[name])
    source, _ = load_dataset(f"{name}:{path}", registry)
    assert [tuple(turns) for turns in source.conversations] == EXPECTED[name]
    assert source.revision.startswith("sha256:")


def test_graded_sets_have_references(registry, tmp_path):
    references = {"mmlu": "B", "humaneval": "def check(f): f()\ncheck(f)", "simpleqa": "Nora"}
    for name, reference in references.items():
        path = write(tmp_path / f"{name}.jsonl", ROWS[name])
        assert list(load_dataset(f"{name}:{path}", registry)[0].references) == [reference]
    graded = {name for name, dataset in registry.datasets.items() if dataset.grader}
    assert graded == {*references, "last-word"}


def test_rows_without_the_right_answers_are_prompts_only(registry, tmp_path):
    path = write(tmp_path / "x.jsonl", [{"prompt": "def f():\n"}])
    source, _ = load_dataset(f"humaneval:{path}", registry)
    assert list(source.conversations) == [("def f():\n",)]
    assert not source.references


def test_last_words(registry, tmp_path):
    sentences = (
        "She went home. He saw a very big red dog.  Then it ran\nback into the old house! Was it Tom?"
        "\n\nA new paragraph starts all of this again."
    )
    (tmp_path / "x.txt").write_text(sentences)
    source, _ = load_dataset(f"last-word:{tmp_path / 'x.txt'}", registry)
    assert list(source.references) == ["dog", "house"]
    assert list(source.conversations) == [
        ("She went home. He saw a very big red",),
        ("She went home. He saw a very big red dog. Then it ran back into the old",),
    ]


def test_last_words_need_a_text_of_sentences(registry, tmp_path):
    with pytest.raises(ToolkitError, match="is made from a text"):
        load_dataset("last-word", registry)
    (tmp_path / "x.txt").write_text("one two three")
    with pytest.raises(ToolkitError, match="no sentence of 6 to 60 words after another one"):
        load_dataset(f"last-word:{tmp_path / 'x.txt'}", registry)


def test_a_folder_is_read_in_the_order_of_names(registry, tmp_path):
    for index in (2, 1):
        write(tmp_path / f"{index}.jsonl", [{"text": f"text {index}"}])
    (tmp_path / "readme.md").write_text("no data")
    source, _ = load_dataset(f"c4:{tmp_path}", registry)
    assert [turns[0] for turns in source.conversations] == ["text 1", "text 2"]


def test_books_in_text_files(registry, tmp_path):
    (tmp_path / "a.txt").write_text("A book.\nWith lines.\n")
    source, _ = load_dataset(f"pg19:{tmp_path}", registry)
    assert list(source.conversations) == [("A book.\nWith lines.\n",)]


def test_rows_of_another_form_are_refused(registry, tmp_path):
    path = write(tmp_path / "x.jsonl", [{"question": "q"}])
    with pytest.raises(ToolkitError, match="rows of another form, with columns question"):
        load_dataset(f"humaneval:{path}", registry)


def test_the_shipped_prompts(registry):
    source, chat = load_dataset("stories", registry)
    assert len(source.conversations) >= 60
    assert len(set(source.conversations)) == len(source.conversations)
    assert not chat


def test_files_of_ones_own(tmp_path):
    rows = [{"q": "one", "turns": ["a", "b"]}, {"q": "two", "turns": ["c"]}]
    for name in ("x.jsonl", "x.parquet"):
        path = write(tmp_path / name, rows)
        assert list(read_local(path, "q").conversations) == [("one",), ("two",)]
        assert list(read_local(path, None).conversations) == [("a", "b"), ("c",)]
    (tmp_path / "x.txt").write_text("one\n\ntwo\n")
    assert list(read_local(tmp_path / "x.txt", None).conversations) == [("one",), ("two",)]


def test_another_file_has_another_revision(tmp_path):
    one = read_local_rows(write(tmp_path / "a.jsonl", [{"q": "a"}]))[1]
    two = read_local_rows(write(tmp_path / "b.jsonl", [{"q": "b"}]))[1]
    assert one != two


def test_packed_json_lines(tmp_path):
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(b'{"text": "a"}\n'))
    assert read_local_rows(tmp_path / "x.json.gz")[0] == [{"text": "a"}]


def test_a_copy_of_the_hubs_folder_is_read_as_the_hub_is(registry, tmp_path):
    """The files of the config and split, and no others; all of a folder that names none."""

    def question(text):
        return [{"question": text, "subject": "logic", "choices": list("wxyz"), "answer": 1}]

    for place in (
        "all/test-00000-of-00002", "all/test-00001-of-00002", "all/dev-00000-of-00001",
        "all/auxiliary_train-00000-of-00001", "anatomy/test-00000-of-00001",
    ):  # fmt: skip
        (tmp_path / place).parent.mkdir(exist_ok=True)
        write(tmp_path / f"{place}.parquet", question(place))
    source, _ = load_dataset(f"mmlu:{tmp_path}", registry)
    asked = [talk[0].splitlines()[0] for talk in source.conversations]
    assert [text.count("all/test-0000") for text in asked] == [1, 1]
    assert len(source.references) == 2
    whole, _ = load_dataset(f"mmlu:{tmp_path / 'anatomy'}", registry)
    assert len(whole.conversations) == 1
    assert len(read_local_rows(tmp_path)[0]) == 5


def test_a_split_is_a_word_of_a_name(tmp_path):
    for name in ("c4-validation.0.json.gz", "c4-train.0.json.gz"):
        row = gzip.compress(f'{{"text": "{name}"}}'.encode())
        (tmp_path / "en").mkdir(exist_ok=True)
        (tmp_path / "en" / name).write_bytes(row)
    assert [row["text"] for row in read_local_rows(tmp_path, "en", "validation")[0]] == [
        "c4-validation.0.json.gz"
    ]
    assert len(read_local_rows(tmp_path, "fr", "val")[0]) == 2


def test_simpleqa_as_it_is_published(registry, tmp_path):
    """A table of comma-separated values whose texts have commas, quotes and lines."""
    text = 'metadata,problem,answer\n"{\'a\': 1}","Who said ""no"",\nand when?","Ada, 1843"\n'
    (tmp_path / "simple_qa_test_set.csv").write_text(text)
    source, chat = load_dataset(f"simpleqa:{tmp_path}", registry)
    assert chat
    assert 'Who said "no",\nand when?' in source.conversations[0][0]
    assert list(source.references) == ["Ada, 1843"]


def bad_files(folder):
    (folder / "empty.jsonl").touch()
    (folder / "broken.jsonl").write_text("{")
    (folder / "list.jsonl").write_text("[1]\n")
    (folder / "broken.parquet").write_bytes(b"PAR1")
    (folder / "deep.jsonl").write_text("[" * 10**5 + "\n")
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}" * 1000)[:-12])
    (folder / "bytes.txt").write_bytes(b"\xff\xfe\xe9")
    (folder / "x.tsv").write_text("a\tb\n")
    (folder / "broken.csv").write_text('prompt\n"a')
    (folder / "none").mkdir()
    write(folder / "x.jsonl", [{"a": 1}])
    write(folder / "chat.jsonl", [{"turns": [{"role": "user", "content": "Why?"}]}])
    return {
        "stores": "did you mean stories",
        "nothing": "there are c4",
        f"{folder}/absent.jsonl": "no file or folder",
        f"{folder}/empty.jsonl": "is empty",
        f"{folder}/broken.jsonl": "cannot be read",
        f"{folder}/deep.jsonl": "cannot be read",
        f"{folder}/cut.jsonl.gz": "cannot be read",
        "x" * 5000 + ".jsonl": "no file or folder",
        f"{folder}/list.jsonl": "JSON object",
        f"{folder}/broken.parquet": "cannot be read",
        f"{folder}/bytes.txt": "cannot be read",
        f"{folder}/x.tsv": "must end in",
        f"{folder}/broken.csv": "cannot be read",
        f"{folder}/none": "holds no file",
        f"{folder}/x.jsonl": "no column turns, prompt or text",
        f"{folder}/x.jsonl:b": "no column b",
        f"{folder}/x.jsonl:a": "holds int",
        f"{folder}/chat.jsonl": "holds dict",
        f"pg19:{folder}/absent": "no file or folder",
        "stories:there": "ships with the package",
    }


def test_bad_places_are_clear_errors(registry, tmp_path):
    for name, word in bad_files(tmp_path).items():
        with pytest.raises(ToolkitError, match=word):
            load_dataset(name, registry)


def test_without_the_package_datasets_the_way_is_told(registry, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ToolkitError, match=r"speculative-toolkit\[datasets\].*mt-bench:FOLDER"):
        load_dataset("mt-bench", registry)


def test_without_a_network_the_way_is_told(registry, monkeypatch):
    """The hub is off in the tests."""
    fake = types.ModuleType("datasets")
    fake.load_dataset = None
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(ToolkitError, match=r"could not be loaded.*hf download allenai/c4"):
        load_dataset("c4", registry)


def test_the_hub_is_asked_for_one_commit(registry, monkeypatch):
    asked = {}

    def fetch(repo, config, **options):
        asked.update(repo=repo, config=config, **options)
        return [{"question": "How many?", "answer": ""}]

    fake = types.ModuleType("datasets")
    fake.load_dataset = fetch
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr(
        "huggingface_hub.HfApi.dataset_info", lambda *_, **__: types.SimpleNamespace(sha="abc123")
    )
    source, chat = load_dataset("gsm8k", registry)
    assert source.revision == asked["revision"] == "abc123"
    assert (asked["repo"], asked["config"], asked["split"]) == ("openai/gsm8k", "main", "test")
    assert chat


def test_a_plugin_brings_a_data_set():
    mine = Dataset("mine", "of a stranger", lambda location: None)

    def plugin(name):
        module = types.ModuleType(name)
        module.datasets = hookimpl(lambda: [mine])
        return module

    registry = Registry()
    registry.add(plugin("theirs"), "theirs", "1")
    assert registry.datasets == {"mine": mine}
    with pytest.raises(ToolkitError, match="'mine' of again exists already"):
        registry.add(plugin("again"), "again", "1")
    assert registry.datasets == {"mine": mine}
