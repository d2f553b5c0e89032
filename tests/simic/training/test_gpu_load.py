"""What this process takes of its GPU, with and without one."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from esper.leyline.gpu_load import GpuLoad
from esper.simic.training.process import gpu_load as module
from esper.simic.training.process.gpu_load import gpu_load


class Nvml:
    """Replaces NVIDIA's management library."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.asked: list[bytes] = []

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        self.asked.append(uuid)
        return self.status

    def nvmlDeviceGetUtilizationRates(self, handle: Any, found: Any) -> int:
        found._obj.gpu = 45
        return 0


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A torch with a GPU that was used."""
    properties = SimpleNamespace(uuid="1234-abcd", total_memory=80_000_000_000)
    found = SimpleNamespace(
        is_initialized=lambda: True,
        current_device=lambda: 0,
        get_device_properties=lambda _device: properties,
        memory_reserved=lambda: 3_000_000_000,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=found))
    return found


def test_the_load_of_a_gpu_is_read(cuda: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Nvml()
    monkeypatch.setattr(module, "_nvml", lambda: library)
    assert gpu_load() == GpuLoad(45.0, 3_000_000_000, 80_000_000_000)
    assert library.asked == [b"GPU-1234-abcd"]


@pytest.mark.parametrize("library", [None, Nvml(status=3)])
def test_without_nvml_the_memory_is_still_known(
    cuda: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, library: Nvml | None
) -> None:
    monkeypatch.setattr(module, "_nvml", lambda: library)
    assert gpu_load() == GpuLoad(None, 3_000_000_000, 80_000_000_000)


def test_without_a_gpu_or_before_it_is_used_there_is_no_load(
    cuda: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda.is_initialized = lambda: False
    assert gpu_load() is None
    monkeypatch.delitem(sys.modules, "torch")
    assert gpu_load() is None
