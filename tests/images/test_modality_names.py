import pytest

from brainseg_tf.images.modality_names import modality_name, named


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
