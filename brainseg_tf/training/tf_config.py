"""Where several hosts train one network: this one's place among them. No TensorFlow."""

import json
import os
from typing import Literal

from brainseg_tf.errors import InputError

Strategy = Literal["single", "mirrored", "multi-worker"]


def check_tf_config() -> None:
    """Whether TF_CONFIG names this worker's place, as TensorFlow defines it.

    Raises:
        InputError: it does not.
    """
    example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(os.environ["TF_CONFIG"])
        workers, task = config["cluster"]["worker"], config["task"]
        there = task["type"] == "worker" and 0 <= task["index"] < len(workers) and set(config["cluster"]) == {"worker"}
    except KeyError as error:
        if error.args == ("TF_CONFIG",):
            raise InputError(f"TF_CONFIG is not set; --strategy multi-worker wants it, as in {example}") from None
        raise InputError(f"TF_CONFIG: has no {error}; it looks like {example}") from None
    except (json.JSONDecodeError, TypeError):
        raise InputError(f"TF_CONFIG: cannot be read; it looks like {example}") from None
    if not there:
        raise InputError(f"TF_CONFIG: this worker is not among the cluster's workers; it looks like {example}")
