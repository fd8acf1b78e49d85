"""`nnunet-synth inspect`: hold a bank's files against their checksums, look at what is in it, and write the page."""

from __future__ import annotations

from pathlib import Path

from nnunet_synth.bank.format import RECORD_FILE, BankRecord, verify_shards
from nnunet_synth.bank.inspection.facts import Fact, headline, list_facts
from nnunet_synth.bank.inspection.findings import find_out
from nnunet_synth.bank.inspection.page import render
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import write_atomically

PAGE_FILE = "inspection.html"
SIGNATURE = '<meta name="generator" content="nnunet-synth inspect'  # near the start of each page that we wrote
HEAD_BYTES = 1000


def inspect_bank(folder: Path, path: Path | None = None) -> tuple[Path, str, list[Fact]]:
    """Write a page that shows what is in a bank. It holds all that it shows, real patches among it.

    Args:
        folder: of the bank, complete or not.
        path: of the page; `inspection.html` in the bank's folder, when None.

    Returns:
        Where the page is, what the bank holds, and what to know first.

    Raises:
        DamagedBank: files are missing, cut off or changed; there is no page then.
        UserError: no bank there, or a file at `path` that is no such page.
    """
    path = path or folder / PAGE_FILE
    _refuse_other_folder(folder)
    _refuse_other_file(path)
    record = BankRecord.load(folder / RECORD_FILE)
    found = find_out(folder, record, verify_shards(folder, record, record.shards))
    page = render(found)
    with write_atomically(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path, headline(found), list_facts(found)


def _refuse_other_folder(folder: Path) -> None:
    if (folder / RECORD_FILE).is_file():
        return
    banks = sorted(record.parent for record in folder.glob(f"**/{RECORD_FILE}"))
    hint = f"There are banks in it, for example {banks[-1]}" if banks else (
        "Banks lie in $nnUNet_preprocessed/DATASET/…_synth/fold_F/NAME; nnunet-synth bank tells where it puts one."
    )  # fmt: skip
    raise UserError(f"{folder} is no bank: it has no {RECORD_FILE}. {hint}")


def _refuse_other_file(path: Path) -> None:
    """An older page may be replaced, and nothing else."""
    if path.is_dir():
        raise UserError(f"-o {path} is a folder. Type for example -o {path / PAGE_FILE}")
    if path.exists() and not _is_page(path):
        raise UserError(f"{path} exists and is no page of this command. Choose another name with -o.")


def _is_page(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return SIGNATURE in file.read(HEAD_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return False
