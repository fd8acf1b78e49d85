"""From a snapshot to files that viewers and nnU-Net read."""

from stylegan2_cond.sampling.generate import generate
from stylegan2_cond.sampling.manifest import MANIFEST_FILE, Manifest, summary

__all__ = ["MANIFEST_FILE", "Manifest", "generate", "summary"]
