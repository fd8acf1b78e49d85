"""The real patches that a plan's generator learns from: of the training cases, and of scans if there are any."""

from __future__ import annotations

from stylegan2_cond.data.nnunet_dataset import Fold, Preprocessed
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.data.scans import ScanBank
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning.plan import Plan


def open_patches(
    preprocessed: Preprocessed, plan: Plan, seed: int | None = None, *, cache: int | None = None
) -> PatchSampler:
    """The stream of real patches that training sees; another seed than the plan's gives others of the same cases.

    Args:
        preprocessed: the folder with the cases.
        plan: of the training.
        seed: the plan's if None.
        cache: bytes of cases to keep in memory; a share of the free memory if None.

    Raises:
        UserError: the bank of the scans is gone, or was filled again.
    """
    return PatchSampler(
        preprocessed,
        plan.source.training_cases,
        plan.patch_size,
        foreground_share=plan.foreground_share,
        seed=plan.seed if seed is None else seed,
        scans=open_scans(preprocessed, plan),
        cache=cache,
    )


def open_scans(preprocessed: Preprocessed, plan: Plan) -> ScanBank | None:
    """The scans that a plan names; None if it names none.

    Raises:
        UserError: their bank is gone, or was filled again.
    """
    known = plan.source.scans
    if known is None:
        return None
    fold = Fold(plan.source.fold, plan.source.training_cases, ())
    scans = ScanBank.open(preprocessed, fold, known.bank, by_confidence=plan.trust_masks)
    if scans.record_sha256 != known.record_sha256:
        raise UserError(
            f"Bank {scans.folder} has changed since the generator learnt from it. Restore it, or move the generator's "
            f"folder away and train a new one."
        )
    return scans
