"""From a snapshot to files that viewers and nnU-Net read."""

from stylegan2_cond.sampling.generate import generate
from stylegan2_cond.sampling.manifest import RECORD_FILE, SamplesRecord, summary

__all__ = ["RECORD_FILE", "SamplesRecord", "generate", "summary"]
