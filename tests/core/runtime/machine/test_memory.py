"""Peaks are those of the GPUs in use; memory in large pages holds what it should."""

import pytest
import torch

from toolkit.runtime.machine.memory import PAGE, forget_peaks, in_large_pages, peak_memory


def test_the_peak_is_that_of_all_gpus_in_use(monkeypatch):
    peaks = {0: 100, 1: 20, 2: 3}
    gpus = [torch.device("cuda", index) for index in peaks]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peaks[device.index])
    assert peak_memory([gpus[0], gpus[2], torch.device("cpu"), gpus[0]]) == 103
    assert peak_memory([torch.device("cpu")]) > 1 << 20
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(peaks))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda index: peaks.update({index: 0}))
    forget_peaks()  # CUDA is not in use
    assert peak_memory(gpus) == 123
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    forget_peaks()
    assert peak_memory(gpus) == 0


@pytest.mark.parametrize("count", [0, 1, PAGE // 4 - 1, PAGE, 3 * PAGE])
def test_a_copy_in_large_pages_is_a_copy(count):
    tensor = torch.arange(2 * count, dtype=torch.int32).view(-1, 2).t()
    copy = in_large_pages(tensor)
    assert torch.equal(copy, tensor)
    assert copy.is_contiguous()
    assert copy.data_ptr() != tensor.data_ptr() or not count
