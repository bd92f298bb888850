"""From the losses of batches to new weights.

Gradients of several batches can be gathered for one update, for a batch that does not fit into memory at once. The
batches of an update then count by their number of images, so that without batch normalisation it is the update
of one large batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from trainer.layers import trainable
from trainer.optimizer import set_learning_rate
from trainer.run import Run
from trainer.schedule import learning_rate_at


class Updates:
    """The updates of one epoch.

    `sizes` are the numbers of images of its batches, as they are planned, and `own` how many of them this process has.
    """

    def __init__(self, run: Run, epoch: int, sizes: list[int], own: list[int]) -> None:
        self._run = run
        self._epoch = epoch
        self._batches = run.request.accumulate_batches
        together = [sum(sizes[start : start + self._batches]) for start in range(0, len(sizes), self._batches)]
        self._shares = [size / together[number // self._batches] for number, size in enumerate(own)]
        self._per_epoch = len(together)
        self._gathered = False

    def gather(self, loss: Tensor, step: int) -> None:
        """Add the gradient of the mean loss of this process's share of batch `step` (from 1)."""
        loss.backward(torch.full_like(loss, self._shares[step - 1]))  # type: ignore[no-untyped-call]

    def batch_done(self, step: int, *, gathered: bool) -> None:
        """Change the weights, if batch `step` was the last one of an update, and any of them had enough images.

        `gathered` is whether this one had, in any process.
        """
        self._gathered = self._gathered or gathered
        is_last = step % self._batches == 0 or step == len(self._shares)
        if not is_last or not self._gathered:
            return
        run, request = self._run, self._run.request
        rate = learning_rate_at(
            (self._epoch - 1) * self._per_epoch + (step - 1) // self._batches,
            steps=request.num_epochs * self._per_epoch,
            steps_per_epoch=self._per_epoch,
            request=request,
        )
        set_learning_rate(run.optimizer, rate * run.plateau.scale if run.plateau else rate)
        run.ranks.sum_gradients(trainable(run.network))
        if request.clip_grad_norm:
            clip_grad_norm_(trainable(run.network), request.clip_grad_norm)
        run.optimizer.step()
        run.optimizer.zero_grad()
        if run.average:
            run.average.update()
        self._gathered = False
