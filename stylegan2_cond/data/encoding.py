"""Encodes pairs for the networks, `[N, C + K, *spatial]` with values near [-1, 1], and decodes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from stylegan2_cond.data.nnunet_dataset import OUTSIDE
from stylegan2_cond.data.transfer import constant

# Weight of a voxel's own class when a one-hot mask is softened. Above one half, so that argmax undoes the softening
# exactly; the softer the real masks, the less the discriminator can tell them by their encoding.
_OWN_CLASS = 0.55


class Codec(BaseModel):
    """How image intensities and labels are encoded; stored in the card, since samples are decoded with it.

    Attributes:
        low: per image channel, the value (in nnU-Net's normalised units) that becomes -1.
        high: per image channel, the value that becomes 1. Values beyond are not clipped.
        labels: the integer of each label channel, in order; `OUTSIDE` among them where patches show it.
        outside: per image channel, the value of all voxels that are `OUTSIDE`; None if it varies.
        ignore: the integer of voxels whose label is unknown.
        channel_names: of the image channels, as in dataset.json; empty if unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    low: tuple[float, ...]
    high: tuple[float, ...]
    labels: tuple[int, ...]
    outside: tuple[float, ...] | None = None
    ignore: int | None = None
    channel_names: tuple[str, ...] = ()

    @property
    def rgb(self) -> tuple[int, int, int] | None:
        """The channels that are red, green and blue, by their names; None if there are others, too."""
        names = [name.strip().lower() for name in self.channel_names]
        for colours in (("r", "g", "b"), ("red", "green", "blue")):
            if sorted(names) == sorted(colours):
                return tuple(names.index(colour) for colour in colours)
        return None

    @property
    def image_channels(self) -> int:
        """Number of image channels."""
        return len(self.low)

    @property
    def channels(self) -> int:
        """Image channels and label channels together."""
        return len(self.low) + len(self.labels)

    def encode(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """image: `[N, C, *spatial]` in nnU-Net's units, label: `[N, *spatial]` integers → `[N, C + K, *spatial]`.

        Labels must have been checked (`check_labels`).
        """
        return torch.cat([self._scale(image.float()), self.encode_label(label)], dim=1)

    def activate(self, raw: torch.Tensor, given: torch.Tensor | None = None) -> torch.Tensor:
        """Turn raw outputs of the generator into encoded pairs, `[N, C + K, *spatial]`.

        Label channels become probabilities (softmax); voxels outside get their one value by composition, so that the
        network need not learn it.

        Args:
            raw: `[N, C + K, *spatial]`, or `[N, C, *spatial]` if the mask is given.
            given: encoded label channels of the mask, `[N, K, *spatial]`.
        """
        if given is None:
            image, logits = raw.float().split([self.image_channels, len(self.labels)], dim=1)
            given = logits.softmax(dim=1) * 2 - 1
        else:
            image = raw.float()
        if self.outside is not None and OUTSIDE in self.labels:
            beyond = (given[:, self.labels.index(OUTSIDE)].unsqueeze(1) + 1) / 2
            constant = self._scale(self._per_channel(self.outside, image))
            image = torch.lerp(image, constant.expand_as(image), beyond.expand_as(image))  # exact at both ends
        return torch.cat([image, given], dim=1)

    def encode_label(self, label: torch.Tensor) -> torch.Tensor:
        """label: `[N, *spatial]` integers, checked → softened one-hot channels `[N, K, *spatial]`, from -1 to 1."""
        values = constant(self.labels, torch.int64, label.device)
        one_hot = label.unsqueeze(1) == values.reshape(1, -1, *[1] * (label.ndim - 1))  # [N, K, *spatial]
        soft = soften(one_hot.float())
        if self.ignore is not None:  # ignored voxels have no class to share with their neighbours
            soft = soft / soft.sum(dim=1, keepdim=True).clamp_min(torch.finfo(soft.dtype).tiny)
        return soft * 2 - 1

    def check_labels(self, label: np.ndarray) -> None:
        """Refuse labels that have no channel, where they are read: on a GPU, looking at them would wait for it.

        Raises:
            ValueError: a label that the codec has no channel for.
        """
        if stray := {*np.unique(label).tolist()} - {*self.labels, self.ignore}:
            raise ValueError(f"label {min(stray)} is not among {list(self.labels)}")

    def decode(self, coded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoded pairs → image `[N, C, *spatial]` float32 in nnU-Net's units, label `[N, *spatial]` int16."""
        image, probabilities = coded.split([self.image_channels, len(self.labels)], dim=1)
        label = self.decode_label(probabilities)
        low, high = self._per_channel(self.low, image), self._per_channel(self.high, image)
        image = (image.float() + 1) / 2 * (high - low) + low
        if self.outside is not None:
            image = torch.where((label == OUTSIDE).unsqueeze(1), self._per_channel(self.outside, image), image)
        return image, label

    def decode_label(self, coded: torch.Tensor) -> torch.Tensor:
        """Encoded masks `[N, K, *spatial]` → label `[N, *spatial]` int16, without voxels to be ignored."""
        return constant(self.labels, torch.int16, coded.device)[coded.argmax(dim=1)]

    def known(self, label: torch.Tensor) -> torch.Tensor | None:
        """`[N, 1, *spatial]`, 0 where the label is to be ignored; None if there is no ignore label."""
        return None if self.ignore is None else (~self._ignored(label)).unsqueeze(1).float()

    def hide(self, coded: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
        """Encoded pairs with label channels 0 wherever `known` is 0; unchanged for None."""
        if known is None:
            return coded
        image, label = coded.split([self.image_channels, len(self.labels)], dim=1)
        return torch.cat([image, label * known], dim=1)

    def _ignored(self, label: torch.Tensor) -> torch.Tensor:
        return label == self.ignore if self.ignore is not None else torch.zeros_like(label, dtype=torch.bool)

    def _scale(self, image: torch.Tensor) -> torch.Tensor:
        low, high = self._per_channel(self.low, image), self._per_channel(self.high, image)
        return (image - low) / (high - low) * 2 - 1

    @staticmethod
    def _per_channel(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
        return constant(tuple(values), torch.float32, like.device).reshape(1, -1, *[1] * (like.ndim - 2))


def soften(one_hot: torch.Tensor) -> torch.Tensor:
    """Blur a one-hot mask `[N, K, *spatial]`, float, as far as argmax can still undo it; edges are repeated.

    Sums of slices instead of a convolution, which would round the taps to TF32 on a GPU, so that real channels would
    no longer sum to one.
    """
    centre = _OWN_CLASS ** (1 / (one_hot.ndim - 2))
    for axis in range(2, one_hot.ndim):
        last, blurred = one_hot.shape[axis] - 1, one_hot * centre
        for to, source, length in ((1, 0, last), (0, 1, last), (0, 0, 1), (last, last, 1)):
            blurred.narrow(axis, to, length).add_(one_hot.narrow(axis, source, length), alpha=(1 - centre) / 2)
        one_hot = blurred
    return one_hot
