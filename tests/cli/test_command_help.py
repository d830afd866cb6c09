"""Help, version and the list of models."""

import subprocess
import sys

from helpers import call


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from brainseg_tf_cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('numpy', 'tensorflow', 'keras', 'scipy', 'nibabel', 'sklearn') if n in sys.modules])"
    )
    for arguments in (["--help"], ["--version"], ["predict", "--help"], ["fit", "--help"], ["predict"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_the_commands():
    result = call("--help")
    assert result.exit_code == 0
    for name in ("fit", "predict", "brain", "evaluate", "models"):
        assert f"\n  {name} " in result.stdout
    assert "not a medical device" in result.stdout


def test_models_lists_what_is_shipped():
    result = call("models")
    assert result.exit_code == 0
    for word in (
        "cvae, version",
        "dcvae, version",
        "dae, version",
        "MB",
        "flair",
        "30 patients",
        "IoU",
        "with citation",
    ):
        assert word in result.stdout
