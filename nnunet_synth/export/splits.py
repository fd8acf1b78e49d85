"""Folds of an exported dataset: as before, with synthetic cases where their generator saw no validation case."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.errors import UserError

_NNUNETS_FOLDS = 5


def real_folds(preprocessed: Preprocessed) -> list[dict[str, list[str]]]:
    """The folds of a dataset, as nnU-Net has split it; five without a case where that could not be split."""
    path = preprocessed.base / "splits_final.json"
    if not path.exists():
        try:
            preprocessed.fold(0)
        except UserError:
            return [{"train": [], "val": []} for _ in range(_NNUNETS_FOLDS)]
    return json.loads(path.read_text())


def extended_folds(
    folds: Sequence[dict[str, list[str]]], exported: Collection[str], seen: Collection[str], synthetic: Sequence[str]
) -> list[dict[str, list[str]]]:
    """The same folds, by the same numbers; synthetic cases are only ever trained on.

    Args:
        folds: of the real cases.
        exported: the real cases that are there. A fold that needs others is left empty: were it left out, nnU-Net would
            split at random in its place, synthetic cases and all.
        seen: cases that the generator of the synthetic ones learnt from.
        synthetic: names; they enter the training part of each fold whose validation part holds no case seen.
    """
    extended = []
    for fold in folds:
        if not set(fold["train"]) | set(fold["val"]) <= set(exported):
            extended.append({"train": [], "val": []})
            continue
        fresh = bool(fold["val"]) and not set(fold["val"]) & set(seen)
        extended.append({"train": [*fold["train"], *(synthetic if fresh else ())], "val": [*fold["val"]]})
    return extended
