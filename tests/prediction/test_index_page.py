"""The index of many scans: its rows, links and chart."""

import os
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote_to_bytes

import pytest

from brainseg_tf.prediction import pages
from brainseg_tf.prediction.jobs import Job, Outcome, Outputs
from brainseg_tf.prediction.pages import Navigation
from brainseg_tf.prediction.pages.index import outliers, write_index
from brainseg_tf.resources import Runtime
from helpers import FAST, call, make_brain, save
from synthetic_models import Healthy, card
from synthetic_pages import finished, read, report


@pytest.mark.slow
def test_many_scans_get_an_index_and_a_page_each(scans, tmp_path, monkeypatch):
    # The command runs with a model that does not need TensorFlow.
    monkeypatch.setattr(
        "brainseg_tf.saved_model.find", lambda name: SimpleNamespace(card=card(), load=lambda runtime: Healthy())
    )
    monkeypatch.setattr("brainseg_tf_cli.predict.prepare_runtime", lambda *given: Runtime())
    folder = tmp_path / "scans"
    shutil.copytree(scans, folder)
    (folder / "sub-00_FLAIR.nii.gz").write_bytes(b"nonsense")
    save(make_brain(5, lesion=False)[0], folder / "sub-03_FLAIR.nii.gz")
    out, index = tmp_path / "out", tmp_path / "index.html"
    arguments = ("predict", folder, "--out-dir", out, "--model", "perfect", "--html", index, *FAST)
    assert call(*arguments).exit_code == 1
    text = index.read_text(encoding="utf-8")
    names = re.findall(r'<td class="scan">(?:<a [^>]*>)?(sub-\d+_FLAIR\.nii\.gz)<', text)
    assert names[0] == "sub-00_FLAIR.nii.gz"
    assert sorted(names) == [f"sub-{number:02}_FLAIR.nii.gz" for number in range(4)]
    assert "is not a readable NIfTI file" in text
    linked = set(read(index).links())
    assert linked == {f"./out/sub-{n:02}_FLAIR{kind}" for n in (1, 2, 3) for kind in (".html", "_thumbnail.png")}
    assert all((tmp_path / link).is_file() for link in linked)
    # --continue writes a missing page again. Without it, an existing index is not replaced.
    (out / "sub-01_FLAIR.html").unlink()
    assert "give --continue" in call(*arguments).stderr
    assert call(*arguments, "--continue").exit_code == 1
    assert (out / "sub-01_FLAIR.html").is_file()


def test_outliers_are_far_from_the_median(tmp_path):
    usual = [report(20 + n, 1400 + 10 * n, 300 + 5 * n) for n in range(9)]
    assert not any(outliers(usual))
    reports = [*usual, report(ml=400), report(median=30000), report(brain=300)]
    assert outliers(reports)[:9] == [[]] * 9
    assert [set(names) for names in outliers(reports)[9:]] == [
        {"lesion volume", "share of brain"},
        {"intensity scale"},
        {"brain volume", "share of brain"},
    ]
    # Fewer than eight scans have no outliers.
    assert outliers([report(), report(), report(ml=400)]) == [[], [], []]
    outcomes = [
        Outcome(Job(Path(f"{n}.nii.gz"), Outputs(Path(f"{n}_mask.nii.gz"))), one) for n, one in enumerate(reports)
    ]
    write_index(tmp_path / "i.html", outcomes)
    text = (tmp_path / "i.html").read_text(encoding="utf-8")
    assert re.findall(r'<td class="scan">(\d+)\.nii\.gz', text) == ["9", "10", "11", *map(str, range(9))]


UNUSUAL_NAMES = [
    "a#b?c=d&e%20f.nii.gz",
    "new\nline\ttab\r.nii.gz",
    "javascript:alert(1)",
    "https:/x",
    "\"quotes\" 'and' <b>tags</b>.nii.gz",
    "byte\udcff.nii.gz",
    "\u202etxt.exe",
    "\u60a3\u8005.nii.gz",
    "back\\slash.nii.gz",
]


@pytest.mark.parametrize("name", UNUSUAL_NAMES)
def test_any_name_is_a_link_that_leads_to_its_file_and_a_line_of_text(name, tmp_path):
    folder = tmp_path / name / "out"
    outcome = finished(folder, name)
    failure = Outcome(Job(tmp_path / name, Outputs(tmp_path / "m.nii")), error=f"{name}: is bad")
    index = tmp_path / "index" / "i.html"
    index.parent.mkdir()
    write_index(index, [outcome, failure])
    index.read_bytes().decode("utf-8")
    found = read(index)
    for link in found.links():
        # The link has no scheme, query or fragment, and decodes to the bytes of the file's name.
        assert re.fullmatch(r"\./[A-Za-z0-9._~%/-]+", link)
        assert (index.parent / os.fsdecode(unquote_to_bytes(link))).exists()
    assert len(found.links()) == 4
    shown = {"new\nline\ttab\r.nii.gz": r"new\nline\ttab\r.nii.gz", "byte\udcff.nii.gz": r"byte\xff.nii.gz"}
    assert shown.get(name, name.replace("\u202e", "\\u202e")) in found.text
    assert not {"b", "img"} - {"img"} & {tag for tag, _ in found.elements}


def test_navigation_has_the_neighbours_of_each_page():
    given = [Path(f"{n}.html") for n in range(3)]
    index = Path("i.html")
    assert pages.navigation(given, index) == [
        Navigation(index, None, given[1]),
        Navigation(index, given[0], given[2]),
        Navigation(index, given[1], None),
    ]
    assert pages.navigation(given[:1], index) == [Navigation(index, None, None)]
    assert pages.navigation([], index) == []


def test_the_index_shows_the_progress_of_a_running_batch(tmp_path):
    outcomes = [
        finished(tmp_path, "a"),
        finished(tmp_path, "b"),
        Outcome(Job(Path("c"), Outputs(Path("m"))), error="c: bad"),
    ]
    write_index(tmp_path / "i.html", outcomes, total=14)
    text = " ".join(read(tmp_path / "i.html").text.split())
    assert "14 scans" in text
    assert "3 of 14 done" in text
    assert "2 segmented" in text
    assert "1 failed" in text
    write_index(tmp_path / "i.html", outcomes, total=3)
    text = read(tmp_path / "i.html").text
    assert " of 3 done" not in text
    # Before the first scan is finished.
    write_index(tmp_path / "i.html", [], total=14)
    assert "0 of 14 done" in read(tmp_path / "i.html").text


def test_a_failed_scan_links_to_nothing_that_an_earlier_run_left(tmp_path):
    done = finished(tmp_path, "a")
    write_index(tmp_path / "i.html", [Outcome(done.job, error="a: bad")])
    assert read(tmp_path / "i.html").links() == []


def test_reports_of_other_versions_have_a_row_too(tmp_path):
    """The index contains reports of earlier runs, which other versions may have written."""
    incomplete = [{}, {"lesion_ml": "x", "brain": None, "warnings": None, "components": [1]}, {"brain": {"ml": 0}}]
    outcomes = [
        Outcome(Job(Path(f"{n}.nii"), Outputs(Path("m"))), one) for n, one in enumerate([*incomplete, *[report()] * 9])
    ]
    write_index(tmp_path / "i.html", outcomes)
    assert len([tag for tag, each in read(tmp_path / "i.html").elements if tag == "tr" and "id" in each]) == 12


def test_the_bars_are_proportional_to_the_volumes_and_link_to_the_scans(tmp_path):
    volumes = [40.0, 0.0, 10.0]
    write_index(tmp_path / "i.html", [finished(tmp_path, f"s{n}", ml) for n, ml in enumerate(volumes)])
    elements = read(tmp_path / "i.html").elements
    heights = [float(each["height"]) for tag, each in elements if tag == "rect" and each["class"].startswith("bar")]
    # The chart ends at 50 ml. The bar of an empty mask has the smallest height.
    assert heights == [1.0, 20.0, 80.0]
    at = next(n for n, (tag, _) in enumerate(elements) if tag == "svg")
    assert [each["href"] for tag, each in elements[at:] if tag == "a"][:3] == ["./s1.html", "./s2.html", "./s0.html"]


def test_the_time_for_an_index_grows_linearly_with_the_scans(tmp_path):
    outcomes = [finished(tmp_path, f"scan-{n}", float(n)) for n in range(1000)]

    def seconds(count: int) -> float:
        """The shortest of three runs. Processor time is measured, because other processes run at the same time."""
        times = []
        for _ in range(3):
            start = time.process_time()
            write_index(tmp_path / "i.html", outcomes[:count], total=1000)
            times.append(time.process_time() - start)
        return min(times)

    seconds(10)
    # Ten times as many scans; a quadratic part would make it up to a hundred times.
    assert seconds(1000) < 25 * seconds(100)


@pytest.mark.parametrize(
    ("scans", "names"),
    [
        (["/a/before.nii", "/a/after.nii"], ["before.nii", "after.nii"]),
        (["/s/ses-1/anat/f.nii", "/s/ses-2/anat/f.nii"], ["ses-1/anat/f.nii", "ses-2/anat/f.nii"]),
        (["/c/p1/f.nii", "/c/p2/f.nii", "/c/p3/g.nii"], ["p1/f.nii", "p2/f.nii", "g.nii"]),
        (["/s/a.nii", "/s/a.nii"], ["s/a.nii", "s/a.nii"]),
        (["/x/s/a.nii", "/s/a.nii"], ["x/s/a.nii", "/s/a.nii"]),
        ([], []),
    ],
)
def test_the_names_of_scans_can_be_told_apart(scans, names):
    assert pages.distinct_names([Path(scan) for scan in scans]) == names


def test_scans_of_one_name_are_told_apart_by_their_folders(tmp_path):
    outcomes = [
        Outcome(Job(tmp_path / name / "flair.nii.gz", Outputs(tmp_path / f"{name}_mask.nii.gz")), report(20))
        for name in ("sub01", "sub02")
    ]
    write_index(tmp_path / "index.html", outcomes)
    text = (tmp_path / "index.html").read_text()
    assert re.findall(r'<td class="scan">(.*?)<', text) == ["sub01/flair.nii.gz", "sub02/flair.nii.gz"]
