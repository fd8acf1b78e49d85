"""Checks nnU-Net's plans and dataset.json for the keys that are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from pydantic import BaseModel, Field, ValidationError

from stylegan2_cond.errors import UserError, first_line
from stylegan2_cond.io import explain

_Name = Annotated[str, Field(pattern=r"^[^/\x00-\x1f]+$", max_length=200)]
_Size = Annotated[int, Field(ge=1, le=2**20)]
_Label = Annotated[int, Field(ge=0, lt=2**15)]  # masks are int16
_Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Plans(BaseModel):
    dataset_name: _Name
    plans_name: _Name
    configurations: dict[str, dict]
    transpose_forward: list[int] = Field(min_length=3, max_length=3)
    transpose_backward: list[int] = Field(min_length=3, max_length=3)


class _Configuration(BaseModel):
    data_identifier: _Name
    patch_size: list[_Size] = Field(min_length=2, max_length=3)
    spacing: list[_Length] = Field(min_length=2, max_length=3)
    batch_size: _Size
    normalization_schemes: list[str] = Field(min_length=1)
    use_mask_for_norm: list[bool] = Field(min_length=1)


class _Network(BaseModel):
    strides: list[list[_Size]] = Field(min_length=1)


class _Dataset(BaseModel):
    labels: dict[str, _Label | list[_Label]]
    file_ending: _Name
    channel_names: dict[str, str] | None = None
    modality: dict[str, str] | None = None


def open_plans(content: object, path: Path, remedy: str) -> PlansManager:
    """nnU-Net's reader of plans, for the content of `path`.

    Raises:
        UserError: a key is missing or of a wrong type.
    """
    _check(_Plans, content, path, remedy)
    return PlansManager(content)


def check_configuration(plans: PlansManager, name: str, dataset_json: object, plans_path: Path, remedy: str) -> None:
    """Let nnU-Net's classes read a configuration and dataset.json once.

    Raises:
        UserError: a key is missing or of a wrong type, or nnU-Net cannot use the labels.
    """
    path = plans_path.with_name("dataset.json")
    _check(_Dataset, dataset_json, path, remedy)
    try:
        configuration = plans.get_configuration(name)
    except Exception as error:  # missing or circular parents
        raise UserError(f"{plans_path}, configuration {name}, can't be read ({first_line(error)}). {remedy}") from None
    where = f"{plans_path}, configuration {name}"
    _check(_Configuration, configuration.configuration, where, remedy)
    try:
        network = configuration.network_arch_init_kwargs
    except (KeyError, TypeError):
        network = None
    _check(_Network, network, f"{where}, architecture.arch_kwargs", remedy)
    axes = {len(stride) for stride in configuration.pool_op_kernel_sizes} | {len(configuration.patch_size)}
    if len(axes) > 1:
        raise UserError(f"{where}: patch_size has {len(configuration.patch_size)} axes, strides have others. {remedy}")
    try:
        manager = plans.get_label_manager(dataset_json)
        manager.foreground_regions if manager.has_regions else manager.foreground_labels  # noqa: B018
    except Exception as error:
        raise UserError(f"{path} has labels that nnU-Net can't use ({first_line(error)}). {remedy}") from None


def _check(model: type[BaseModel], content: object, where: object, remedy: str) -> None:
    if not isinstance(content, Mapping):
        raise UserError(f"{where} is not a JSON object. {remedy}")
    try:
        model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, model)} {remedy}") from None
