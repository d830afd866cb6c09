import subprocess
import sys

import pytest

from brainseg_tf import resources
from brainseg_tf.errors import InputError


@pytest.mark.parametrize(
    ("free_mib", "wanted", "expected"), [(None, 4, 4), (8000, 4, 4), (2000, 4, 2), (1300, 2, 1), (100, 2, 1)]
)
def test_the_number_of_workers_is_limited_by_the_memory(monkeypatch, free_mib, wanted, expected):
    monkeypatch.setattr(resources, "available_memory", lambda: free_mib and free_mib * 2**20)
    workers, message = resources.workers_for_memory(wanted)
    assert workers == expected
    assert (message is None) == (workers == wanted)
    if message:
        assert f"{expected} scan(s) at a time instead of {wanted}" in message


def test_the_limit_of_the_process_is_used():
    code = (
        "import resource; from brainseg_tf.resources import available_memory\n"
        "free = available_memory(); assert free is None or free > 2**20, free\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)); print(available_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**30 < int(done.stdout) < 2**31


def test_the_smallest_limit_is_used(monkeypatch, tmp_path):
    files = {
        "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n",
        "/sys/fs/cgroup/memory.max": "4096000\n",
        "/sys/fs/cgroup/memory.current": "1096000\n",
    }
    monkeypatch.setattr(resources, "_lines", lambda file: files.get(file, "").splitlines())
    monkeypatch.setattr(resources, "_process", lambda: None)
    assert resources.available_memory() == 3_000_000
    # Pages of files that were read are freed when memory is needed.
    files["/sys/fs/cgroup/memory.stat"] = "anon 96000\nfile 1000000\ninactive_file 900000\n"
    assert resources.available_memory() == 3_900_000
    # A batch system limits a group within the root.
    files["/proc/self/cgroup"] = "0::/slurm/job_7/step_0\n"
    files["/sys/fs/cgroup/slurm/job_7/memory.max"] = "2000000\n"
    files["/sys/fs/cgroup/slurm/job_7/memory.current"] = "1500000\n"
    assert resources.available_memory() == 500_000
    del files["/proc/self/cgroup"]
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert resources.available_memory() == 5000 * 1024
    # Version 1.
    files["/proc/self/cgroup"] = "5:cpu,cpuacct:/job\n4:memory:/job\n"
    files["/sys/fs/cgroup/memory/job/memory.limit_in_bytes"] = "1000000\n"
    files["/sys/fs/cgroup/memory/job/memory.usage_in_bytes"] = "900000\n"
    files["/sys/fs/cgroup/memory/job/memory.stat"] = "total_inactive_file 100000\n"
    assert resources.available_memory() == 200_000
    files.clear()
    assert resources.available_memory() is None


@pytest.mark.slow
def test_one_thread_for_the_rest_of_the_process():
    code = (
        "import numpy; from brainseg_tf.resources import limit_threads; from threadpoolctl import threadpool_info\n"
        "limit_threads(); print({pool['num_threads'] for pool in threadpool_info()})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{1}"


def test_a_gpu_that_does_not_exist_is_refused(monkeypatch):
    import tensorflow as tf

    select = resources.select_device.__wrapped__

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(InputError, match="--device gpu:3: TensorFlow finds no GPU; give --device cpu"):
        select("gpu:3")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["first", "second"])
    with pytest.raises(InputError, match=r"finds 2 GPU\(s\)"):
        select("gpu:2")
    visible = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: visible.append(devices))
    for device in ("cpu", "gpu", "gpu:1"):
        select(device)
    assert visible == [[], ["first"], ["second"]]
