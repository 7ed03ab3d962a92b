"""What the graph of a whole step keeps alive, as it must on a GPU."""

import copy
import gc
import types

import pytest
import torch
from attrs import evolve
from tape import Tape, Taping
from torch.utils._pytree import tree_leaves

from toolkit import Pipeline, Pool
from toolkit.conformance.models import noisy, tiny
from toolkit.runtime import static_step
from toolkit.runtime.compute.executors import captured


def memory_of(values):
    """Where the tensors among some values lie."""
    return [v.untyped_storage().data_ptr() for v in values if isinstance(v, torch.Tensor)]


class Forgets(Tape):
    """As a CUDA graph, keeps alive what it has made, and nothing that it has read: `read` says what."""

    def record(self, run):
        with Taping() as taping:
            result = run()
        read, made = set(), set()
        for _, args, kwargs, results in taping.operations:
            read |= {*memory_of(tree_leaves((args, kwargs)))} - made
            made |= {*memory_of(tree_leaves(results))} - read
        self.read = read
        return lambda: None, result


def kept_by(roots):
    """Where the tensors lie that are kept alive by some objects."""
    seen, left = {}, list(roots)
    while left:
        it = left.pop()
        if id(it) in seen or isinstance(it, type | types.ModuleType | types.FrameType):
            continue
        seen[id(it)] = it
        function = isinstance(it, types.FunctionType)
        left += [it.__closure__] if function else gc.get_referents(it)
    return {*memory_of(seen.values())}


def test_a_graph_keeps_alive_what_it_reads(monkeypatch):
    """And the control: without its inputs it does not."""
    monkeypatch.setattr(captured, "recorder_for", lambda _: Tape())
    graphs, honest = [], static_step.capture_step

    def noted(models, *args):
        captures = [model.captured for model in models]
        monkeypatch.setattr(captures[0], "recorder", Forgets())
        graphs.append((honest(models, *args), *captures))
        raise KeyboardInterrupt

    monkeypatch.setattr(static_step, "capture_step", noted)
    modules = {"it": copy.deepcopy(tiny("llama")).double(), "draft": noisy("llama").double()}
    made = Pipeline("it", drafter="model:draft", shaper="growmap:tree=3x2", pool=Pool(modules=modules))
    with pytest.raises(KeyboardInterrupt):
        list(made.stream([5, 9, 33, 4, 8], max_new_tokens=20).decode())
    graph, *captures = graphs[0]
    read = captures[0].recorder.read
    assert len(read) > 20
    assert read <= kept_by([graph, *captures])
    assert not read <= kept_by([evolve(graph, inputs=()), *captures])
