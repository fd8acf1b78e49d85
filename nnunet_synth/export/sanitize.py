"""What an export leaves behind, paths of this machine and settings that only the plugin knows, and what it marks."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

from nnunet_synth.training.settings import BLOCK

CARD_KEY = "synthetic_data"  # of dataset.json, which nnU-Net hands on from dataset to model to zip


def without_paths(content: object) -> object:
    """The same JSON; every string that is an absolute path keeps its last part only."""
    if isinstance(content, dict):
        return {key: without_paths(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(without_paths(value) for value in content)
    if isinstance(content, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(content).is_absolute():
                return kind(content).name
    return content


def without_block(plans: dict) -> dict:
    """The same plans; no configuration has a `synth` block. nnU-Net itself would not mind one."""
    configurations = {
        name: {key: value for key, value in configuration.items() if key != BLOCK}
        for name, configuration in plans["configurations"].items()
    }
    return {**plans, "configurations": configurations}


def without_files(dataset_json: dict) -> dict:
    """The same dataset.json, without the list of image files that it may hold (`dataset`)."""
    return {key: value for key, value in dataset_json.items() if key != "dataset"}
