"""Check of TF_CONFIG, which describes the hosts of a multi-worker training. Does not import TensorFlow."""

import json
import os
from typing import Literal

from brainseg_tf.errors import InputError

Strategy = Literal["single", "mirrored", "multi-worker"]


def check_tf_config() -> None:
    """Checks that TF_CONFIG lists the workers, this worker among them, in TensorFlow's format.

    Raises:
        InputError: it does not.
    """
    example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(os.environ["TF_CONFIG"])
        workers, task = config["cluster"]["worker"], config["task"]
        listed = task["type"] == "worker" and 0 <= task["index"] < len(workers) and set(config["cluster"]) == {"worker"}
    except KeyError as error:
        if error.args == ("TF_CONFIG",):
            raise InputError(f"TF_CONFIG is not set; set it for --strategy multi-worker, as in {example}") from None
        raise InputError(f"TF_CONFIG: has no {error}; set it as in {example}") from None
    except (json.JSONDecodeError, TypeError):
        raise InputError(f"TF_CONFIG: is not JSON of the expected form; set it as in {example}") from None
    if not listed:
        raise InputError(f"TF_CONFIG: this worker is not among the cluster's workers; set it as in {example}")
