"""How a training ends without a result. Both are expected; anything else that is raised is a defect."""

COMPLETED, FAILED, BAD_REQUEST = 0, 1, 2
"""Exit statuses of `python -m trainer`; FAILED is for every reason that has none of its own."""
STATUS_OF_REASON = {
    "diverged": 10,
    "out_of_memory": 11,
    "not_saved": 12,
    "no_weights": 13,
    "bad_weights": 14,
    "unreadable_image": 15,
    "path_not_found": 16,
    "path_not_readable": 17,
    "not_a_folder": 18,
    "no_classes": 19,
    "num_classes_mismatch": 20,
    "classes_differ": 21,
    "empty_class": 22,
    "no_readable_image": 23,
    "disk_full": 24,
    "checkpoint_damaged": 25,
    "checkpoint_differs": 26,
    "path_forbidden": 27,
    "data_differs": 28,
}
"""Exit statuses of the failures that a training can have: whoever runs it as a process learns the reason."""
REASON_OF_STATUS = {status: reason for reason, status in STATUS_OF_REASON.items()}


PEER_LOST = 40
"""Exit status of one of several processes whose training ended because another one had ended: not for a reason of
its own."""


NODE_LOST = 41
"""Exit status of a training whose processes did not fail, but were lost with what they ran on."""


class PeerLost(Exception):
    """Another process of the same training is gone. What became of it is for whoever has started them to say."""


class TrainingStopped(Exception):
    """A stop was asked for and took effect. The checkpoints of finished epochs are valid."""


class TrainingFailed(Exception):
    """The training cannot go on, and the person who started it can do something about it.

    `reason` is one word for a program, a key of `STATUS_OF_REASON` or a code of `preflight.check`; the
    message is for a person and says what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
