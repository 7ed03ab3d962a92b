"""Each model is found and loaded once, where and as the pool says."""

import copy
from types import SimpleNamespace

import attrs
import pytest
import torch

from toolkit import Pipeline, Pool
from toolkit.conformance.models import tiny
from toolkit.errors import ModelError

ALIASES = {"stories-1m": "package:drafter"}
on_cpu_only = pytest.mark.skipif(torch.cuda.is_available(), reason="a cuda device is here")


def test_a_model_is_found_and_loaded_once():
    pool = Pool(aliases=ALIASES)
    assert pool.find("stories-1m") is pool.find("stories-1m")
    assert not pool._loaded
    assert pool.load("stories-1m") is pool.load("stories-1m")


def test_pools_share_nothing():
    assert Pool(aliases=ALIASES).load("stories-1m") is not Pool(aliases=ALIASES).load("stories-1m")


@pytest.mark.parametrize(
    ("dtype", "found"),
    [("fp32", torch.float32), ("fp64", torch.float64), ("bf16", torch.bfloat16), ("fp16", torch.half)],
)
def test_dtype(dtype, found):
    loaded = Pool("cpu", dtype, aliases=ALIASES).load("stories-1m")
    assert loaded.dtype == found
    assert {p.dtype for p in loaded.module.parameters()} == {found}
    assert loaded.device.type == "cpu"


@on_cpu_only
def test_auto_is_fp32_on_cpu():
    assert (Pool().torch_device, Pool().torch_dtype) == (torch.device("cpu"), torch.float32)


def test_auto_keeps_the_checkpoints_dtype_on_cuda(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert (Pool().torch_device.type, Pool().torch_dtype) == ("cuda", None)
    assert Pool("cpu").torch_dtype == torch.float32


@on_cpu_only
def test_cuda_that_is_not_here():
    with pytest.raises(ModelError, match="no cuda device is here: use --device cpu"):
        Pool("cuda")


def test_one_of_several_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert Pool("cuda:1").torch_device == torch.device("cuda", 1)
    with pytest.raises(ModelError, match="'cuda:2' is here: GPUs count from cuda:0 to cuda:1"):
        Pool("cuda:2")
    for odd in ("cuda:", "cuda:x", "cpu:0", "gpu"):
        with pytest.raises(ModelError, match=f"no device '{odd}': there are auto, cpu, cuda, and"):
            Pool(odd)


def test_a_module_that_is_spread_over_devices_is_refused():
    module = copy.deepcopy(tiny("llama"))
    module.hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu"}
    with pytest.raises(ModelError, match=r"'mine' is spread over devices 0, cpu: load it on one"):
        Pool(modules={"mine": module}).load("mine")
    module.hf_device_map = {"": 0}
    assert Pool(modules={"mine": module}).load("mine")


def test_a_module_in_memory_keeps_its_dtype():
    module = copy.deepcopy(tiny("llama"))
    pool = Pool(modules={"mine": module})
    loaded = pool.load("mine")
    assert (loaded.module, loaded.dtype, loaded.name) == (module, torch.float64, "mine")
    assert pool.find("mine") is loaded
    assert pool.origin("mine") == "in memory"
    assert pool.revision("mine") is None


@pytest.mark.parametrize(
    ("name", "place"),
    [("stories-1m", "in this package"), ("owner/name", "owner/name"), ("./folder", "./folder")],
)
def test_place(name, place):
    assert Pool(aliases=ALIASES).origin(name) == place


def test_revision_changes_with_the_weights(tmp_path):
    copy.deepcopy(tiny("llama", 1)).save_pretrained(tmp_path / "one")
    copy.deepcopy(tiny("llama", 2)).save_pretrained(tmp_path / "two")
    one, two = (Pool().revision(str(tmp_path / name)) for name in ("one", "two"))
    assert one != two
    assert one == Pool().revision(str(tmp_path / "one"))
    assert one.startswith("sha256:")


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin", "pytorch_model.bin.index.json", "generation_config.json", "tokenizer.json"
    ],
)  # fmt: skip
def test_revision_changes_with_every_file_that_decides_the_output(tmp_path, name):
    copy.deepcopy(tiny("llama", 1)).save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("one")
    one = Pool().revision(str(tmp_path))
    (tmp_path / "README.md").write_text("two")  # the control
    assert one == Pool().revision(str(tmp_path))
    (tmp_path / name).write_bytes(b"{}")
    assert one != Pool().revision(str(tmp_path))


def test_an_unknown_name_is_a_model_error():
    with pytest.raises(ModelError, match="no model called 'storeis-1m'"):
        Pool(aliases=ALIASES).load("storeis-1m")


@pytest.mark.parametrize("given", [{"device": "tpu"}, {"dtype": "float16"}])
def test_a_device_or_dtype_that_is_none_is_refused(given):
    with pytest.raises(ModelError, match="there are"):
        Pool(**given)


def test_a_pool_changes_none_of_its_arguments():
    aliases, modules = {"mine": "owner/mine"}, {"it": tiny("llama")}
    pool = Pool(aliases=aliases, modules=modules)
    Pipeline(tiny("gpt2"), pool=pool)
    assert (aliases, list(modules)) == ({"mine": "owner/mine"}, ["it"])
    assert "stories-11m" in pool.aliases


def test_whole_steps_are_graphs_where_all_models_are_on_a_gpu(monkeypatch):
    on_gpu, on_cpu = (SimpleNamespace(device=torch.device(name)) for name in ("cuda:1", "cpu"))
    pool = Pool(modules={"there": on_gpu, "here": on_cpu})
    assert not pool.records_steps(["stories-11m"])
    monkeypatch.setattr(Pool, "torch_device", property(lambda _: torch.device("cuda")))
    assert pool.records_steps(["stories-11m", "there"])
    assert not pool.records_steps(["stories-11m", "here"])
    assert not attrs.evolve(pool, executor="functional").records_steps(["there"])
