"""The store: crashes, damaged files, full disks, and other versions."""

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toolkit.bench import store as module
from toolkit.bench.columns import SCHEMA_VERSION, TABLES
from toolkit.bench.store import Store

from toolkit import ToolkitError


@pytest.fixture
def store(tmp_path, invented):
    results = invented({"ar": 50.0}, prompts=3)
    made = Store.new(tmp_path / "r")
    made.write("runs", 0, results.runs)
    for number, row in enumerate(results.requests):
        made.write("requests", number, [row])
    return made


def numbers(store):
    return [row["request_id"] for row in store.rows("requests")]


def test_rows_come_back_in_order(store):
    assert numbers(Store.open(store.path)) == [0, 1, 2]


def test_a_part_is_replaced(store):
    store.write("requests", 1, [store.rows("requests")[1] | {"prompt_index": 9}])
    assert [row["prompt_index"] for row in store.rows("requests")] == [0, 9, 2]


def test_compaction_makes_one_file_and_loses_nothing(store):
    before = store.rows("requests")
    store.compact()
    assert len(list((store.path / "requests").iterdir())) == 1
    assert store.rows("requests") == before
    assert (
        pq.read_schema(next((store.path / "requests").iterdir())).metadata
        == TABLES["requests"].metadata
    )


@pytest.mark.parametrize("call", range(4))
def test_a_crash_in_compaction_loses_and_doubles_nothing(store, monkeypatch, call):
    """Broken off at its first, second, … step on the folder."""
    before, count = store.rows("requests"), iter(range(99))
    monkeypatch.setattr(Path, "rename", _breaking(Path.rename, count, call))
    monkeypatch.setattr("shutil.rmtree", _breaking(shutil.rmtree, count, call))
    with suppress(KeyboardInterrupt):
        store.compact()
    monkeypatch.undo()
    left = sorted(store.path.iterdir())
    assert Store.open(store.path).rows("requests") == before
    assert sorted(store.path.iterdir()) == left  # who reads changes nothing
    store.recover()
    assert Store.open(store.path).rows("requests") == before
    assert {p.name for p in store.path.iterdir()} == {"runs", "requests"}


def _breaking(function, count, call):
    def broken(*args, **options):
        if next(count) == call:
            raise KeyboardInterrupt
        return function(*args, **options)

    return broken


def test_a_file_in_the_making_is_not_read(store):
    (store.path / "requests" / "part-000009.parquet.tmp").write_bytes(b"half")
    assert numbers(Store.open(store.path)) == [0, 1, 2]


def test_a_new_bench_wants_a_new_folder(store, tmp_path):
    with pytest.raises(ToolkitError, match="--resume"):
        Store.new(store.path)
    (tmp_path / "empty").mkdir()
    assert Store.new(tmp_path / "empty")


def test_resuming_is_advised_where_there_is_something_to_resume(tmp_path, monkeypatch):
    """The very first file cannot be written, and then, as the control, a later one."""
    store, runs = Store.new(tmp_path / "r"), [{"run": 0}]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_part", full)
    with pytest.raises(ToolkitError, match=r"No space left.*nothing was measured.*--out") as failed:
        store.write("runs", 0, runs)
    assert "--resume" not in str(failed.value)
    assert not store.resumable
    assert Store.new(tmp_path / "r") == store  # the folder can be used for a new bench
    (store.path / "runs" / "part-000000.parquet").write_bytes(b"")
    with pytest.raises(ToolkitError, match=r"finished requests are kept.*--resume"):
        store.write("requests", 0, runs)
    assert store.resumable


def test_what_is_no_bench_is_refused(tmp_path):
    with pytest.raises(ToolkitError, match="no results folder"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(ToolkitError, match="no results folder"):
        Store.open(Path("x" * 5000))
    (tmp_path / "other").mkdir()
    with pytest.raises(ToolkitError, match="holds no results"):
        Store.open(tmp_path / "other")


def test_results_of_a_single_run_are_told_apart(toolkit, tmp_path):
    args = ("run", "Once", "--target", "stories-1m", "--max-new-tokens", 2)
    assert toolkit(*args, "--out", tmp_path / "one").exit_code == 0
    with pytest.raises(ToolkitError, match="of `toolkit run --out`"):
        Store.open(tmp_path / "one")


def test_another_schema_version_is_refused(store, toolkit):
    store.write("runs", 0, [store.rows("runs")[0] | {"schema_version": 99}])
    with pytest.raises(ToolkitError, match=f"version 99, and this toolkit reads {SCHEMA_VERSION}:"):
        Store.open(store.path)
    for command in (("report", store.path), ("bench", "--resume", "--out", store.path)):
        result = toolkit(*command)
        assert result.exit_code == 2
        assert "schema version 99" in result.output


def test_a_damaged_file_is_named(store):
    (store.path / "requests" / "part-000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ToolkitError, match=r"part-000001.parquet cannot be read"):
        store.rows("requests")


def test_a_file_that_a_finishing_bench_removed_is_not_called_damaged(store, monkeypatch):
    files = store._files("requests")
    files[1].unlink()
    monkeypatch.setattr(Store, "_files", lambda self, table: files)
    with pytest.raises(ToolkitError, match="a bench has just finished"):
        store.rows("requests")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda table: table.drop_columns(["tau"]), "has no column 'tau'"),
        (lambda table: with_column(table, "steps", ["many"]), "holds values that no bench writes"),
        (lambda table: with_column(table, "wall_ms", [None]), "null values"),
    ],
)
def test_columns_are_checked_where_they_are_read(store, toolkit, change, word):
    file = store._files("requests")[1]
    pq.write_table(change(pq.ParquetFile(file).read()), file)
    with pytest.raises(ToolkitError, match=word):
        Store.open(store.path).rows("requests")
    done = toolkit("report", store.path)
    assert done.exit_code == 2
    assert word in " ".join(done.output.split())


def with_column(table, name, values):
    """The table with other values in one column."""
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_a_folder_that_is_named_like_a_column_adds_none(tmp_path, invented):
    results = invented({"ar": 50.0}, prompts=1)
    store = Store.new(tmp_path / "k=3")
    store.write("runs", 0, results.runs)
    assert store.rows("runs")[0].keys() == results.runs[0].keys()


def test_a_lock_alone_is_an_empty_folder(tmp_path):
    (tmp_path / ".lock").touch()
    assert Store.new(tmp_path)


def test_a_full_disk_loses_nothing_that_was_written(store):
    """A limit on the size of files stands in for the disk: writing fails half-way, as there."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from toolkit.bench.store import Store\n"
        "from toolkit.bench.columns import TABLES\n"
        "store = Store(Path(sys.argv[1]))\n"
        "row = store.rows('requests')[0] | {'request_id': 3, 'text': 'x' * 100}\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))\n"
        "try:\n    store.write('requests', 3, [row])\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(store.path)], capture_output=True, text=True, timeout=60
    )
    assert "ToolkitError cannot write to" in done.stdout, done.stderr
    assert "finished requests are kept" in done.stdout
    assert numbers(Store.open(store.path)) == [0, 1, 2]


@pytest.mark.parametrize("table", TABLES)
def test_no_column_is_a_reserved_word_of_sql(table):
    reserved = set("all and as by case desc else end from group having in limit not null on or order "
                   "select table then to union user using when where with".split())  # fmt: skip
    assert set(TABLES[table].names) & reserved == set()
