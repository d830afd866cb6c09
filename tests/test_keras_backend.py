import json
import os
import subprocess
import sys

import pytest

CODE = """
from brainseg_tf.keras_backend import keras, use_defaults
from brainseg_tf import models
if {defaults}: use_defaults()
model = models.create("cvae", 1)
print(keras.config.backend(), model.compute_dtype, model(__import__("numpy").zeros((1, 40, 33, 1), "float32")).shape)
"""


def run(code, home, **environment):
    inherited = {name: value for name, value in os.environ.items() if name not in ("KERAS_BACKEND", "KERAS_HOME")}
    return subprocess.run(
        [sys.executable, "-c", code], env=inherited | {"HOME": str(home)} | environment, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_environment_does_not_change_backend_dtype_and_data_format(tmp_path, backend):
    (tmp_path / ".keras").mkdir()
    settings = {"floatx": "float16", "backend": "tensorflow", "image_data_format": "channels_first", "epsilon": 0.1}
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(settings))
    done = run(CODE.format(defaults=True), tmp_path, KERAS_BACKEND=backend)
    assert done.stdout.strip() == "tensorflow float32 (1, 40, 33, 1)", done.stderr[-2000:]


def test_another_backend_that_is_in_use_is_refused():
    code = (
        "import sys, types; keras = types.ModuleType('keras'); sys.modules['keras'] = keras\n"
        "keras.config = types.SimpleNamespace(backend=lambda: 'jax')\n"
        "from brainseg_tf.errors import InputError\n"
        "try:\n    import brainseg_tf.keras_backend\nexcept InputError as error:\n    print(error)"
    )
    done = run(code, "/")
    assert done.stdout.startswith("Keras was imported with the backend jax, but brainseg-tf requires tensorflow; ")
    assert done.stdout.count("\n") == 1
