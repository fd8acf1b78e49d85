"""The generator's self-configuration: what nnU-Net's plans and one look at the training cases decide."""

from stylegan2_cond.planning.available import available_bytes, free_bytes
from stylegan2_cond.planning.fitting import fit_memory, next_smaller, smaller_patch_size, too_large
from stylegan2_cond.planning.memory import training_bytes
from stylegan2_cond.planning.overrides import check_kimg, parse_overrides
from stylegan2_cond.planning.plan import DEFAULT_KIMG, SNAPSHOTS, Plan, Source, Variant, run_folder, run_folder_in
from stylegan2_cond.planning.planner import condition_patches, make_plan

__all__ = [
    "DEFAULT_KIMG",
    "SNAPSHOTS",
    "Plan",
    "Source",
    "Variant",
    "available_bytes",
    "check_kimg",
    "condition_patches",
    "fit_memory",
    "free_bytes",
    "make_plan",
    "next_smaller",
    "parse_overrides",
    "run_folder",
    "run_folder_in",
    "smaller_patch_size",
    "too_large",
    "training_bytes",
]
