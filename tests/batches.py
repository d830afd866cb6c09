"""What the tests of batches share."""

import json

LOCK = ".summary.csv.lock"
LOCKS = [LOCK, ".volumes.tsv.lock"]


def hidden(out):
    return sorted(file.name for file in out.iterdir() if file.name.startswith("."))


class Fake:
    """A predictor without a network. It raises an exception for scans named ``memory`` and ``unicode``."""

    def run(self, job, *, overwrite=False):
        error = {"memory": MemoryError(), "unicode": UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates\nno")}.get(
            job.scan.name.split(".")[0]
        )
        if error:
            raise error
        job.outputs.mask.write_bytes(b"mask")
        outputs = {"mask": str(job.outputs.mask), "report": str(job.outputs.report)}
        report = {"lesion_ml": 1.0, "components": 1, "seconds": {"model": 1.0}, "warnings": [], "outputs": outputs}
        report |= {
            "lesions": [{"ml": 1.0}],
            "brain": {"ml": 1000.0, "median_intensity": 3.0},
            "model": {"name": "m", "version": 1},
        }
        job.outputs.report.write_text(json.dumps(report))
        return report
