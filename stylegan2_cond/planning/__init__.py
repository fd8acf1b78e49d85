"""The generator's self-configuration: derived from nnU-Net's plans and the training cases."""

from stylegan2_cond.planning.memory import fit_memory, next_smaller, smaller_patch_size, too_large, training_bytes
from stylegan2_cond.planning.plan import Plan, RunOptions, Source, Variant, parse_overrides, run_folder
from stylegan2_cond.planning.planner import condition_patches, make_plan
from stylegan2_cond.planning.real_patches import open_patches, open_scans

__all__ = [
    "Plan",
    "RunOptions",
    "Source",
    "Variant",
    "condition_patches",
    "fit_memory",
    "make_plan",
    "next_smaller",
    "open_patches",
    "open_scans",
    "parse_overrides",
    "run_folder",
    "smaller_patch_size",
    "too_large",
    "training_bytes",
]
