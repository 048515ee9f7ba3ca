"""What the host's processor and memory do, read without waiting."""

import psutil  # type: ignore[import-untyped]

from read_api.health import Machine

MEBIBYTE = 1024 * 1024


def machine() -> Machine:
    """Look; of the processor, at what it has done since the last look."""
    memory = psutil.virtual_memory()
    return Machine(
        cpu_percent=psutil.cpu_percent(interval=None),
        memory_used_percent=memory.percent,
        memory_available_mb=round(memory.available / MEBIBYTE, 1),
    )
