"""Inverts nnU-Net's normalisation of intensities, as far as the scheme of each channel allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from pydantic import BaseModel, ConfigDict

from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Preprocessed
from stylegan2_cond.progress_bar import ProgressBar

RAW_OUTSIDE = 0.0  # nnU-Net considers voxels that are 0 in all channels as outside (`crop_to_nonzero`)
TYPICAL_CASES = 20  # that are read for schemes that measure each case
_SMALLEST = 1e-8  # standard deviation, as in nnU-Net's schemes
_Z_SCORE, _RESCALE = "ZScoreNormalization", "RescaleTo01Normalization"  # of nnU-Net's, these measure each case


class ChannelInverse(BaseModel):
    """How the values of a channel are converted back: `raw = value · scale + offset`.

    Attributes:
        name, scheme: of the channel, and of its normalisation.
        inverse: `exact`; `typical` where nnU-Net measures each case, and a sample belongs to none; `none`.
        low, high: range of raw values that nnU-Net keeps; unlimited if None.
        note: for users of the files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    scheme: str
    inverse: Literal["exact", "typical", "none"]
    scale: float = 1.0
    offset: float = 0.0
    low: float | None = None
    high: float | None = None
    note: str


def learn_inverses(preprocessed: Preprocessed, cases: Sequence[Sequence[str]]) -> tuple[ChannelInverse, ...]:
    """The inverse of each channel's normalisation (nnU-Net's `default_normalization_schemes.py`).

    Args:
        preprocessed: its plans name the schemes.
        cases: image files of each training case; some are read where a scheme measures each case.
    """
    schemes = preprocessed.configuration.normalization_schemes
    names = preprocessed.dataset_json.get("channel_names") or preprocessed.dataset_json["modality"]
    measured = _measure(preprocessed, cases) if {_Z_SCORE, _RESCALE} & set(schemes) else np.zeros((1, len(schemes), 4))
    properties = preprocessed.plans_manager.foreground_intensity_properties_per_channel
    return tuple(
        ChannelInverse(
            name=names[str(number)],
            scheme=scheme,
            **_inverse(scheme, properties[str(number)], np.median(measured[:, number], axis=0).tolist(), len(measured)),
        )
        for number, scheme in enumerate(schemes)
    )


def fit_into(
    channels: Sequence[ChannelInverse], lowest: np.ndarray, highest: np.ndarray, dtype: np.dtype
) -> tuple[ChannelInverse, ...]:
    """Scale channels so that all values fit into integer files, where nnU-Net normalises each case and sees no change.

    Args:
        channels: those with a `typical` inverse may change.
        lowest, highest: `[C]`, of the samples, in normalised units.
        dtype: an integer type.
    """
    limits, fitted = np.iinfo(dtype), []
    for channel, low, high in zip(channels, lowest.tolist(), highest.tolist(), strict=True):
        if channel.inverse == "typical":
            scale = min(channel.scale, (limits.max - limits.min) / max(high - low, _SMALLEST))
            offset = min(max(channel.offset, limits.min - low * scale), limits.max - high * scale)
            if (scale, offset) != (channel.scale, channel.offset):
                note = f"{channel.note} Contrast and brightness were changed so that all values fit into {dtype.name}."
                channel = channel.model_copy(update={"scale": scale, "offset": offset, "note": note})
        fitted.append(channel)
    return tuple(fitted)


def denormalize(image: np.ndarray, label: np.ndarray, channels: Sequence[ChannelInverse]) -> np.ndarray:
    """Values as in image files, and 0 outside of the body, where nnU-Net expects it.

    Args:
        image: `[C, *spatial]` in normalised units.
        label: `[*spatial]`.
        channels: C inverses.

    Returns:
        `[C, *spatial]` float32.
    """
    raw = np.empty(image.shape, np.float32)
    for values, normalised, channel in zip(raw, image, channels, strict=True):
        values[:] = normalised * np.float64(channel.scale) + channel.offset
    raw[:, label == OUTSIDE] = RAW_OUTSIDE
    return raw


def clip_to_type(raw: np.ndarray, channels: Sequence[ChannelInverse], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Values as files of `dtype` hold them, like raw `[C, *spatial]`, and the number clipped per channel, `[C]`."""
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    stored, clipped = np.empty(raw.shape, dtype), np.zeros(len(raw), dtype=np.int64)
    for number, (values, channel) in enumerate(zip(raw, channels, strict=True)):
        low = limits.min if channel.low is None else max(limits.min, channel.low)
        high = limits.max if channel.high is None else min(limits.max, channel.high)
        rounded = values if dtype.kind == "f" else np.rint(values)
        clipped[number] = ((rounded < low) | (rounded > high)).sum()
        stored[number] = np.clip(rounded, low, high)
    return stored, clipped


def _measure(preprocessed: Preprocessed, cases: Sequence[Sequence[str]]) -> np.ndarray:
    """`[cases, C, 4]`: mean, standard deviation, lowest and highest value of some cases, as schemes see them."""
    chosen = np.linspace(0, len(cases) - 1, min(TYPICAL_CASES, len(cases))).round().astype(int)
    reader = preprocessed.plans_manager.image_reader_writer_class()
    measured = []
    for number in ProgressBar(chosen, desc="Intensities", unit="case"):
        image, inside, _ = crop_to_nonzero(reader.read_images(cases[number])[0])
        masked = preprocessed.configuration.use_mask_for_norm
        seen = [channel[inside[0] >= 0] if mask else channel for channel, mask in zip(image, masked, strict=True)]
        measured.append([[float(f(values)) for f in (np.mean, np.std, np.min, np.max)] for values in seen])
    return np.array(measured)


def _inverse(scheme: str, properties: dict, typical: list[float], cases: int) -> dict:
    """Fields of `ChannelInverse`, from nnU-Net's properties of the channel or the medians of `_measure`."""
    mean, deviation, lowest, highest = typical
    per_case = (
        "nnU-Net scales each case by its own {}; these are the medians of {} training cases. Preprocessing does so "
        "again, with the samples of a case together."
    )
    if scheme == "CTNormalization":
        low, high = properties["percentile_00_5"], properties["percentile_99_5"]
        note = f"nnU-Net clipped values below {low:g} or above {high:g}, and does so again."
        scale = max(properties["std"], _SMALLEST)
        return {"inverse": "exact", "scale": scale, "offset": properties["mean"], "note": note}
    if scheme == "NoNormalization":
        return {"inverse": "exact", "note": "nnU-Net does not normalise it."}
    if scheme == "RGBTo01Normalization":
        note = "From 0 to 255; other values are clipped."
        return {"inverse": "exact", "scale": 255.0, "low": 0.0, "high": 255.0, "note": note}
    if scheme == _Z_SCORE:
        note = per_case.format("mean and standard deviation", cases)
        return {"inverse": "typical", "scale": max(deviation, _SMALLEST), "offset": mean, "note": note}
    if scheme == _RESCALE:
        note = per_case.format("lowest and highest value", cases)
        return {"inverse": "typical", "scale": max(highest - lowest, _SMALLEST), "offset": lowest, "note": note}
    note = "Not a scheme of nnU-Net: values stay in normalised units, and preprocessing normalises them again."
    return {"inverse": "none", "note": note}
