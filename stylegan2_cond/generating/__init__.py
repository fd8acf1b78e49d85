"""From a snapshot to files that viewers and nnU-Net read."""

from stylegan2_cond.generating.drawing import generate
from stylegan2_cond.generating.record import RECORD_FILE, SamplesRecord, summary

__all__ = ["RECORD_FILE", "SamplesRecord", "generate", "summary"]
