"""`nnunet-synth inspect`: are a bank's files whole, and what is in it? One HTML page that needs nothing else."""

from nnunet_synth.bank.inspection.inspecting import PAGE_FILE, inspect_bank

__all__ = ["PAGE_FILE", "inspect_bank"]
