"""How often to augment: just enough that the discriminator does not overfit."""

from __future__ import annotations

INTERVAL = 4  # steps between two changes of p
LARGEST_P = 0.8  # above, augmentations leak in practice (Karras et al. 2020b, Sec. 2.2)


class AdaptiveProbability:
    """The probability p, controlled by the overfitting signal r_t = E[sign(D(real))] (Karras et al. 2020b, Eq. 1).

    The mean sign approaches 1 as the discriminator memorizes its real pairs. Every few steps, p increases by a fixed
    amount if the mean sign is above its target, and decreases by it otherwise (Sec. 3).

    Args:
        target: of the mean sign, between -1 and 1; 0.6 in the paper.
        ramp_images: number of images in which p would go from 0 to 1.

    Attributes:
        p: between 0 and `LARGEST_P`.

    Raises:
        ValueError: `ramp_images` is not positive.
    """

    def __init__(self, target: float, ramp_images: float):
        if not ramp_images > 0:
            raise ValueError(f"ramp_images must be above 0, not {ramp_images}")
        self.target = target
        self.ramp_images = ramp_images
        self.p = 0.0
        self._reset()

    def update(self, sign_mean: float, images: int) -> None:
        """Record one step: the mean of sign(D(real)) over all its `images` real pairs, as augmented."""
        self._signs += sign_mean * images
        self._images += images
        self._updates += 1
        if self._updates == INTERVAL:
            mean = self._signs / self._images
            direction = (mean > self.target) - (mean < self.target)
            self.p = min(max(self.p + direction * self._images / self.ramp_images, 0.0), LARGEST_P)
            self._reset()

    def state_dict(self) -> dict[str, float]:
        """Everything that changes: p, and what was recorded since its last change."""
        return {"p": self.p, "signs": self._signs, "images": self._images, "updates": self._updates}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a state with the same target and ramp."""
        self.p, self._signs = state["p"], state["signs"]
        self._images, self._updates = int(state["images"]), int(state["updates"])

    def _reset(self) -> None:
        self._signs, self._images, self._updates = 0.0, 0, 0
