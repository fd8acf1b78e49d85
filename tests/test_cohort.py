"""The demo's virtual subjects: invertible deformations, and the same subject for the same seed and number."""

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_synth.demo.cohort import sample_displacement, sample_subject, write_cohort


@pytest.mark.parametrize("seed", range(5))
def test_deformations_fold_nowhere(seed):
    displacement = sample_displacement(np.random.default_rng(seed))
    jacobian = np.stack([np.stack(np.gradient(component)) for component in displacement])  # [3, 3, X, Y, Z]
    assert np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)) + np.eye(3)).min() > 0


def test_a_subject_depends_on_seed_and_number_alone():
    images, labels = sample_subject(1, 4)
    again, same = sample_subject(1, 4)
    assert np.array_equal(images["T1"], again["T1"])
    assert np.array_equal(labels, same)
    other, _ = sample_subject(1, 5)
    assert other["T1"].shape != images["T1"].shape or not np.array_equal(other["T1"], images["T1"])


def test_every_label_occurs_in_every_subject(preprocessed, nnunet_folders):
    files = sorted((nnunet_folders / "nnUNet_raw" / preprocessed.dataset_name).glob("labelsT[rs]/*.nii.gz"))
    assert len(files) == 12
    for file in files:
        assert np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(file)))).tolist() == [0, 1, 2]


def test_a_folder_with_content_is_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        write_cohort(tmp_path, training=1, test=0)
    assert (tmp_path / "notes.txt").read_text() == "mine"
