"""The streams of random numbers, so that no two uses of one seed share their numbers."""

from enum import IntEnum


class RandomStream(IntEnum):
    """What a stream's numbers decide. A generator is seeded by the user's seed, the stream and, mostly, a number.

    The values never change: with other values, the same seed would give other weights and samples.
    """

    INITIALISATION = 0  # weights of the networks
    LATENTS = 1  # latents and noise of a training step
    AUGMENTATION = 2
    AUGMENTATION_NOISE = 3
    VISIBILITY = 4  # which pairs the discriminator sees without image or mask
    DEFORMATION = 77  # of the masks that images are generated for
    ENSEMBLE = 78  # which generator of an ensemble makes a sample
    BALANCE = 79  # which classes a sample of a balanced bank shows
    MASK_CHOICE = 80  # among patches that show the classes asked for
    BLENDING = 81  # of masks that images are generated for: with which other, how much, and the deformation
    REAL = 101  # patches of the reference set
    REAL_AGAIN = 102
    HELD_OUT = 103


class MetricStream(IntEnum):
    """What the streams of a comparison decide, seeded by its seed and the stream. They do not mix with the above.

    Other values would change all figures.
    """

    JACKKNIFE = 1  # which patches form a group
    PRDC = 3  # which of many patches are compared
    DESCRIPTORS = 4
    DIVERSITY = 5  # which of many patches are compared
    FIGURE = 6  # random samples in the figure
