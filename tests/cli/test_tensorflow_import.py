import os
import subprocess
import sys


def test_two_threads_that_import_at_once_leave_standard_error_as_it_was(tmp_path):
    """With a module in place of TensorFlow that takes a moment and writes to descriptor 2."""
    (tmp_path / "tensorflow.py").write_text("import os, time\nos.write(2, b'noise')\ntime.sleep(0.4)\n")
    code = (
        "import os, sys, threading, time\n"
        "from brainseg_tf_cli.tensorflow_import import import_tensorflow\n"
        "first, second = (threading.Thread(target=import_tensorflow) for _ in range(2))\n"
        "first.start(); time.sleep(0.2); second.start(); first.join(); second.join()\n"
        "os.write(2, b'descriptor '); print('stream', file=sys.stderr); print('tensorflow' in sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "descriptor stream\n")
