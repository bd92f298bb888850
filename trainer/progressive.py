"""Progressive resizing: small images first, whole ones at the end.

What a network learns first it learns from small images too, at a quarter of the work for a quarter of the pixels. In
the last epochs the images have the size that they are validated at, since a network that has seen none of it is worse
there (Touvron et al. 2019, arXiv:1906.06423). The size is a function of the epoch, so nothing of it has to be saved.
"""

from __future__ import annotations

from models.schemas import TrainingRequest
from trainer.catalogue import find_network

WHOLE_SHARE = 1 / 3
"""Of the epochs, the last ones, with images of `image_size`."""
_STEP = 8
"""Pixels that sizes are multiples of: a layer of another shape is set up anew."""


def takes_several_sizes(model: str) -> bool:
    """Not where a position, or a window, is a weight."""
    network = find_network(model)
    return network is None or network.image_size_multiple == 1


def training_image_size(request: TrainingRequest, epoch: int) -> int:
    """Side in pixels of the training images in `epoch` (from 1); in validation it is always `image_size`.

    From `progressive_resizing` of it in the first epoch it grows by the same amount in each, as in Composer's
    `ProgressiveResizing`.
    """
    whole, start = request.image_size, request.progressive_resizing
    network = find_network(request.model)
    growing = request.num_epochs - max(1, round(WHOLE_SHARE * request.num_epochs))
    if epoch > growing or start == 1 or network is None or network.image_size_multiple > 1:
        return whole
    scale = start + (1 - start) * (epoch - 1) / growing
    smallest = network.min_image_size_alone if request.batch_size == 1 else network.min_image_size
    return min(whole, max(smallest, round(scale * whole / _STEP) * _STEP))
