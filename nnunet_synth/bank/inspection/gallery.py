"""The gallery: a sample above the training patch that it is most like, each image next to itself with its mask."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator

import numpy as np
from matplotlib.image import imsave

from nnunet_synth.bank.inspection.findings import Findings
from nnunet_synth.bank.inspection.two_sides import spread
from nnunet_synth.pages.page import Picture
from stylegan2_cond.metrics.ncc import align
from stylegan2_cond.metrics.report import matching_part
from stylegan2_cond.visualization import colour_mask, overlay_grid

SHOWN = {2: 32, 3: 16}  # samples of the gallery, by the number of axes
MOST_ALIKE = {2: 8, 3: 6}
LONGEST = 256  # voxels of a cut; larger ones are thinned out


def gallery(found: Findings) -> list[Picture]:
    """Samples spread over the whole bank, the same ones every time."""
    chosen = spread(len(found.bank), SHOWN[len(found.record.origin.patch_size)]) if found.bank else ()
    return [*_pictures(found, chosen)]


def most_alike(found: Findings) -> list[Picture]:
    """Of all samples that were inspected, those that are most like copies."""
    count = MOST_ALIKE[len(found.record.origin.patch_size)]
    return [*_pictures(found, found.neighbours.most_alike(count) if found.neighbours else ())]


def legend(found: Findings) -> list[tuple[str, str]]:
    """Name and colour of each class."""
    colours = {}
    for label, name in found.classes.items():
        rgb = colour_mask(np.zeros((1, 1)), np.full((1, 1), label), found.display["labels"], opacity=1)[0, 0]
        colours[name] = "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
    return list(colours.items())


def _pictures(found: Findings, chosen: Iterable[int]) -> Iterator[Picture]:
    bank, near = found.bank, found.neighbours
    for index in map(int, chosen):
        image, label = bank.samples.image[index], bank.samples.label[index]
        slice_ = f", slice {bank.slices[index] + 1}" if label.ndim == 2 else ""
        alt = f"Sample {bank.numbers[index]}: {_areas(label, found)}"
        caption = f"Sample {bank.numbers[index]} ({bank.shards[index]}{slice_})"
        images, labels = [image], [label]
        if near:
            partner, cover = int(near.generated.index[index]), found.reference.cover.patches
            corner = align(image, cover.image[partner])
            there, mask = matching_part(cover.image[partner], cover.label[partner], corner, image.shape[1:])
            images.append(there)
            labels.append(mask)
            alt += f"; nearest training patch: {_areas(mask, found)}"
            caption += f"\nNearest: {near.places[partner]}, r\u00a0=\u00a0{near.generated.nearness[index]:.3f}"
            caption = f"Copy? {caption}" if near.alarms[index] else caption
        grid = overlay_grid(np.stack(images), np.stack(labels), **found.display, columns=1)
        step = math.ceil(max(label.shape) / LONGEST)
        buffer = io.BytesIO()
        imsave(buffer, grid[::step, ::step], format="png")
        yield Picture(f"sample-{bank.numbers[index]}", buffer.getvalue(), alt, caption, zoom=1)


def _areas(label: np.ndarray, found: Findings) -> str:
    """`anterior 3.1 %, posterior 2 %`."""
    shares = {name: 100 * float((label == one).mean()) for one, name in found.classes.items()}
    return ", ".join(f"{name} {share:.2g} %" for name, share in shares.items() if share) or "no class"
