"""What every benchmark states with its figures: the machine, and medians of interleaved rounds."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def machine() -> dict[str, str | int]:
    """Return the processor, its vector instructions and cores, the threads in use and the versions that matter."""
    return {
        "processor": processor(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
    }


def processor() -> str:
    """Return the processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def round_robin(variants: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 2) -> dict[str, float]:
    """Return the median seconds of each variant; every round runs each once, so that all meet the same noise."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for at in range(warm_up + rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if at >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}
