import subprocess
import sys

SCRIPT = """
import sys, threading, time
from brainseg_tf_cli.quiet import import_tensorflow
thread = threading.Thread(target=import_tensorflow)
thread.start()
time.sleep(0.3)
assert "tensorflow" in sys.modules, "the import was not under way"
print("meanwhile", file=sys.stderr)
thread.join()
print("after", file=sys.stderr)
import tensorflow
"""


def test_tensorflow_is_silent_and_others_are_heard():
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert result.stderr == "meanwhile\nafter\n"
