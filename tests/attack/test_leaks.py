"""No bank that saw a validation case enters nnU-Net's real trainer, whatever was copied, renamed or edited."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np
import pytest
from raw_files import NAME

from attack.entries import make_trainer, open_judge, renew, resume, use_bank
from attack.outcomes import outcome_of
from attack.victims import Victims
from nnunet_synth.bank.fill import fill_bank
from nnunet_synth.bank.request import FillRequest
from stylegan2_cond.metrics.trained_nnunets import find_nnunets
from stylegan2_cond.planning import Source
from stylegan2_cond.snapshot import sha256

Try = Callable[[Victims], dict]  # what is done to the files; returns how the training is called
FOLDS = "nnUNetPlans_2d_synth"


def to_fold(victims: Victims, fold: int | str) -> Path:
    """The bank of fold 0, copied to another fold's folder."""
    return Path(shutil.copytree(victims.bank, victims.base / FOLDS / f"fold_{fold}" / "kb"))


def edit_source(folder: Path, **changes: object) -> None:
    """By hand, with a renewed checksum."""
    renew(folder / "bank.json", lambda record: record["source"].update(changes))


def edit_plans(victims: Victims, change: Callable[[dict], object]) -> None:
    path = victims.base / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    change(plans)
    path.write_text(json.dumps(plans))


def edit_splits(victims: Victims, change: Callable[[list], object]) -> None:
    path = victims.base / "splits_final.json"
    splits = json.loads(path.read_text())
    change(splits)
    path.write_text(json.dumps(splits))


def copied(victims: Victims) -> dict:
    to_fold(victims, 1)
    return {"fold": 1}


def copied_and_fold_edited(victims: Victims) -> dict:
    edit_source(to_fold(victims, 1), fold="1")
    return {"fold": 1}


def one_bit_of_a_name(victims: Victims) -> dict:
    """As an accident does it: nobody renews a checksum."""
    path = to_fold(victims, 1) / "bank.json"
    validation = json.loads((victims.base / "splits_final.json").read_text())[1]["val"]
    text = path.read_text()
    for name in validation:
        text = text.replace(f'"{name}"', f'"{chr(ord(name[0]) ^ 1)}{name[1:]}"')
    path.write_text(text)
    return {"fold": 1}


def names_emptied(victims: Victims) -> dict:
    folder = to_fold(victims, 1)
    record = json.loads((folder / "bank.json").read_text())
    record["source"]["training_cases"] = []
    (folder / "bank.json").write_text(json.dumps(record))
    return {"fold": 1}


def other_dataset(victims: Victims) -> dict:
    """The same cases under another name of the dataset, with the bank."""
    name = "Dataset951_Other"
    base = victims.base.with_name(name)
    shutil.copytree(victims.base, base, symlinks=True)
    plans = json.loads((base / "nnUNetPlans.json").read_text()) | {"dataset_name": name}
    (base / "nnUNetPlans.json").write_text(json.dumps(plans))
    return {"dataset": name}


def split_changed(victims: Victims) -> dict:
    edit_splits(victims, lambda splits: splits[0].update(splits[1]))
    return {}


def random_split(victims: Victims) -> dict:
    """A fold that the split lacks is drawn by nnU-Net at random."""
    to_fold(victims, 7)
    return {"fold": 7}


def of_all(victims: Victims) -> dict:
    names = [path.stem for path in (victims.base / "nnUNetPlans_2d").glob("case_*.pkl")]
    edit_source(to_fold(victims, 1), fold="all", training_cases=sorted(names))
    return {"fold": 1}


def other_plans(victims: Victims) -> dict:
    to_fold(victims, 1)
    edit_plans(victims, lambda plans: plans.update(plans_name="nnUNetPlansOther"))
    return {"fold": 1}


def other_normalisation(victims: Victims) -> dict:
    schemes = ["ZScoreNormalization"] * 2
    edit_plans(victims, lambda plans: plans["configurations"]["2d"].update(normalization_schemes=schemes))
    return {}


def path_for_a_name(victims: Victims) -> dict:
    block = {"bank": "../fold_0/kb"}
    edit_plans(victims, lambda plans: plans["configurations"]["2d"].update(synth=block))
    (victims.base / FOLDS / "fold_1").mkdir()
    return {"fold": 1}


def rename(victims: Victims, old: str, new: str, *, keep: bool = False) -> None:
    """A case under another name, in the folder of cases, which is a copy from now on."""
    folder = victims.base / "nnUNetPlans_2d"
    if folder.is_symlink():
        real = folder.resolve()
        folder.unlink()
        shutil.copytree(real, folder)
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):
        (shutil.copyfile if keep else shutil.move)(folder / f"{old}{ending}", folder / f"{new}{ending}")


def cases_renamed(victims: Victims) -> dict:
    """Fold 1's validation cases, which the bank's generator saw, under new names."""
    splits = json.loads((victims.base / "splits_final.json").read_text())
    names = {old: f"renamed_{place}" for place, old in enumerate(splits[1]["val"])}
    for old, new in names.items():
        rename(victims, old, new)
    for fold in splits:
        fold.update({part: [names.get(name, name) for name in fold[part]] for part in ("train", "val")})
    (victims.base / "splits_final.json").write_text(json.dumps(splits))
    to_fold(victims, 1)
    return {"fold": 1}


def twin_of_a_training_case(victims: Victims) -> dict:
    """A case that the generator saw, held out under another name."""
    splits = json.loads((victims.base / "splits_final.json").read_text())
    rename(victims, splits[0]["train"][0], "twin", keep=True)
    edit_splits(victims, lambda folds: folds[0]["val"].append("twin"))
    return {}


def real_case_for_a_shard(victims: Victims) -> dict:
    """A shard's name that leads to a validation case, with the checksums of its files."""
    held_out = json.loads((victims.base / "splits_final.json").read_text())[0]["val"][0]
    name = f"../../../nnUNetPlans_2d/{held_out}"
    files = {f"{name}{end}": sha256(victims.bank / f"{name}{end}") for end in (".b2nd", "_seg.b2nd", ".pkl")}
    renew(victims.bank / "bank.json", lambda record: record["shards"][0].update(name=name, files=files))
    return {}


def real_case_for_a_shard_without_files(victims: Victims) -> dict:
    held_out = json.loads((victims.base / "splits_final.json").read_text())[0]["val"][0]
    name = f"../../../nnUNetPlans_2d/{held_out}"
    renew(victims.bank / "bank.json", lambda record: record["shards"][0].update(name=name, files={}))
    return {}


def lazy_shard(victims: Victims) -> dict:
    """A shard that is not an array but code that makes one."""
    path = victims.bank / "synth_00000.b2nd"
    array = blosc2.open(urlpath=str(path), mode="r")[:]
    path.unlink()
    blosc2.lazyexpr("a + 1", {"a": blosc2.asarray(array, urlpath=str(path.with_name("operand.b2nd")))}).save(str(path))
    renew(victims.bank / "bank.json", lambda record: record["shards"][0]["files"].update({path.name: sha256(path)}))
    return {}


def shard_of_code(victims: Victims) -> dict:
    """A shard that is a function, which runs where it is read."""
    path = victims.bank / "synth_00000.b2nd"
    path.unlink()
    operand = blosc2.asarray(np.zeros((2, 70, 16, 16), np.float32), urlpath=str(path.with_name("operand.b2nd")))
    blosc2.lazyudf(_runs, (operand,), np.float32).save(urlpath=str(path))
    renew(victims.bank / "bank.json", lambda record: record["shards"][0]["files"].update({path.name: sha256(path)}))
    return {}


def _runs(inputs, output, offset):
    import os

    os._exit(3)  # seen as a crash


REFUSED: dict[str, Try] = {
    one.__name__: one
    for one in (
        copied, copied_and_fold_edited, one_bit_of_a_name, names_emptied, other_dataset, split_changed, random_split,
        of_all, other_plans, other_normalisation, path_for_a_name, cases_renamed, twin_of_a_training_case,
        real_case_for_a_shard, real_case_for_a_shard_without_files, lazy_shard, shard_of_code,
    )
}  # fmt: skip


def nothing_done(victims: Victims) -> dict:
    return {}


def split_deleted(victims: Victims) -> dict:
    """nnU-Net makes the same one again."""
    (victims.base / "splits_final.json").unlink()
    return {}


def fold_all(victims: Victims) -> dict:
    """Nothing is held out, so nothing leaks."""
    to_fold(victims, "all")
    return {"fold": "all"}


def another_bank_of_the_fold(victims: Victims) -> dict:
    preprocessed = victims.open()
    outcome_of(lambda: str(fill_bank(preprocessed, "0", FillRequest(samples=10, name="second", without=("all",)))))
    return {}


TAKEN: dict[str, Try] = {one.__name__: one for one in (nothing_done, split_deleted, fold_all, another_bank_of_the_fold)}


def training_with(victims: Victims, attempt: Try):
    """What becomes of `get_tr_and_val_datasets` of the real trainer, and a draw of every shard."""

    def call() -> int:
        victims.enter()
        called = attempt(victims)
        own = Victims(victims.folder)
        dataset = called.get("dataset", NAME)
        plans = json.loads((own.base.with_name(dataset) / "nnUNetPlans.json").read_text())
        trainer = make_trainer(own, plans, called.get("fold", 0))
        training, _ = trainer.get_tr_and_val_datasets()
        training.control.ratios = [1.0]
        for _ in range(20):
            image, *_ = training.load_case(training.identifiers[0])
            np.asarray(image[(slice(None), slice(0, 1), slice(None), slice(None))])
        return 1

    return outcome_of(call)


@pytest.mark.parametrize("name", REFUSED)
def test_a_bank_that_may_leak_is_refused(victims, name):
    outcome = training_with(victims, REFUSED[name])
    assert outcome.kind == "clear", outcome


@pytest.mark.parametrize("name", TAKEN)
def test_a_bank_that_cannot_leak_is_taken(victims, name):
    outcome = training_with(victims, TAKEN[name])
    assert outcome.kind == "taken", outcome


def fill(victims: Victims, fold: str = "1"):
    """Fill a bank for a fold by the snapshot of fold 0."""
    request = FillRequest(samples=10, snapshots=((victims.snapshot, 1.0),), without=("all",))
    return outcome_of(lambda: (victims.enter(), str(fill_bank(victims.open(), fold, request)))[1])


def test_a_snapshot_of_another_fold_fills_no_bank(victims):
    assert fill(victims).kind == "clear"
    assert fill(victims, "0").kind == "taken"


def test_a_card_that_was_edited_fills_no_bank(victims):
    card = json.loads((victims.snapshot / "card.json").read_text())
    card["plan"]["source"]["fold"] = "1"
    card["plan"]["source"]["training_cases"] = json.loads((victims.base / "splits_final.json").read_text())[1]["train"]
    (victims.snapshot / "card.json").write_text(json.dumps(card))
    assert fill(victims).kind == "clear"


def test_a_judge_of_other_splits_is_not_taken(victims):
    edit_splits(victims, lambda splits: splits[0].update(splits[1]))

    def call() -> str:
        victims.enter()
        preprocessed = victims.open()
        return str(find_nnunets(Source.of(preprocessed, preprocessed.fold(0))).models)

    assert outcome_of(call).told == "()"


# --- code


class Evil:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (exec, (f"open({str(self.marker)!r}, 'w').close()",))


def test_no_file_that_is_unpickled_runs_code(victims, tmp_path):
    import torch

    marker = tmp_path / "ran"
    places = {
        victims.run / "checkpoint_latest.pt": resume,
        victims.judge / "fold_0" / "checkpoint_final.pth": open_judge,
        victims.bank / "synth_00000.pkl": use_bank,
    }
    for path, entry in places.items():
        for protocol in (0, 2, 4):
            own = path.read_bytes()
            for content in (pickle.dumps(Evil(marker), protocol), pickle.dumps({"a": [Evil(marker)]}, protocol)):
                path.write_bytes(content)
                _renew_shard(victims, path)
                assert outcome_of(lambda entry=entry: (victims.enter(), entry(victims))[1]).kind == "clear", path
            if path.suffix != ".pkl":
                torch.save({"network_weights": Evil(marker), "images_seen": Evil(marker)}, path)
                outcome = outcome_of(lambda entry=entry: (victims.enter(), entry(victims))[1])
                assert outcome.kind == "clear", (path, outcome)
            path.write_bytes(own)
            _renew_shard(victims, path)
    assert not marker.exists()


def _renew_shard(victims: Victims, path: Path) -> None:
    if path.parent == victims.bank:
        files = {path.name: sha256(path)}
        renew(victims.bank / "bank.json", lambda record: record["shards"][0]["files"].update(files))
