"""Removes from JSON what must not be exported: paths of this machine, and settings of the plugin."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

from nnunet_synth.training.settings import BLOCK

CARD_KEY = "synthetic_data"  # in dataset.json, which nnU-Net copies from dataset to model to zip


def without_paths(content: object) -> object:
    """The same JSON, with every string that is an absolute path reduced to its last part."""
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
    """The same plans, without the `synth` block of each configuration, which nnU-Net would ignore."""
    configurations = {
        name: {key: value for key, value in configuration.items() if key != BLOCK}
        for name, configuration in plans["configurations"].items()
    }
    return {**plans, "configurations": configurations}


def without_files(dataset_json: dict) -> dict:
    """The same dataset.json, without its optional list of image files (`dataset`)."""
    return {key: value for key, value in dataset_json.items() if key != "dataset"}
