"""The wire contract, and nothing else: every body that enters or leaves the HTTP API.

The names `TaskResponse`, `TrainingMetrics` and `DetailedLogEntry` and all of their fields are those of
the published change log that deployed clients were written from; they are extended, never renamed.
A field that is not set is left out of an answer (`response_model_exclude_unset`-style), so a plain
training is answered with exactly the documented keys.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from models.fields import (
    Argument,
    Device,
    Devices,
    EnvironmentName,
    FreeText,
    LocalTime,
    MetricName,
    NoBoolean,
    PathText,
    RequestBody,
    RunName,
    TaskId,
)
from models.presets import with_preset


class TaskStatus(StrEnum):
    """Where a task is in its life. Deployed clients poll until one of the last three."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL_STATUSES


TERMINAL_STATUSES = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


class Stage(StrEnum):
    """The part of a training that a log line belongs to."""

    EPOCH_START = "epoch_start"
    TRAINING = "training"
    VALIDATION = "validation"
    EPOCH_END = "epoch_end"
    COMPLETED = "completed"


class MetricDefinition(BaseModel):
    """A metric of the user's own, found in the log by an RE2 pattern.

    One group holds the value of `name`. Two groups hold a name and its value. Named groups are metrics of
    those names, except `epoch`, `total_epochs`, `step` and `total_steps`, which say where the line is.
    """

    model_config = ConfigDict(extra="forbid")

    name: MetricName | None = Field(default=None, description="the metric; needed where the pattern does not name it")
    regex: str = Field(
        min_length=1, max_length=1000, description="RE2 pattern with one group, two groups or named groups"
    )


class LogReading(RequestBody):
    """How a log is read: the user's own patterns first, then the formats that the service knows."""

    model_config = ConfigDict(extra="forbid")  # of a reading alone: without a pattern that was misspelt, it is another

    metric_definitions: list[MetricDefinition] = Field(
        default=[], max_length=32, description="own patterns; they win over the formats that are known"
    )
    log_format: str = Field(
        default="auto",
        max_length=64,
        pattern=r"^[a-z0-9_]+$",
        description="auto, none (own patterns only), or the name of one preset",
    )


MAX_LIMIT_S = 366 * 24 * 3600.0


class TaskRequest(LogReading):
    """What every task can be given, whatever runs it.

    A field that is not known here is kept in `model_extra`; the service ignores it and says so in the
    answer's `warnings`, because deployed clients send fields of older trainers.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    name: RunName | None = Field(default=None, description="folder name under save_path; default: the task_id")
    task_id: TaskId | None = Field(default=None, description="an id of your own; default: a UUID")
    description: FreeText | None = None
    priority: int = Field(default=5, ge=1, le=10, description="smaller runs first")
    max_runtime_s: float | None = Field(
        default=None, gt=0, le=MAX_LIMIT_S, description="seconds that a run may take; with more the task has failed"
    )
    max_queue_s: float | None = Field(
        default=None, gt=0, le=MAX_LIMIT_S, description="seconds that it may wait for its device"
    )


class PlacedRequest(TaskRequest):
    """What a task can be given that runs something: how much of it, and what each part needs."""

    num_workers: int | None = Field(
        default=None, ge=1, le=1024, description="processes that train together, each with a share of every batch"
    )
    cpus_per_worker: float | None = Field(
        default=None, gt=0, le=1024, description="CPUs that Ray keeps for each worker; default: 1"
    )
    gpus_per_worker: float | None = Field(
        default=None, ge=0, le=64, description="GPUs that Ray keeps for each worker; default: 1, or none with cpu"
    )


def _auto_or(other: Any) -> WrapValidator:
    """What is wrong is told once: in `a | Literal["auto"]` each alternative has an error of its own."""
    alone = TypeAdapter[Any](other)

    def validated(value: Any, _both: ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, str) and value == "auto":
            return value
        try:
            return alone.validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            told = {"told": first["msg"]}
            raise PydanticCustomError(first["type"], '{told}; or write "auto"', told) from None

    return WrapValidator(validated)


_Images = Annotated[int, Field(ge=1, le=65_536)]
_Rate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]


class TrainingRequest(PlacedRequest):
    """Body of `POST /api/v2/training/start` for the built-in trainer, and the spec file of `python -m trainer`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "resnet18",
                    "num_classes": 37,
                    "train_path": "/data/train",
                    "val_path": "/data/val",
                    "save_path": "/checkpoints",
                    "num_epochs": 10,
                    "device": "cuda:0",
                }
            ]
        },
    )

    model: str = Field(min_length=1, max_length=100, description="torchvision name of a classification network")
    num_classes: int = Field(ge=2, le=100_000, description="number of classes; must match the folders on disk")
    train_path: PathText = Field(description="folder with one sub-folder of images per class")
    val_path: PathText = Field(description="same layout and the same classes as train_path")
    save_path: PathText = Field(description="checkpoints go to save_path/<name or task_id>")

    device: Devices = Field(
        default="cuda",
        description="cpu, cuda (the least busy GPU, or the CPU with a warning), cuda:N, or cuda:N,M: a worker on each",
    )
    executor: Literal["thread", "process", "ray"] | None = Field(
        default=None, description="where the trainer runs; default: the setting EXECUTOR"
    )

    preset: Literal["fast", "balanced", "accurate"] | None = Field(
        default=None, description="fills the fields that the request leaves out"
    )
    batch_size: Annotated[_Images | Literal["auto"], _auto_or(_Images)] = Field(
        default=8, description="images that pass the network at a time; auto: by their number, and what memory takes"
    )
    accumulate_batches: int = Field(
        default=1, ge=1, le=65_536, description="batches whose gradients are gathered for one optimizer step"
    )
    num_epochs: int = Field(default=100, ge=1, le=100_000)
    learning_rate: Annotated[_Rate | Literal["auto"], _auto_or(_Rate)] = Field(
        default=1e-4, description="peak rate, reached after the warmup; auto: by a range test before the first epoch"
    )
    image_size: int = Field(default=224, ge=8, le=4096, description="side of the square network input, in pixels")
    shuffle: bool = Field(default=True, description="visit training images in a new order every epoch")
    weight_path: FreeText = Field(default="", description="state dict or checkpoint to start from")
    pretrained: Annotated[bool | Literal["auto"], _auto_or(bool)] = Field(
        default="auto", description="ImageNet weights: auto (if to be had within seconds), true (or fail), false"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    weight_decay: float = Field(default=0.01, ge=0, le=10)
    backbone_lr_scale: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="rate of all layers but the head, relative to learning_rate, where they were trained before",
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="rate of each layer relative to the next one towards the head, where they were trained before",
    )
    clip_grad_norm: float = Field(
        default=0.0, ge=0, le=1e6, description="longest gradient, as the norm over all weights; 0: any"
    )
    schedule: Literal["cosine", "constant", "one_cycle", "step", "plateau"] = Field(
        default="cosine", description="how the rate goes on from its peak"
    )
    warmup_epochs: float = Field(
        default=1.0, ge=0, le=1000, description="linear warmup, in epochs; one_cycle has its own"
    )
    lr_factor: float = Field(default=0.1, gt=0, lt=1, description="what step and plateau multiply the rate by")
    lr_step_epochs: int = Field(default=30, ge=1, le=100_000, description="epochs between two falls of step")
    lr_patience: int = Field(
        default=10, ge=0, le=100_000, description="epochs without a better monitor that plateau puts up with"
    )
    monitor: Literal["val_acc", "val_loss", "macro_f1", "mAP"] = Field(
        default="val_acc", description="what plateau and early stopping look at"
    )
    early_stopping_patience: int = Field(
        default=0, ge=0, le=100_000, description="epochs without a better monitor that end the training; 0: none do"
    )
    ema_decay: float = Field(
        default=0.0, ge=0, lt=1, description="evaluate and save a moving average of the weights, e.g. 0.999; 0: none"
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of a target spread over all classes")
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced: an image counts the more, the fewer its class has"
    )
    freeze: Literal["none", "head_only", "last_n"] = Field(
        default="none", description="train all layers, the head alone, or the last trainable_layers"
    )
    trainable_layers: int = Field(
        default=1, ge=1, le=10_000, description="with last_n: convolutions and linear layers, from the head back"
    )
    progressive_resizing: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="side of the training images in the first epoch, relative to image_size; it grows to 1",
    )
    augment: bool = Field(default=True, description="random crop and horizontal flip of training images")
    hflip: bool = Field(default=True, description="allow horizontal flips; switch off for digits, text, traffic signs")
    trivial_augment: bool = Field(
        default=False, description="one random change of shape or colour to each training image"
    )
    random_erasing: float = Field(
        default=0.0, ge=0, le=1, description="share of the training images of which a rectangle is erased"
    )
    mixup_alpha: float = Field(
        default=0.0, ge=0, le=100, description="blend each training image with another, as Beta(alpha, alpha); 0: none"
    )
    cutmix_alpha: float = Field(
        default=0.0, ge=0, le=100, description="paste a part of another training image, as Beta(alpha, alpha); 0: none"
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    amp: Literal["auto", "bf16", "fp32"] = Field(default="auto", description="bf16 autocast: auto uses it where fast")
    cache_mb: float | None = Field(
        default=None,
        ge=0,
        le=10_000_000,
        description="MiB of decoded images to keep in memory; default: a quarter of what is free; 0: none",
    )
    max_unreadable_share: float = Field(
        default=0.05, ge=0, le=1, description="share of a split's images that may be left out because they are broken"
    )
    max_restarts: int = Field(
        default=3, ge=0, le=1000, description="how often it goes on by itself after the service or machine has ended"
    )

    @property
    def workers(self) -> int:
        """How many processes train."""
        return self.num_workers or len(self.device.split(","))

    @model_validator(mode="before")
    @classmethod
    def _filled_by_its_preset(cls, body: Any) -> Any:
        return with_preset(body) if isinstance(body, dict) else body


class CommandRequest(PlacedRequest):
    """Body of `POST /api/v2/training/start` for a trainer of the user's own, run unchanged."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"command": ["python", "train.py", "--epochs", "10"], "working_dir": "/code"}]}
    )

    command: list[Argument] = Field(
        min_length=1, max_length=1000, description="program and arguments; no shell reads them"
    )
    working_dir: PathText = Field(description="folder that the command runs in")
    env: dict[EnvironmentName, Argument] = Field(
        default={},
        max_length=1000,
        repr=False,
        description="environment variables, added to the service's own",
        json_schema_extra={"additionalProperties": False},
    )
    device: Device = Field(
        default="cuda", description="device that is kept for the command; it sees this GPU only, or none with cpu"
    )
    executor: Literal["process", "ray"] | None = Field(
        default=None, description="where the command runs; default: ray if EXECUTOR says so, else a process"
    )


class ImportRequest(TaskRequest):
    """Body of `POST /api/v2/training/import`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"path": "/logs/train.log"}]})

    path: PathText = Field(description="log file of a training that ran, or runs, somewhere else")
    follow: bool = Field(default=False, description="go on reading what is being added, until the task is stopped")


AnyRequest = TrainingRequest | CommandRequest | ImportRequest
"""Everything that becomes a task."""


START_TAGS = ("training", "command")
"""Names of the two kinds of `StartRequest`. They are no field's, but errors are located below them."""


def _kind_of(body: Any) -> str:
    is_command = isinstance(body, CommandRequest) or (isinstance(body, dict) and "command" in body)
    return START_TAGS[is_command]


StartRequest = Annotated[
    Annotated[TrainingRequest, Tag(START_TAGS[0])] | Annotated[CommandRequest, Tag(START_TAGS[1])],
    Discriminator(_kind_of),
]
"""What `start` takes: a body with a `command` is a command, every other one is for the built-in trainer."""


class TrainingMetrics(BaseModel):
    """Latest value of every metric that the log has shown. Each is optional.

    Accuracies are percent, F1, mAP, precision and recall are fractions (the built-in trainer's units).
    `None` on the wire means that the line held a number that is not finite (NaN, infinity).
    """

    model_config = ConfigDict(extra="allow")

    epoch: int | float | None = Field(default=None, description="当前轮次 current epoch, as printed")
    total_epochs: int | None = Field(default=None, description="总轮次 number of epochs")
    train_loss: float | None = Field(default=None, description="训练损失 mean training loss of the epoch")
    train_acc: float | None = Field(default=None, description="训练准确率 training accuracy, %")
    val_loss: float | None = Field(default=None, description="验证损失 mean validation loss")
    val_acc: float | None = Field(default=None, description="验证准确率 validation accuracy, %")
    macro_f1: float | None = Field(default=None, description="宏平均F1 unweighted mean of per-class F1, 0-1")
    micro_f1: float | None = Field(default=None, description="微平均F1 F1 of pooled counts, 0-1")
    mAP: float | None = Field(default=None, description="mean of per-class average precision, 0-1")
    precision: float | None = Field(default=None, description="精确率 macro precision, 0-1")
    recall: float | None = Field(default=None, description="召回率 macro recall, 0-1")
    macro_precision: float | None = Field(default=None, description="宏平均精确率, 0-1")
    macro_recall: float | None = Field(default=None, description="宏平均召回率, 0-1")
    micro_precision: float | None = Field(default=None, description="微平均精确率, 0-1")
    micro_recall: float | None = Field(default=None, description="微平均召回率, 0-1")
    top1_acc: float | None = Field(default=None, description="Top-1 accuracy, %")
    top3_acc: float | None = Field(default=None, description="Top-3 accuracy, %")
    top5_acc: float | None = Field(default=None, description="Top-5 accuracy, %")
    best_acc: float | None = Field(default=None, description="最佳准确率 best validation accuracy so far, %")
    learning_rate: float | None = Field(default=None, description="学习率 learning rate")
    total_steps: int | None = Field(default=None, description="optimizer steps per epoch")
    throughput: float | None = Field(default=None, description="images per second")
    eta: float | None = Field(default=None, description="seconds left in the epoch")


class StatusTransition(BaseModel):
    """A change of a task's status. The time has an offset."""

    status: TaskStatus
    reason: str
    at: AwareDatetime
    attempt: int = Field(ge=1, description="which run of the task")


class TaskResponse(BaseModel):
    """A task as `start`, `status` and the list answer it. Times are local, without an offset."""

    task_id: str
    task_type: str = "training"
    status: TaskStatus
    progress: int = Field(ge=0, le=100, description="percent of all epochs")
    device: str
    current_epoch: int | float | None = Field(default=None, description="当前训练轮次")
    total_epochs: int | None = Field(default=None, description="总训练轮次")
    latest_metrics: TrainingMetrics | None = Field(default=None, description="最新的训练指标")
    created_at: LocalTime
    updated_at: LocalTime
    name: str | None = None
    description: str | None = None
    priority: int | None = None
    reason: str | None = Field(default=None, description="why the task is in this status, e.g. user_stop, interrupted")
    error: str | None = Field(default=None, description="one sentence, where the task failed")
    warnings: list[str] | None = None
    units: dict[str, Literal["percent", "fraction"]] | None = Field(
        default=None, description="units of the accuracies in latest_metrics, of commands and imports"
    )
    storage: Literal["degraded"] | None = Field(default=None, description="set while log lines wait for the disk")
    removed_until: int | None = Field(
        default=None, description="lines up to this one were removed because they were old, but for a few"
    )
    attempt: int | None = Field(default=None, description="which run of the task, from the second on")
    history: list[StatusTransition] | None = Field(
        default=None, description="every change of status; left out while a task waits, runs and completes as it should"
    )
    alerts: int | None = Field(default=None, description="how many alerts have fired for the task")
    queue_position: int | None = Field(
        default=None, ge=1, description="while the task waits: its place among those that compete for its device"
    )


class DetailedLogEntry(BaseModel):
    """One log line: the data of one SSE event, and one row of the history."""

    timestamp: LocalTime
    level: str
    message: str
    metrics: dict[str, int | float | None] | None = Field(default=None, description="metrics read from this line")
    step: int | None = Field(default=None, description="step within the epoch")
    stage: str | None = Field(default=None, description="epoch_start, training, validation, epoch_end or completed")
    status: TaskStatus | None = Field(default=None, description="terminal status; on the last entry of a task only")
    reason: str | None = None
    attempt: int | None = Field(default=None, description="which run of the task, from the second on")


class StoredLogEntry(DetailedLogEntry):
    """A history row: a log entry with the id that its SSE event had."""

    id: int = Field(ge=1, description="sequence number within the task, the SSE event id")


class LogPage(BaseModel):
    """A page of `GET /api/v2/training/{task_id}/logs/history`, oldest first."""

    task_id: str
    entries: list[StoredLogEntry]
    next_after: int | None = Field(default=None, description="pass as `after` for the next page; absent on the last")
    next_before: int | None = Field(
        default=None, description="of a page that `before` asked for: pass as `before` for the one before it"
    )
    removed_until: int | None = Field(
        default=None, description="lines up to this one were removed because they were old, but for a few"
    )


class TaskPage(BaseModel):
    """A page of `GET /api/v2/training`, newest first."""

    event_id: str | None = Field(default=None, description="where `/api/v2/training/events?after=` goes on from here")
    tasks: list[TaskResponse]
    next_cursor: str | None = Field(default=None, description="pass as `cursor` for the next page; absent on the last")


class CheckResponse(BaseModel):
    """Answer of `check`: the request can be started."""

    device: str = Field(description="where it would run")
    warnings: list[str] = Field(description="what it may not have meant, such as fields that are not known")


class ActionResponse(BaseModel):
    """Answer of `stop` and `DELETE`."""

    status: Literal["success"] = "success"
    message: str
    task_id: str


MAX_TRIED_LINES = 10_000
"""Each is read by every pattern: a million empty ones would take minutes of CPU time."""


def _few_lines(text: str) -> str:
    if text.count("\n") >= MAX_TRIED_LINES:
        raise ValueError(f"must have at most {MAX_TRIED_LINES} lines; import a whole log instead")
    return text


class ParsingTryRequest(LogReading):
    """Body of `POST /api/v2/parsing/try`: some lines of a log, and how they would be read."""

    text: Annotated[str, AfterValidator(_few_lines)] = Field(
        max_length=1_000_000, description="lines of a log, as printed; at most 10,000"
    )


class TriedLine(BaseModel):
    """What one line of the text says."""

    line: int = Field(ge=1, description="its number")
    metrics: dict[str, int | float | None]
    step: int | None = None
    stage: str | None = None
    rules: list[str] = Field(description="what has read it: own patterns by name, presets, or the kind of line")


class RuleUse(BaseModel):
    """How often a rule has read a line, and what it has cost."""

    rule: str
    lines: int = Field(description="lines that it has read")
    microseconds: float = Field(description="time that it took in all, over every line for an own pattern")


class ParsingTryResponse(BaseModel):
    lines: list[TriedLine] = Field(description="lines that say something")
    unmatched: list[int] = Field(description="numbers of the lines that say nothing")
    unmatched_definitions: list[str] = Field(description="own patterns that have matched no line")
    rules: list[RuleUse]


class NetworkInfo(BaseModel):
    """One network of `GET /api/v2/models`."""

    name: str
    parameters: int = Field(description="number of weights with the original 1000-class head")
    min_image_size: int = Field(description="smallest image_size the network takes, in pixels")
    image_size_multiple: int = Field(default=1, description="image_size must be a multiple of this")
    pretrained: bool = Field(description="ImageNet weights are published for it")


class NetworkList(BaseModel):
    models: list[NetworkInfo]


class HealthResponse(BaseModel):
    status: Literal["ok", "degraded"]
    version: str
    running: int = Field(description="tasks that are training now")
    queued: int = Field(description="tasks that wait for a device")
    role: Literal["owner", "replica"] = Field(
        default="owner", description="whether things can be changed here, or only seen"
    )
    storage: str = Field(description="ok, or why writing waits")


class ProbeResponse(BaseModel):
    """Answer to a probe that asks for nothing but the status of the answer."""

    status: Literal["ok"] = "ok"


class SessionResponse(BaseModel):
    """Answer to a browser's sign-in and sign-out; the session itself is in the cookie."""

    expires_at: datetime | None = Field(default=None, description="absent: no session, or none is needed")


class FieldProblem(BaseModel):
    """What is wrong with one field of a request, and what to do about it."""

    field: str
    code: str
    message: str


class ErrorResponse(BaseModel):
    """Every error of the API, whatever its status."""

    detail: str = Field(description="one sentence for a person, with what to do")
    code: str = Field(description="one word for a program")
    errors: list[FieldProblem] | None = None


def wire(model: BaseModel) -> dict[str, Any]:
    """JSON-ready dict of an answer without the fields that are not set (`None` inside metrics stays)."""
    return model.model_dump(mode="json", exclude_unset=True)


class PriorityChange(RequestBody):
    """Body of `PATCH /api/v2/training/{task_id}`."""

    model_config = ConfigDict(extra="forbid")

    priority: int = Field(ge=1, le=10, description="smaller runs first")


MAX_LIMIT = 256
"""Tasks at a time on one device. Each has a thread of the service, whatever it runs in."""


class LimitsChange(RequestBody):
    """Body of `POST /api/v2/resources`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"limits": {"cpu": 2, "cuda:0": 0}}]})

    limits: dict[str, Annotated[int, Field(ge=0, le=MAX_LIMIT), NoBoolean] | None] = Field(
        max_length=1000,
        description="tasks at a time on each device; 0 starts nothing more there, null returns to the setting",
    )


class DeviceUse(BaseModel):
    """One device, and what runs and waits there."""

    device: str = Field(description="cpu or cuda:N")
    limit: int = Field(description="tasks at a time")
    default_limit: int = Field(description="what the settings say; a limit of null returns to it")
    running: list[str] = Field(description="tasks that run here, those first that began first")
    queued: list[str] = Field(description="tasks that may start here, the next one first; also those for any GPU")
    model: str | None = Field(default=None, description="what the GPU's driver calls it")
    memory_total: int | None = Field(default=None, description="bytes of the GPU's memory")
    memory_used: int | None = Field(default=None, description="bytes in use, by whatever runs on the machine")


class QueueUse(BaseModel):
    length: int = Field(description="tasks that wait, for whatever device")
    max_length: int = Field(description="the setting MAX_QUEUED")


class ResourcesResponse(BaseModel):
    """Answer of `GET` and `POST /api/v2/resources`."""

    devices: list[DeviceUse]
    queue: QueueUse
