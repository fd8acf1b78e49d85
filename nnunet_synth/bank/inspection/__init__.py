"""`nnunet-synth inspect`: checks the files of a bank, and shows what is in it on one HTML page that needs no other."""

from nnunet_synth.bank.inspection.page import PAGE_FILE, inspect_bank

__all__ = ["PAGE_FILE", "inspect_bank"]
