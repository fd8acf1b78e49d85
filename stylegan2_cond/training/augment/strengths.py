"""How strong each augmentation is. Image channels lie near [-1, 1], lengths are those of the patch.

Geometry stays within what patients and positioning bring about; intensity within what scanners do. Weaker than in
Karras et al. 2020b (Appendix B), whose photographs may be turned upside down.
"""

ROTATION = 10.0  # degrees, uniform within ±; in 3-D about an axis of any direction
ZOOM = 0.1  # sd of the log factor, the same along every axis
STRETCH = 0.05  # sd of the log factor per axis, volume kept
SHIFT = 0.05  # sd, as a share of each axis

BRIGHTNESS = 0.2  # sd of what is added; black to white is 2
CONTRAST = 0.2  # sd of the log factor, about mid-grey
GAMMA = 0.2  # sd of log γ
NOISE = 0.05  # sd of the noise's own sd, which is half-normal
BLUR = 1.0  # largest sd of the Gaussian in voxels, uniform from 0
CUT_OUT = (0.1, 0.5)  # side of the box as a share of each axis, uniform between
