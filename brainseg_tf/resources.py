"""What the process uses: engine, threads of the numerical libraries, devices, and memory."""

import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from brainseg_tf import c_api
from brainseg_tf.errors import InputError
from brainseg_tf.options import Engine

# Memory for each further scan at a time: the slices, maps and posteriors of a scan of 240 x 240 x 155 voxels.
SCAN_BYTES = 700 * 2**20
# Memory for TensorFlow, the model and the first scan.
FIRST_SCAN_BYTES = 1200 * 2**20


class Runtime(NamedTuple):
    """What runs a network in this process.

    Attributes:
        engine: ``tensorflow`` or ``c-api``.
        threads: of the C library; None for all cores. TensorFlow's Python package has one number for the process.
    """

    engine: Engine = "tensorflow"
    threads: int | None = None


def choose_engine(engine: Engine, device: str = "auto") -> Engine:
    """The engine for networks: ``tensorflow`` or ``c-api``.

    Args:
        engine: ``auto`` is the C library if it is there, TensorFlow is not yet imported, and no GPU may be used.
        device: as for ``select_device``.

    Raises:
        InputError: the C library is wanted for a GPU.
    """
    if engine == "c-api" and device.startswith("gpu"):
        raise InputError(f"--device {device}: the C library runs on the CPU only; give --engine tensorflow")
    if engine != "auto":
        return engine
    on_cpu = device == "cpu" or (device == "auto" and sys.platform == "linux" and not _has_gpu())
    return "c-api" if on_cpu and "tensorflow" not in sys.modules and c_api.is_available() else "tensorflow"


def _has_gpu() -> bool:
    """Whether the driver of a GPU of NVIDIA or AMD is there."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


def limit_threads(threads: int | None = None) -> None:
    """Limits the threads of the numerical libraries, for the rest of the process.

    The libraries of NumPy and SciPy get one thread. Their computations are small here, so several threads are slower
    than one, and several scans share the cores. The limit applies to the whole process. It is therefore not set around
    single computations, where it would affect scans in other threads, but once by the commands.

    Args:
        threads: of TensorFlow, both within an operation and for several operations. It must be set before TensorFlow
            uses a device. None: TensorFlow uses all cores that the process may use.
    """
    import scipy.linalg  # noqa: F401  -- the limit applies only to libraries that are already loaded
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    if threads is not None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


@lru_cache
def select_device(device: str) -> None:
    """Restricts TensorFlow to a device. It must be called before TensorFlow uses one.

    Args:
        device: ``auto``: all devices; ``cpu``; ``gpu``: the first GPU; ``gpu:N``.

    Raises:
        InputError: there is no such GPU.
    """
    import tensorflow as tf

    if device == "auto":
        return
    gpus = tf.config.list_physical_devices("GPU")
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
        return
    number = int(device.partition(":")[2] or 0)
    if number >= len(gpus):
        found = f"{len(gpus)} GPU(s)" if gpus else "no GPU"
        raise InputError(
            f"--device {device}: TensorFlow finds {found}; give --device cpu, or install tensorflow[and-cuda]"
        )
    tf.config.set_visible_devices([gpus[number]], "GPU")


def workers_for_memory(wanted: int) -> tuple[int, str | None]:
    """The number of scans for which there is memory at the same time.

    Args:
        wanted: the largest number.

    Returns:
        The number, at least 1; and a sentence for the user if it is below ``wanted``, else None.
    """
    free = available_memory()
    if free is None:
        return wanted, None
    fitting = max(1, 1 + (free - FIRST_SCAN_BYTES) // SCAN_BYTES)
    if fitting >= wanted:
        return wanted, None
    return (
        fitting,
        f"{free / 2**30:.1f} GB of memory are available; segmenting {fitting} scan(s) at a time instead of {wanted}",
    )


# The files of a control group, version 2 and 1: limit, usage, and a line in ``memory.stat``.
_GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory() -> int | None:
    """Bytes that this process can still allocate; None if unknown.

    This is the smallest of the limits of the machine, of the control group and of the process.
    """
    limits = [limit for limit in (_machine(), _control_group(), _process()) if limit is not None]
    return min(limits) if limits else None


def _machine() -> int | None:
    """The available memory of the machine."""
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_group() -> int | None:
    """The unused memory of the control groups, by which containers and batch systems limit processes."""
    unused = [
        one for folder in _control_groups() for names in _GROUP_FILES if (one := _unused(folder, *names)) is not None
    ]
    return min(unused, default=None)


def _control_groups() -> list[str]:
    """The folders of the control group of this process and of the groups around it, version 2 or 1.

    In a container the root is the group of the container.
    """
    folders = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"]
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = folders[controllers == "memory"]
            parts = path.strip("/").split("/")
            folders += ["/".join([root, *parts[:count]]) for count in range(1, len(parts) + 1) if parts[0]]
    return folders


def _unused(folder: str, limit: str, usage: str, cache: str) -> int | None:
    """What a control group has left of its memory; None without a limit.

    Args:
        folder: of the group.
        limit, usage: its files.
        cache: in its statistics, the part of the usage that the kernel frees when memory is needed: pages of files that
            were read.
    """
    total, used = (next(iter(_lines(f"{folder}/{file}")), "").strip() for file in (limit, usage))
    if not (total.isdigit() and used.isdigit()):
        return None
    statistics = (line.split() for line in _lines(f"{folder}/memory.stat"))
    cached = sum(int(value) for name, value in statistics if name == cache)
    return max(0, int(total) - max(0, int(used) - cached))


def _process() -> int | None:
    """The unused address space of the process, if it is limited."""
    if sys.platform == "win32":
        # It has no such limit, and Python no module for it.
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return None
    pages = next(iter(_lines("/proc/self/statm")), "0").split()[0]
    return max(0, soft - int(pages) * resource.getpagesize())


def _lines(file: str) -> list[str]:
    """The lines of a file; none if it cannot be read."""
    try:
        return Path(file).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
