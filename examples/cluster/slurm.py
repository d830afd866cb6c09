"""Segmentation of a folder of scans on a SLURM cluster.

    pip install 'brainseg-tf[dask]' dask-jobqueue
    python examples/cluster/slurm.py SCANS OUT --nodes 20

SCANS, OUT and the Python environment must have the same paths on all nodes. If a worker is killed, its scan is assigned
to another worker. If the script is started again, only scans without a result are segmented.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from dask_jobqueue import SLURMCluster

parser = argparse.ArgumentParser()
parser.add_argument("scans", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--nodes", type=int, default=20)
parser.add_argument("--walltime", default="04:00:00")
given = parser.parse_args()

# The profiler of a worker would take up to 0.6 GB within an hour.
PROLOGUE = ["export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False"]

# Each worker is a process with two cores, which determine the number of threads. A scan needs 1.5 GB of memory.
with SLURMCluster(cores=2, processes=1, memory="4GB", walltime=given.walltime, job_script_prologue=PROLOGUE) as cluster:
    cluster.scale(jobs=given.nodes)
    cluster.wait_for_workers(1)
    command = Path(sys.executable).with_name("brainseg-tf")
    arguments = ["--out-dir", given.out, "--scheduler", cluster.scheduler_address, "--continue"]
    sys.exit(subprocess.run([command, "predict", given.scans, *arguments], check=False).returncode)
