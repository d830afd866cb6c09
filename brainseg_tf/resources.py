"""What a process may use of the machine: threads of the numerical libraries, and memory."""

import resource
from pathlib import Path

# What two scans at a time need beyond the first: slices, maps and posteriors of a scan of 240 x 240 x 155 voxels.
SCAN_BYTES = 700 * 2**20
# TensorFlow, the model and the first scan.
FIRST_SCAN_BYTES = 1200 * 2**20


def limit_threads() -> None:
    """Gives the libraries behind NumPy, SciPy and scikit-learn one thread each, for the rest of the process.

    Their fits are small here: threads wait for each other longer than they work, and several scans share the cores.
    For a process of our own, a command: it is set once, since a limit that is set and taken back around a computation
    is that of the whole process, also for the scan that is under way in another thread. TensorFlow has threads of its
    own.
    """
    import sklearn.linear_model
    import sklearn.mixture  # noqa: F401  -- a limit reaches only libraries that are loaded
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def workers_for_memory(wanted: int) -> tuple[int, str | None]:
    """How many scans can be under way at once.

    Args:
        wanted: at most this many.

    Returns:
        Their number, at least 1, and a sentence for the user if it is less than wanted.
    """
    free = available_memory()
    if free is None:
        return wanted, None
    fitting = max(1, 1 + (free - FIRST_SCAN_BYTES) // SCAN_BYTES)
    if fitting >= wanted:
        return wanted, None
    return fitting, f"{free / 2**30:.1f} GB of memory are available: {fitting} scan(s) at a time instead of {wanted}"


def available_memory() -> int | None:
    """Bytes that this process can still take: of the machine, its control group and its own limits; None if unknown."""
    found = [limit for limit in (_machine(), _control_group(), _process()) if limit is not None]
    return min(found) if found else None


def _machine() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_group() -> int | None:
    """Control groups of version 2, then 1: what containers and batch systems limit."""
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        most, used = (next(iter(_lines(file)), "").strip() for file in (limit, usage))
        if most.isdigit() and used.isdigit():
            return max(0, int(most) - int(used))
    return None


def _process() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return None
    pages = next(iter(_lines("/proc/self/statm")), "0").split()[0]
    return max(0, soft - int(pages) * resource.getpagesize())


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
