"""What the host's processor, memory, disk and network do, read without waiting."""

import time
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from read_api.health import Machine
from read_api.system import Disk, Memory, Network, Processor, Resources, Swap

MEBIBYTE = 1024 * 1024

_process = psutil.Process()


def machine() -> Machine:
    """Look; of the processor, at what it has done since the last look."""
    memory = psutil.virtual_memory()
    return Machine(
        cpu_percent=psutil.cpu_percent(interval=None),
        memory_used_percent=memory.percent,
        memory_available_mb=round(memory.available / MEBIBYTE, 1),
    )


def resources(path: Path) -> Resources:
    """Look at all there is, and at the disk that holds a path."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    used = psutil.cpu_percent(interval=None, percpu=True)
    return Resources(
        cpu=Processor(
            count=len(used), usage_percent=used, average_usage=round(sum(used) / len(used), 1)
        ),
        memory=Memory(
            total=memory.total,
            available=memory.available,
            used=memory.used,
            percent=memory.percent,
        ),
        swap=Swap(total=swap.total, used=swap.used, percent=swap.percent),
        disk=_disk(path),
        network=_network(),
        uptime_s=max(0.0, time.time() - _process.create_time()),
    )


def _disk(path: Path) -> Disk:
    usage, counted = psutil.disk_usage(str(path)), psutil.disk_io_counters()
    return Disk(
        total=usage.total,
        used=usage.used,
        free=usage.free,
        percent=usage.percent,
        usage_percent=usage.percent,
        read_bytes=None if counted is None else counted.read_bytes,
        write_bytes=None if counted is None else counted.write_bytes,
    )


def _network() -> Network | None:
    # None where the host has no interfaces, which the stubs do not know.
    counted: Any = psutil.net_io_counters()
    if counted is None:
        return None
    return Network(
        bytes_sent=counted.bytes_sent,
        bytes_recv=counted.bytes_recv,
        packets_sent=counted.packets_sent,
        packets_recv=counted.packets_recv,
    )
