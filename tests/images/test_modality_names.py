from pathlib import Path

import numpy as np
import pytest

from brainseg_tf.images.modality_names import (
    described_modality,
    modality_name,
    named,
    other_modality,
    without_modality,
)
from synthetic_dicom import write_series


@pytest.mark.parametrize(
    ("word", "name"),
    [("FLAIR", "flair"), ("T2", "t2"), ("T2w", "t2"), ("t1Gd", "t1ce"), (" t2 ", "t2"), ("MyContrast", "mycontrast")],
)
def test_a_modality_can_be_in_capitals_and_have_its_other_names(word, name):
    assert modality_name(word) == name


def test_files_of_a_kind_are_named_after_the_subject():
    files = ["p_T2w.nii.gz", "p_t2.nii", "p_t2.nii.gz", "p_T2.png", "q_t2.nii", "p_t2star.nii", "p_seg.nii", "p.nii"]
    # The exact name is the first.
    assert named(files, "p", "t2") == ["p_t2.nii", "p_t2.nii.gz", "p_T2w.nii.gz"]
    assert named(files, "p", "seg") == ["p_seg.nii"]
    assert named(files, "p", "flair") == []
    assert named(["p-t2f.nii.gz", "p-t1n.nii.gz", "p-seg.nii.gz"], "p", "flair") == ["p-t2f.nii.gz"]  # BraTS 2023


@pytest.mark.parametrize(
    ("description", "modality"),
    [
        ("t2_tirm_tra_dark-fluid_3mm", "flair"),
        ("AX T2FLAIR FS", "flair"),
        ("3D_Brain_VIEW_FLAIR", "flair"),
        ("t2_spc_da-fl_sag_p2_iso", "flair"),
        ("t2_blade_dark_fluid_tra", "flair"),
        ("t2_tse_tra_dark fluid", "flair"),
        ("FLAIR_reg_T1", None),
        ("OAx T1 FLAIR", "t1"),
        ("OAx T1FLAIR +C", "t1ce"),
        ("3D_T1_FLAIR", "t1"),
        ("Ax T1 FSE FLAIR", "t1"),
        ("t1_tirm_tra_dark-fluid", "t1"),
        ("T1 coregistered to FLAIR", "t1"),
        ("ax_t1+c_fs", "t1ce"),
        ("T2_FL2D_HEMO", "t2*"),
        ("AX T2 GRE", "t2*"),
        ("T1 mprage sag p2 iso", "t1"),
        ("Ax T1 +C", "t1ce"),
        ("AX T1 C+", "t1ce"),
        ("AX T1+C", "t1ce"),
        ("t1_se_tra_KM", "t1ce"),
        ("AX T1 pre contrast", "t1"),
        ("T1 w/o contrast", "t1"),
        ("T1 vor KM", "t1"),
        ("T1 post op", "t1"),
        ("T2W_TSE", "t2"),
        ("T2* GRE", "t2*"),
        ("ADC map", "adc"),
        ("ep2d_diff_3scan_trace_ADC", "adc"),
        ("ep2d_diff_TRACEW", "dwi"),
        ("PD+T2 TSE", None),
        ("localizer", None),
        ("", None),
    ],
)
def test_the_modality_in_a_series_description(description, modality):
    assert described_modality(description) == modality


def test_a_series_has_the_modality_of_its_name_or_else_of_its_description(tmp_path):
    for name, changes in {
        "0004": {"SeriesDescription": "T2 TSE"},
        "0005": {"ProtocolName": "AX T2 FLAIR"},
        "0006": {},
        "sub01_FLAIR": {"SeriesDescription": "T1 mprage"},
    }.items():
        write_series(tmp_path / name, np.ones((4, 5, 3)), np.eye(4), **changes)
    # A report beside the slices has no description; a damaged slice is reported when the series is read.
    (tmp_path / "0004" / "a.txt").write_text("not DICOM")
    (tmp_path / "0004" / "b.dcm").write_bytes(bytes(128) + b"DICM")
    assert other_modality(tmp_path / "0004", "flair") == "t2"
    assert other_modality(tmp_path / "0004", "t2") is None
    assert other_modality(tmp_path / "0005", "flair") is None
    assert other_modality(tmp_path / "0005", "t2") == "flair"
    assert other_modality(tmp_path / "0006", "flair") is None
    assert other_modality(tmp_path / "sub01_FLAIR", "flair") is None
    assert other_modality(tmp_path / "none", "flair") is None
    # A folder with two series is refused when it is read, so that none of them is lost.
    write_series(tmp_path / "both", np.ones((4, 5, 3)), np.eye(4), SeriesDescription="T1 mprage")
    write_series(tmp_path / "more", np.ones((4, 5, 3)), np.eye(4), SeriesDescription="AX T2 FLAIR")
    for file in (tmp_path / "more").iterdir():
        file.rename(tmp_path / "both" / f"more_{file.name}")
    assert other_modality(tmp_path / "both", "flair") is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("José.nii.gz", "José"),
        ("Müller_André_FLAIR.nii.gz", "Müller_André"),
        ("Jose\u0301_t2.nii", "Jose\u0301"),
        ("田中_flair.nii.gz", "田中"),
        ("x (2).nii.gz", "x (2)"),
        ("x (2)_flair.nii.gz", "x (2)"),
        ("x [left] (FLAIR).nii.gz", "x [left]"),
        ("[P01]FLAIR.nii.gz", "[P01]"),
        ("x\uff082\uff09_flair.nii.gz", "x\uff082\uff09"),  # brackets of full width
        ("HbS+_flair.nii.gz", "HbS+"),
        ("a+flair.nii.gz", "a"),
        ("\u0930\u0935\u0940_flair.nii.gz", "\u0930\u0935\u0940"),  # Devanagari, ending in a vowel sign
        ("\u0e23\u0e27\u0e35_t2.nii.gz", "\u0e23\u0e27\u0e35"),  # Thai
        ("\u3084\u307e\u305f\u3099-flair.nii.gz", "\u3084\u307e\u305f\u3099"),  # decomposed kana
        ("a\udce9_flair.nii.gz", "a\udce9"),  # a byte that is not UTF-8
        ("a_flair_brain.nii.gz", "a"),
        ("a_flair_.nii.gz", "a"),
        ("flair.nii.gz", "flair"),
        ("_flair.nii.gz", ""),
    ],
)
def test_names_of_any_alphabet_are_kept(name, expected):
    assert without_modality(Path(name)) == expected


@pytest.mark.parametrize(
    ("name", "of_t2", "of_flair"),
    [
        ("p_T2_FLAIR.nii.gz", "flair", None),
        ("p_t2_space_flair_sag.nii.gz", None, None),
        ("p_T2_TRA_FLAIR.nii.gz", "flair", None),
        ("p_t2.nii.gz", None, "t2"),
        ("BraTS-GLI-00002-000-t2f.nii.gz", "flair", None),
        ("BraTS-GLI-00002-000-t1n.nii.gz", "t1", "t1"),
        ("pat1_t1_mprage_sag_p2_iso_20230405101112_3.nii.gz", "t1", "t1"),
        ("pat1_t2_tse_tra_20230405101112_4.nii.gz", None, "t2"),
        ("pat1_t2_tirm_tra_dark-fluid_20230405101112_5a.nii.gz", "flair", None),
        ("pat1_ep2d_diff_3scan_trace_ADC_20230405101112_6.nii.gz", "adc", "adc"),
        ("pat1_localizer_20230405101112_1.nii.gz", None, None),
        ("pat1_t1_mprage_20230405101112_4_brain.nii.gz", "t1", "t1"),
        ("pat1_t1_mprage_20230405101112_4_Eq_1.nii.gz", "t1", "t1"),
        ("PD_07_anat_20230405101112_3.nii.gz", None, None),
        ("p_T2_to_FLAIR.nii.gz", None, None),
        ("p_t2_in_flair_space.nii.gz", None, None),
        ("PD_07.nii.gz", None, None),
        ("PD_\u7530\u4e2d.nii.gz", None, None),
        ("T1_\u041c\u0430\u0440\u0438\u044f.nii.gz", None, None),
        ("p_flair.nii.gz", "flair", None),
        ("p_space-FLAIR_T2w.nii.gz", None, None),
        ("p (FLAIR).nii.gz", "flair", None),
        ("p.nii.gz", None, None),
    ],
)
def test_the_modality_of_a_name_if_it_is_not_the_expected_one(name, of_t2, of_flair):
    assert (other_modality(Path(name), "t2"), other_modality(Path(name), "flair")) == (of_t2, of_flair)
