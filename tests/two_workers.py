"""One worker of a training on two: run as a process, DATA OUT EPOCHS [--resume]; TF_CONFIG says which.

Beside what `fit` leaves, each worker leaves the weights it ends with, OUT-N.npz. They go down the plain gradient: Adam
would hide a wrong scale, and blow the rounding of small gradients up.
"""

import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

from helpers import small_options


def start(data: Path, out: Path, epochs: int, *more: str) -> list[subprocess.Popen]:
    """Starts both workers."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        workers = [f"127.0.0.1:{place.getsockname()[1]}" for place in (one, other)]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, str(data), str(out), str(epochs), *more]
        processes.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
            )
        )
    return processes


def main(data: Path, out: Path, epochs: int, *, resume: bool) -> None:
    import keras

    from brainseg_tf.errors import InputError
    from brainseg_tf.training import distribution
    from brainseg_tf.training import fit as training

    class Watched(distribution.Distribution):
        def fit(self, model, *arguments, **named):
            super().fit(model, *arguments, **named)
            np.savez(f"{out}-{self.worker}.npz", *model.get_weights())

    training.Distribution = Watched
    keras.optimizers.Adam = partial(keras.optimizers.SGD, momentum=0.9)
    try:
        training.fit(
            data,
            out,
            small_options(epochs=epochs),
            training.RunSettings(strategy="multi-worker", resume=resume, verbose=0),
        )
    except InputError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), resume="--resume" in sys.argv)
