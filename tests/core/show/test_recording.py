"""Reading a results folder: what is recorded comes back, and bad folders are named."""

import shutil

import pytest

from toolkit import Pipeline, Pool, Registry, ToolkitError, run_record
from toolkit.conformance.models import COSTS, noisy, tiny
from toolkit.nodes import list_nodes
from toolkit.records import Out
from toolkit.show.recording import choose_request, read_recording


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two requests and the folder they were written to."""
    pipeline = Pipeline(
        tiny("llama", 1), drafter="model:noisy", shaper="fixed", registry=Registry.installed(),
        pool=Pool(modules={"noisy": noisy("llama", 1, 0.05)}, costs=COSTS),
    )  # fmt: skip
    generations = [
        pipeline.generate(prompt, max_new_tokens=16, record_nodes=True)
        for prompt in ([5, 9, 33, 4], [7, 8])
    ]
    folder = tmp_path_factory.mktemp("recorded") / "results"
    Out.at(folder).write(run_record(pipeline), generations)
    return folder, generations


def test_what_is_recorded_comes_back(recorded):
    folder, generations = recorded
    requests = read_recording(folder)
    assert [request.number for request in requests] == [0, 1]
    for request, generation in zip(requests, generations, strict=True):
        events = [e for e in generation.events if e.step is not None]
        assert len(request.steps) == len(events)
        for step, event in zip(request.steps, events, strict=True):
            nodes = list_nodes(event.tree, event.verdict, event.scores, generation.piece)
            assert step.nodes == [*nodes]
            assert step.row["nodes"] == event.step.nodes
            assert step.times["verify_ms"] == event.step.verify_ms
        tokens = [node.token for step in request.steps for node in step.committed]
        assert [request.steps[0].nodes[0].token, *tokens] == generation.token_ids
        assert request.specs["shaper"] == "fixed"


def copied(recorded, tmp_path):
    return shutil.copytree(recorded[0], tmp_path / "copy")


def test_a_folder_without_nodes_says_how_to_record_them(recorded, tmp_path):
    folder = copied(recorded, tmp_path)
    shutil.rmtree(folder / "nodes")
    with pytest.raises(ToolkitError, match="--record nodes"):
        read_recording(folder)


def test_no_folder_is_named(tmp_path):
    with pytest.raises(ToolkitError, match="does not exist"):
        read_recording(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ToolkitError, match="is a file"):
        read_recording(tmp_path / "file")


def test_a_truncated_file_is_named(recorded, tmp_path):
    folder = copied(recorded, tmp_path)
    (file,) = (folder / "nodes").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ToolkitError, match=r"part-00000.parquet cannot be read"):
        read_recording(folder)


def test_a_request_that_was_never_finished_is_left_out(recorded, tmp_path):
    folder = copied(recorded, tmp_path)
    shutil.rmtree(folder / "requests")
    with pytest.raises(ToolkitError, match="no finished request"):
        read_recording(folder)


def test_an_unknown_request_or_step_is_named(recorded):
    requests = read_recording(recorded[0])
    with pytest.raises(ToolkitError, match=r"no request 7 .* there are 0, 1"):
        choose_request(requests, 7)
    with pytest.raises(ToolkitError, match=f"its steps are 0 to {len(requests[0].steps) - 1}"):
        requests[0].step(len(requests[0].steps))
