"""How often to augment: just so much that the discriminator does not overfit."""

from __future__ import annotations

INTERVAL = 4  # updates between two moves of p
LARGEST_P = 0.8  # beyond, augmentations leak in practice (Karras et al. 2020b, Sec. 2.2)


class AdaptiveProbability:
    """The probability p, driven by the overfitting signal r_t = E[sign(D(real))] (Karras et al. 2020b, Eq. 1, Sec. 3).

    The mean sign nears 1 as the discriminator comes to know its real pairs by heart. Every few updates p takes a step
    of fixed size towards more augmentation where the mean sign is above its target, else towards less.

    Args:
        target: of the mean sign, between -1 and 1; 0.6 in the paper.
        ramp_images: in so many images p would go from 0 to 1.

    Attributes:
        p: between 0 and `LARGEST_P`.

    Raises:
        ValueError: `ramp_images` is not above 0.
    """

    def __init__(self, target: float, ramp_images: float):
        if not ramp_images > 0:
            raise ValueError(f"ramp_images must be above 0, not {ramp_images}")
        self.target = target
        self.ramp_images = ramp_images
        self.p = 0.0
        self._forget()

    def update(self, sign_mean: float, images: int) -> None:
        """Take in one step: the mean of sign(D(real)) over all its `images` real pairs, as augmented."""
        self._signs += sign_mean * images
        self._images += images
        self._updates += 1
        if self._updates == INTERVAL:
            mean = self._signs / self._images
            direction = (mean > self.target) - (mean < self.target)
            self.p = min(max(self.p + direction * self._images / self.ramp_images, 0.0), LARGEST_P)
            self._forget()

    def state_dict(self) -> dict[str, float]:
        """All that changes, the signs held since the last move of p among it."""
        return {"p": self.p, "signs": self._signs, "images": self._images, "updates": self._updates}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a state of the same target and ramp."""
        self.p, self._signs = state["p"], state["signs"]
        self._images, self._updates = int(state["images"]), int(state["updates"])

    def _forget(self) -> None:
        self._signs, self._images, self._updates = 0.0, 0, 0
