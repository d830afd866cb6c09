"""Label tables for viewers, read back as the viewers read them."""

import json
import shlex

import nibabel as nib
import numpy as np
import pytest

from brainseg_tf.prediction.viewer_tables import SUFFIXES, colour, labels_of, write_tables
from helpers import AFFINE, FAST, call, fails, lesion, make_brain, rows, save


def read_fsleyes(path):
    """Label, name and colour, as ``fsleyes.colourmaps.loadLookupTableFile`` reads them; background left out."""
    with path.open() as file:
        next(file)
        # FSLeyes tells the type of a table by its second line.
        [float(word) for word in next(file).split()[:4]]
    columns = np.genfromtxt(path, usecols=(0, 1, 2, 3), comments="#")
    assert columns.ndim == 2, "FSLeyes cannot read a table of one line"
    assert ((columns[:, 1:] >= 0) & (columns[:, 1:] <= 1)).all()
    names = [line.split(None, 4)[4].strip() for line in path.read_text().splitlines()]
    found = {}
    for (value, *rgb), name in zip(columns, names, strict=True):
        if value > 0:
            found[int(value)] = name, tuple(round(255 * float(channel)) for channel in rgb)
    return found


def read_itksnap(path):
    lines = [shlex.split(line, comments=True) for line in path.read_text().splitlines()]
    found = {}
    for value, red, green, blue, opacity, visible, mesh, name in filter(None, lines):
        if value == "0":
            assert (name, float(opacity), visible, mesh) == ("Clear Label", 0, "0", "0")
            continue
        assert (float(opacity), visible, mesh) == (1, "1", "1")
        found[int(value)] = name, (int(red), int(green), int(blue))
    return found


def read_freeview(path):
    found = {}
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            continue
        # Five numbers and a name without spaces.
        value, name, red, green, blue, alpha = line.split()
        assert alpha == "0"
        found[int(value)] = name, (int(red), int(green), int(blue))
    assert found.pop(0) == ("Unknown", (0, 0, 0))
    return found


READERS = {"fsleyes": read_fsleyes, "itksnap": read_itksnap, "freeview": read_freeview}


@pytest.fixture
def two_lesions(tmp_path):
    """A scan with two lesions of different sizes."""
    data, truth = make_brain(1)
    index = np.stack(np.indices(data.shape), axis=-1)
    other = (np.array(data.shape) - 1) - np.argwhere(truth).mean(axis=0) * [1, 0, 0] - [0, 20, 11]
    second = (np.linalg.norm((index - other) * np.abs(np.diag(AFFINE)[:3]), axis=-1) < 15) & (data > 0)
    assert 0 < second.sum() < truth.sum()
    data[second & ~truth] += 330
    return save(data, tmp_path / "scan.nii.gz")


def test_the_map_has_the_numbers_and_volumes_of_the_report(trained, two_lesions, tmp_path):
    out = tmp_path / "mask.nii.gz", tmp_path / "lesions.nii.gz", tmp_path / "report.json"
    files = ("--out", out[0], "--save-lesions", out[1], "--report", out[2], "--viewer-tables")
    result = call("predict", two_lesions, *files, "--model", trained, "--min-size-ml", 1, *FAST)
    assert result.exit_code == 0, result.output
    image, mask = nib.load(out[1]), nib.load(out[0])
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(image.affine, mask.affine)
    numbers = np.asarray(image.dataobj)
    np.testing.assert_array_equal(numbers > 0, np.asarray(mask.dataobj) > 0)
    report = json.loads(out[2].read_text())
    voxel_ml = abs(np.linalg.det(AFFINE[:3, :3])) / 1000
    volumes = np.bincount(numbers.ravel())[1:] * voxel_ml
    assert len(volumes) >= 2
    assert (np.diff(volumes) <= 0).all()
    np.testing.assert_allclose(volumes, [one["ml"] for one in report["lesions"]], rtol=1e-6)
    for number, one in enumerate(report["lesions"], start=1):
        centre = nib.affines.apply_affine(AFFINE, np.argwhere(numbers == number)).mean(axis=0)
        np.testing.assert_allclose(centre, one["centroid_mm"], atol=0.01)

    assert {name for name in report["outputs"] if "_" in name} == {
        f"{kind}_{viewer}" for kind in ("mask", "lesions") for viewer in SUFFIXES
    }
    for viewer, read in READERS.items():
        assert read(tmp_path / f"mask{SUFFIXES[viewer]}") == {1: ("lesion", (255, 25, 25))}
        labels = read(tmp_path / f"lesions{SUFFIXES[viewer]}")
        assert list(labels) == list(range(1, len(volumes) + 1))
        for number, (name, _) in labels.items():
            ml = float(name.replace("_", " ").split()[-2])
            assert ml == pytest.approx(volumes[number - 1], abs=0.006)
            assert name.replace("_", " ").startswith(f"lesion {number}")
        assert len({rgb for _, rgb in labels.values()}) == len(volumes)


def test_colours_are_distinct():
    colours = np.array([colour(number) for number in range(1, 256)])
    assert len(np.unique(colours, axis=0)) == 255
    # The first ones differ at sight.
    first = colours[:8].astype(float)
    distances = np.linalg.norm(first[:, None] - first[None], axis=-1)[np.triu_indices(8, 1)]
    assert distances.min() > 60


def test_a_map_without_lesions_has_tables_without_lesions(tmp_path):
    assert labels_of([]) == []
    tables = {f"lesions_{viewer}": tmp_path / viewer for viewer in SUFFIXES}
    write_tables(tables, [])
    assert read_itksnap(tmp_path / "itksnap") == read_freeview(tmp_path / "freeview") == {}
    write_tables(tables, [lesion(12.3), lesion(0.3)])
    assert {name for name, _ in read_itksnap(tmp_path / "itksnap").values()} == {
        "lesion 1, 12.30 ml",
        "lesion 2, 0.30 ml",
    }


def test_tables_of_many_scans(trained, scans, tmp_path):
    out = tmp_path / "out"
    options = (
        "--out-dir",
        out,
        "--model",
        trained,
        "--viewer-tables",
        "--save-lesions",
        "{name}_lesions.nii.gz",
        *FAST,
    )
    result = call("predict", scans, *options)
    assert result.exit_code == 0, result.output
    for number in range(3):
        for end in SUFFIXES.values():
            assert (out / f"sub-{number:02}_FLAIR_mask{end}").is_file()
            assert (out / f"sub-{number:02}_lesions{end}").is_file()
    # A scan without one of its tables is segmented again.
    (out / "sub-01_lesions_itksnap.txt").unlink()
    assert call("predict", scans, *options, "--continue").exit_code == 0
    assert [line["status"] for line in rows(out)] == ["kept", "done", "kept"]
    assert (out / "sub-01_lesions_itksnap.txt").is_file()


def test_a_table_is_not_overwritten_and_a_map_is_named_like_nifti(trained, scan, tmp_path):
    (tmp_path / "mask_itksnap.txt").write_text("mine")
    options = ("--out", tmp_path / "mask.nii.gz", "--model", trained)
    message = fails(call("predict", scan, *options, "--viewer-tables"))
    assert "mask_itksnap.txt: exists already; give --overwrite" in message
    assert "lesions.png: the name must end in .nii or .nii.gz" in fails(
        call("predict", scan, *options, "--save-lesions", tmp_path / "lesions.png")
    )
    same = call("predict", scan, *options, "--save-lesions", tmp_path / "mask.nii.gz")
    assert "is named twice" in fails(same)
    several = call("predict", scan, "--out-dir", tmp_path / "out", "--save-lesions", "lesions.nii.gz")
    assert several.exit_code == 2
    assert "--save-lesions: with --out-dir, give a pattern with {name}" in several.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"scan.nii.gz", "mask_itksnap.txt"}
    assert (tmp_path / "mask_itksnap.txt").read_text() == "mine"
