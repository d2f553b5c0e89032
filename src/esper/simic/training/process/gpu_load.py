"""Load and memory of the GPU of this process, read without synchronising with it."""

import ctypes
import sys
from functools import lru_cache
from typing import Any

from esper.leyline.gpu_load import GpuLoad


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


def gpu_load() -> GpuLoad | None:
    """Return the load of torch's current GPU; None if this process has not used one yet."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    properties = cuda.get_device_properties(cuda.current_device())
    return GpuLoad(
        percent=_busy_percent(str(getattr(properties, "uuid", ""))),
        memory_bytes=cuda.memory_reserved(),
        total_bytes=properties.total_memory,
    )


def _busy_percent(uuid: str) -> float | None:
    """Return the utilization of a GPU in the last second, in percent; None without NVML."""
    nvml = _nvml()
    if nvml is None or not uuid:
        return None
    handle, found = ctypes.c_void_p(), _Utilization()
    name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
    if nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle)) != 0:
        return None
    if nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(found)) != 0:
        return None
    return float(found.gpu)


@lru_cache(maxsize=1)
def _nvml() -> Any:
    """Return NVIDIA's management library (NVML), which comes with the driver; None without it."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        return library if library.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None
