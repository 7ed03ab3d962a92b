"""How a step's data cross between host and device. A tensor that says that it is on a GPU stands in for
one that is."""

import pytest
import torch

from toolkit import transfer

SECOND = torch.device("cuda:1")


class OnSecondGpu(torch.Tensor):
    device = SECOND


@pytest.fixture
def done(monkeypatch):
    """What was asked of PyTorch, in order."""
    asked, honest, copy = [], torch.empty_like, torch.Tensor.copy_

    def pin_memory(tensor):
        asked.append("pin")
        return tensor

    def to(tensor, device, *, non_blocking=False):
        asked.append(("to", device, non_blocking))
        return tensor

    def empty_like(tensor, *, device, pin_memory=False):
        asked.append(("empty", device, pin_memory))
        return honest(tensor.as_subclass(torch.Tensor))

    def copying(tensor, source, *, non_blocking=False):
        asked.append(("copy", non_blocking))
        return copy(tensor.as_subclass(torch.Tensor), source.as_subclass(torch.Tensor))

    class Stream:
        def __init__(self, device):
            self.device = device

        def synchronize(self):
            asked.append(("wait", self.device))

    monkeypatch.setattr(torch, "empty_like", empty_like)
    monkeypatch.setattr(torch.Tensor, "copy_", copying)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    return asked


def test_several_tensors_come_to_pinned_memory_in_one_copy(done):
    """For which the host waits on the stream of their device, whichever is the current one."""
    parts = torch.arange(5, dtype=torch.int32), torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    found = transfer.fetch(*(part.as_subclass(OnSecondGpu) for part in parts))
    assert done == [("empty", "cpu", True), ("copy", True), ("wait", SECOND)]
    assert all(ours.dtype is part.dtype for ours, part in zip(found, parts, strict=True))
    assert all(map(torch.equal, found, parts))


def test_several_tensors_go_from_pinned_memory_in_one_copy(done):
    """For which nothing waits."""
    parts = torch.arange(5, dtype=torch.int32), torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    found = transfer.send(SECOND, *parts)
    assert done == ["pin", ("to", SECOND, True)]
    assert all(ours.dtype is part.dtype for ours, part in zip(found, parts, strict=True))
    assert all(map(torch.equal, found, parts))


def test_a_tensor_is_written_from_pinned_memory(done):
    target, source = torch.zeros(3), torch.arange(3.0)
    transfer.write(source, target.as_subclass(OnSecondGpu))
    assert done == ["pin", ("copy", True)]
    assert torch.equal(target, source)


def test_what_is_on_the_host_stays_where_it_is(done):
    parts = torch.arange(5), torch.zeros(2)
    assert all(a is b for a, b in zip(transfer.fetch(*parts), parts, strict=True))
    assert all(a is b for a, b in zip(transfer.send(parts[0].device, *parts), parts, strict=True))
    assert done == []
