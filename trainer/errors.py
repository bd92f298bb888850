"""How a training ends without a result. Both are expected; anything else that is raised is a defect."""


class TrainingStopped(Exception):
    """A stop was asked for and took effect. The checkpoints of finished epochs are valid."""


class TrainingFailed(Exception):
    """The training cannot go on, and the person who started it can do something about it.

    `reason` is one word for a program (`diverged`, `no_weights`, `bad_weights`, `unreadable_image`,
    `out_of_memory`, `not_saved`, or a code of `preflight.check`); the message is for a person and
    says what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
