"""From nnU-Net's normalised units back to those of the image files, as far as each channel's scheme allows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from pydantic import BaseModel, ConfigDict

from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Preprocessed
from stylegan2_cond.progress_bar import ProgressBar

RAW_OUTSIDE = 0.0  # nnU-Net takes voxels that are 0 in all channels for outside (`crop_to_nonzero`)
TYPICAL_CASES = 20  # that are read to learn what a scheme did to a typical one
_SMALLEST = 1e-8  # standard deviation, as in nnU-Net's schemes


class Channel(BaseModel):
    """How a channel is turned back: `raw = value · scale + offset`.

    Attributes:
        back: `exactly`; `typically`, where nnU-Net measured each case by itself, and a sample is of none; `not` at all.
        low, high: what nnU-Net lets pass of raw values; None where that is all.
        note: what a reader of the files should know.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    scheme: str
    back: Literal["exactly", "typically", "not"]
    scale: float = 1.0
    offset: float = 0.0
    low: float | None = None
    high: float | None = None
    note: str


class Measured(NamedTuple):
    """Of one channel of a case, as its scheme sees it."""

    mean: float
    deviation: float
    lowest: float
    highest: float


def learn_channels(preprocessed: Preprocessed, cases: Sequence[Sequence[str]]) -> tuple[Channel, ...]:
    """How to turn back each channel of a dataset.

    Args:
        preprocessed: whose plans name the schemes (nnU-Net's `default_normalization_schemes.py`).
        cases: image files of each training case; a few are read where a scheme measures each case by itself.
    """
    schemes = preprocessed.configuration.normalization_schemes
    names = preprocessed.dataset_json.get("channel_names") or preprocessed.dataset_json["modality"]
    measured: list[list[Measured]] = []
    if set(schemes) & _MEASURING.keys():
        chosen = np.linspace(0, len(cases) - 1, min(TYPICAL_CASES, len(cases))).round().astype(int)
        reader = preprocessed.plans_manager.image_reader_writer_class()
        masked = preprocessed.configuration.use_mask_for_norm
        measured = [_measure(reader, cases[n], masked) for n in ProgressBar(chosen, desc="Intensities", unit="case")]
    return tuple(
        _channel(preprocessed, number, names[str(number)], scheme, [case[number] for case in measured])
        for number, scheme in enumerate(schemes)
    )


def fit_into(
    channels: Sequence[Channel], lowest: np.ndarray, highest: np.ndarray, dtype: np.dtype
) -> tuple[Channel, ...]:
    """Let all values fit into files of whole numbers, where nnU-Net scales each case by itself and so sees no change.

    lowest, highest: `[C]`, of the samples, in normalised units.
    """
    if dtype.kind == "f":
        return tuple(channels)
    limits, fitted = np.iinfo(dtype), []
    for channel, low, high in zip(channels, lowest.tolist(), highest.tolist(), strict=True):
        if channel.back == "typically":
            scale = min(channel.scale, (limits.max - limits.min) / max(high - low, _SMALLEST))
            offset = min(max(channel.offset, limits.min - low * scale), limits.max - high * scale)
            if (scale, offset) != (channel.scale, channel.offset):
                note = f"{channel.note} Contrast and brightness were changed so that all values fit into {dtype.name}."
                channel = channel.model_copy(update={"scale": scale, "offset": offset, "note": note})
        fitted.append(channel)
    return tuple(fitted)


def turn_back(image: np.ndarray, label: np.ndarray, channels: Sequence[Channel]) -> np.ndarray:
    """Values as in the image files, with voxels outside as nnU-Net expects them there.

    image: `[C, *spatial]` in normalised units; label: `[*spatial]`. Returns `[C, *spatial]` float32.
    """
    raw = np.empty(image.shape, np.float32)
    for values, normalised, channel in zip(raw, image, channels, strict=True):
        values[:] = normalised * np.float64(channel.scale) + channel.offset
    raw[:, label == OUTSIDE] = RAW_OUTSIDE
    return raw


def storable(raw: np.ndarray, channels: Sequence[Channel], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """raw: `[C, *spatial]` → the same as files of `dtype` hold it, and how many values of each channel were clipped."""
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    stored, clipped = np.empty(raw.shape, dtype), np.zeros(len(raw), dtype=np.int64)
    for number, (values, channel) in enumerate(zip(raw, channels, strict=True)):
        low = limits.min if channel.low is None else max(limits.min, channel.low)
        high = limits.max if channel.high is None else min(limits.max, channel.high)
        whole = values if dtype.kind == "f" else np.rint(values)
        clipped[number] = ((whole < low) | (whole > high)).sum()
        stored[number] = np.clip(whole, low, high)
    return stored, clipped


def preprocessed_values(raw: np.ndarray, label: np.ndarray, preprocessed: Preprocessed) -> np.ndarray:
    """What nnU-Net's own normalisation of a case makes of raw values. raw: `[C, *spatial]`, label: `[*spatial]`."""
    properties = preprocessed.plans_manager.foreground_intensity_properties_per_channel
    normalise = DefaultPreprocessor(verbose=False)._normalize
    return normalise(raw.astype(np.float32), label[None], preprocessed.configuration, properties)


def _measure(reader: BaseReaderWriter, files: Sequence[str], masked: Sequence[bool]) -> list[Measured]:
    image, inside, _ = crop_to_nonzero(reader.read_images(files)[0])
    seen = [channel[inside[0] >= 0] if mask else channel for channel, mask in zip(image, masked, strict=True)]
    return [Measured(*(float(f(values)) for f in (np.mean, np.std, np.min, np.max))) for values in seen]


def _channel(preprocessed: Preprocessed, number: int, name: str, scheme: str, measured: Sequence[Measured]) -> Channel:
    properties = preprocessed.plans_manager.foreground_intensity_properties_per_channel[str(number)]
    if scheme in _MEASURING:
        typical = Measured(*np.median(measured, axis=0).tolist())
        found = _MEASURING[scheme](typical, len(measured))
    else:
        found = _KNOWN.get(scheme, _unknown)(properties)
    return Channel(name=name, scheme=scheme, **found)


def _ct(properties: dict) -> dict:
    return {
        "back": "exactly",
        "scale": max(properties["std"], _SMALLEST),
        "offset": properties["mean"],
        "note": f"What lay below {properties['percentile_00_5']:g} or above {properties['percentile_99_5']:g} was "
        f"clipped by nnU-Net, and is again.",
    }


def _as_it_is(properties: dict) -> dict:
    return {"back": "exactly", "note": "nnU-Net does not normalise it."}


def _rgb(properties: dict) -> dict:
    return {"back": "exactly", "scale": 255.0, "low": 0.0, "high": 255.0, "note": "From 0 to 255; others are clipped."}


def _unknown(properties: dict) -> dict:
    return {
        "back": "not",
        "note": "The scheme is not one of nnU-Net's own: values are left in normalised units, and preprocessing "
        "normalises them once more.",
    }


def _z_score(typical: Measured, cases: int) -> dict:
    return {
        "back": "typically",
        "scale": max(typical.deviation, _SMALLEST),
        "offset": typical.mean,
        "note": f"nnU-Net scales each case by its own mean and deviation; these are the medians of {cases} training "
        f"cases. It does so once more with the samples of a case, together.",
    }


def _rescale(typical: Measured, cases: int) -> dict:
    return {
        "back": "typically",
        "scale": max(typical.highest - typical.lowest, _SMALLEST),
        "offset": typical.lowest,
        "note": f"nnU-Net scales each case by its own lowest and highest value; these are the medians of {cases} "
        f"training cases. It does so once more with the samples of a case, together.",
    }


_KNOWN: dict[str, Callable[[dict], dict]] = {
    "CTNormalization": _ct,
    "NoNormalization": _as_it_is,
    "RGBTo01Normalization": _rgb,
}
_MEASURING: dict[str, Callable[[Measured, int], dict]] = {
    "ZScoreNormalization": _z_score,
    "RescaleTo01Normalization": _rescale,
}
