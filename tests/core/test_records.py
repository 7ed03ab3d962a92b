"""Parquet tables: schemas, whole files, one definition of every figure."""

import json
import os
import subprocess
import sys

import attrs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from toolkit import Pipeline, Pool, Registry, Step, ToolkitError, verify
from toolkit.conformance.models import fresh, noisy, tiny
from toolkit.records import (
    TABLES,
    Out,
    Request,
    Run,
    _toolkit_revision,
    run_record,
    schema,
    utc_now,
    write_part,
)
from toolkit.runtime.kernels import native
from toolkit.runtime.machine.cpu import cpu_model


@pytest.fixture(scope="module")
def done():
    pool = Pool(modules={"noisy": noisy("llama", 0)})
    pipeline = Pipeline(
        tiny("llama", 0), drafter="model:noisy", shaper="budget", pool=pool,
        registry=Registry.installed(),
    )
    generation = pipeline.generate([5, 9, 33, 4], max_new_tokens=24, record_nodes=True)
    return pipeline, generation.with_verification(verify(pipeline, generation))


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_documented(table):
    for field in TABLES[table]:
        assert field.metadata[b"help"], field.name


def test_columns_are_the_classes_fields():
    assert schema(Request).names == [f.name for f in attrs.fields(Request)]
    assert TABLES["steps"].names[:3] == ["run_id", "request_id", "step"]
    assert TABLES["steps"].names[3:] == [f.name for f in attrs.fields(Step)]


def test_a_folder_holds_all_tables(done, tmp_path):
    pipeline, generation = done
    Out.at(tmp_path / "results").write(run_record(pipeline), [generation])
    tables = {name: pq.read_table(tmp_path / "results" / name) for name in TABLES}
    (run,), (request,) = tables["runs"].to_pylist(), tables["requests"].to_pylist()
    assert run["shaper"] == "budget"
    assert run["numerics"] == "fp32"
    assert request["token_ids"] == generation.token_ids
    assert request["tau"] == generation.tau
    assert request["verdict"] == "exact"
    steps = tables["steps"].to_pylist()
    assert [s["committed"] for s in steps] == [s.committed for s in generation.steps]
    nodes = tables["nodes"].to_pylist()
    for step in steps:
        mine = [n for n in nodes if n["step"] == step["step"]]
        assert sum(n["fate"] == "accepted" for n in mine) == step["accepted"]
    assert {t["run_id"] for table in tables.values() for t in table.to_pylist()} == {run["run_id"]}


def test_a_run_names_the_machine_and_its_instruction_sets(done):
    assert run_record(done[0]).isa is None  # in float64 no kernel of ours computes
    single = Pipeline(
        fresh("llama", 0).float(), drafter="none", pool=Pool(), registry=Registry.installed()
    )
    run, found = run_record(single), native.library()
    assert run.cpu == cpu_model()
    assert run.isa == (found.isa if found else None)
    assert run.torch_isa == torch.backends.cpu.get_cpu_capability()
    with native.using(None):
        assert run_record(single).isa is None


def test_one_file_joins_request_and_run(done, tmp_path):
    pipeline, generation = done
    Out.at(tmp_path / "r.parquet").write(run_record(pipeline), [generation])
    table = pq.read_table(tmp_path / "r.parquet")
    assert set(table.column_names) == set(schema(Run).names) | set(schema(Request).names)
    assert len(table) == 1


def test_a_killed_writer_leaves_no_half_file(tmp_path):
    """Killed between writing and renaming, there is no file by the final name."""
    code = (
        "import os, pathlib, signal\n"
        "from toolkit import records\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"path = pathlib.Path({json.dumps(str(tmp_path / 'x.parquet'))})\n"
        "records.write_part(path, [], records.TABLES['steps'])\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], timeout=60)
    assert done.returncode == -9
    (part,) = tmp_path.iterdir()
    assert part.suffix == ".part"


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "x.parquet"
    for _ in range(2):
        write_part(path, [], TABLES["steps"])
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]


def test_out_is_checked_before_anything_runs(tmp_path):
    (tmp_path / "file.txt").touch()
    for path, word in (
        (tmp_path / "no" / "x.parquet", "no folder"),
        (tmp_path, "existing folder"),
        (tmp_path / "file.txt", "ending in .parquet"),
    ):
        with pytest.raises(ToolkitError, match=word):
            Out.at(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ToolkitError, match="permission"):
        Out.at(tmp_path / "x.parquet")


def test_a_run_says_when_it_began_and_what_ran_it():
    before = utc_now()
    run = run_record(Pipeline("stories-1m", drafter="ngram"))
    assert before <= run.created <= utc_now()
    assert pa.types.is_timestamp(TABLES["runs"].field("created").type)
    found = json.loads(run.executors)["stories-1m"]
    assert found.startswith("functional, because its family is described; ")
    assert "; linears: " in found
    assert run.load_average is None or run.load_average >= 0
    assert (run.cuda, run.gpu_driver) == (None, None) or run.device != "cpu"


def test_the_revision_is_the_toolkits_own(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    here = _toolkit_revision()
    monkeypatch.chdir(tmp_path)
    assert _toolkit_revision() == here
    monkeypatch.setattr("toolkit.records.__file__", str(tmp_path / "records.py"))
    assert _toolkit_revision() is None
