"""Every word that logs use for what they measure. To teach the parser a word, add it to its row.

A key is taken apart into words: `Validation Top-1 Acc`, `val/acc_top1` and `验证准确率` are made of the same
few. Each word has one role:

- `CONTEXTS`: whose it is, the training's or the validation's.
- `METRICS`: what was measured. A key needs exactly one.
- `STATISTICS`: which of its values this is: the best, a mean, the one of a step.
- `FILLERS`: words that change nothing.

A key with a word of no role is not read as one of these metrics: `loss scale` is no loss.
"""

from __future__ import annotations

TRAIN, VAL, TEST = "train", "val", "test"

CONTEXTS = {
    TRAIN: ("train", "training", "trn", "learn", "trainer"),
    VAL: ("val", "valid", "validation", "validate", "validating", "eval", "evaluation", "evaluate", "evaluating",
          "evaluator", "dev", "minival"),
    TEST: ("test", "testing", "tst"),
}  # fmt: skip
"""A test set that is looked at after every epoch is a validation set; see `names.py`."""

METRICS = {
    "epoch": ("epoch", "ep"),
    "step": ("step", "iter", "iters", "iteration", "batch", "it", "itr", "round", "update", "globalstep"),
    "total_epochs": ("totalepochs",),
    "total_steps": ("totalsteps",),
    "loss": ("loss", "logloss", "mlogloss", "xent", "crossentropy"),
    "acc": ("acc", "accuracy", "accu", "classacc"),
    "score": ("score", "metric"),
    "f1": ("f1", "fscore", "fmeasure"),
    "precision": ("precision", "prec"),
    "recall": ("recall", "rec"),
    "mAP": ("map",),
    "map50": ("map50",),
    "auc": ("auc",),
    "lr": ("lr",),
    "eta": ("eta", "remain", "remaining"),
    "throughput": ("throughput", "ips", "wps", "tps"),
    "gpu_memory": ("mem", "memory", "gpumem", "vram"),
    "grad_norm": ("gradnorm", "gnorm"),
    "ppl": ("ppl", "perplexity"),
}

STATISTICS = {
    "best": ("best", "better"),
    "avg": ("avg", "average", "averaged", "mean", "ave", "smoothed", "running"),
    "max": ("max", "maximum", "peak"),
    "macro": ("macro",),
    "micro": ("micro",),
    "weighted": ("weighted",),
    "ema": ("ema", "swa"),
    "topk": ("topk",),
}

FILLERS = frozenset(
    """
    the a of on in for is was new begin start starting started beginning so far now current curr overall total final
    model saved saving save with results result set sets stats statistics end network net data dataset samples all
    ranks this global to images obtained got achieved reached after image log complete completed done info lm
    multiclass multilabel binary categorical sparse trained summary performance metrics phase stream gpu clip speed
    going into subset exp experience output inner local
    """.split()  # noqa: SIM905
)

PHRASES = (
    ("learning rate", "lr"),
    ("learn rate", "lr"),
    ("lrate", "lr"),
    ("cross entropy", "crossentropy"),
    ("multi logloss", "loss"),
    ("binary logloss", "loss"),
    ("mean average precision", "map"),
    ("top k", "topk"),
    ("f1 score", "f1"),
    ("f score", "f1"),
    ("f measure", "f1"),
    ("class acc", "classacc"),
    ("grad norm", "gradnorm"),
    ("gradient norm", "gradnorm"),
    ("global step", "globalstep"),
    ("gpu mem", "gpumem"),
    ("gpu memory", "gpumem"),
    ("cuda mem", "gpumem"),
    ("cuda memory", "gpumem"),
    ("mem allocated", "gpumem"),
    ("memory allocated", "gpumem"),
    ("mem reserved", "gpumem"),
    ("remaining time", "eta"),
    ("time remaining", "eta"),
    ("time left", "eta"),
    ("eta s", "eta"),
    ("eta seconds", "eta"),
    ("samples per sec", "throughput"),
    ("samples per second", "throughput"),
    ("sample per sec", "throughput"),
    ("images per sec", "throughput"),
    ("images per second", "throughput"),
    ("examples per sec", "throughput"),
    ("examples per second", "throughput"),
    ("tokens per sec", "throughput"),
    ("tokens per second", "throughput"),
    ("img s", "throughput"),
    ("imgs s", "throughput"),
    ("img sec", "throughput"),
    ("images s", "throughput"),
    ("images sec", "throughput"),
    ("samples s", "throughput"),
    ("samples sec", "throughput"),
    ("tokens s", "throughput"),
    ("tokens sec", "throughput"),
    ("loss value", "loss"),
    ("accuracy value", "accuracy"),
    ("words sec thread", "throughput"),
    ("img sec core", "throughput"),
    ("tokens s device", "throughput"),
    ("tokens sec device", "throughput"),
    ("mean ap", "map"),
    ("optim0 lr0", "lr"),
    ("bbox map", "map"),
    ("bbox map50", "map50"),
    ("total epochs", "totalepochs"),
    ("total steps", "totalsteps"),
)
"""Several words that are one. Longer phrases win where they overlap."""

CHINESE = {
    "训练集": "train", "训练": "train", "验证集": "validation", "验证": "validation", "评估": "eval", "测试集": "test",
    "测试": "test", "开发集": "dev",
    "总损失": "loss", "损失值": "loss", "损失函数值": "loss", "损失": "loss",
    "准确率": "accuracy", "准确度": "accuracy",
    "正确率": "accuracy", "精确率": "precision", "精准率": "precision", "查准率": "precision", "精度": "accuracy",
    "召回率": "recall", "查全率": "recall", "学习率": "lr", "学习速率": "lr",
    "宏平均": "macro", "微平均": "micro", "加权": "weighted", "平均": "avg", "最佳": "best", "最好": "best",
    "最优": "best",
    "最高": "best", "当前": "current", "总": "total", "本轮": "",
    "误差": "loss", "完成": "completed",
    "迭代轮数": "epoch", "迭代步数": "step", "轮次": "epoch", "轮数": "epoch", "周期": "epoch",
    "批次": "step", "步数": "step", "迭代": "iter", "步": "step",
    "剩余时间": "eta", "预计剩余": "eta", "剩余": "eta", "显存": "gpumem", "吞吐量": "throughput", "吞吐": "throughput",
    "值": "", "为": "", "的": "", "在": "", "上": "", "模型": "model", "新": "new", "保存": "saved", "结果": "results",
    "指标": "metric", "刷新": "", "分数": "score", "得分": "score",
}  # fmt: skip
"""Chinese has no spaces: at each place of a key the longest entry is taken."""

COLUMNS = {"p": "precision", "r": "recall", "e": "epoch", "#": "step", "iter.": "iter", "t_loss": "train loss",
           "tr_loss": "train loss", "v_loss": "validation loss"}  # fmt: skip
"""Names so short that they mean something only at the head of a table's column."""

OF_NO_SET = frozenset({"learning_rate", "eta", "throughput", "gpu_memory", "grad_norm"})
"""Metrics that belong to no data set."""

OF_EVALUATION = frozenset({"auc", "f1", "precision", "recall", "mAP", "map50"})
"""Metrics that a training does not print of its own batches."""

HINTS = (
    "epoch", "step", "iter", "batch", "loss", "acc", "prec", "recall", "f1", "map", "lr", "learn", "eta", "/s", "score",
    "auc", "mean ap", "metric", "best", "train", "val", "test", "ppl", "perplex", "entropy", "ips", "tps", "optimi",
    "stop", "finish", "complet", "done", "elapsed", "sanity", "xent", "measure", "rec:", "rec=", "throughput", "avg",
    "progress", "round", "%|", "[0", "[1", "[2", "[3", "[4", "[5", "[6", "[7", "[8", "[9",
    "损失", "率", "轮", "精度", "训练", "验证", "评估", "测试", "完成", "指标", "准确", "误差", "得分", "分数",
)  # fmt: skip
"""A line without any of them says nothing, unless it is the row of a table. Most lines of most logs have none."""

SETTINGS = frozenset(
    """
    batch_size batchsize bs num_workers workers seed momentum weight_decay dropout num_classes hidden_size
    num_layers warmup warmup_epochs warmup_steps lr_scheduler scheduler optimizer opt criterion arch backbone resume
    output_dir save_dir data_dir data_path dataset gpus gpu device img_size image_size imgsz input_size pretrained
    beta1 beta2 betas eps epsilon nesterov dampening amp amsgrad gamma step_size milestones label_smoothing mixup
    cutmix patience max_epochs num_epochs n_epochs epochs learning_rate_init max_iter
    hidden_dim accumulate_grad_batches gradient_accumulation_steps clip_grad max_grad_norm print_freq log_interval
    embed_dim depth num_heads world_size n_estimators max_depth num_leaves early_stopping_rounds
    """.split()  # noqa: SIM905
)
"""Keys of a configuration, in snake case. A line with two of them is one, whatever else it holds."""

_THINGS = ("", "images", "image", "imgs", "img", "samples", "sample", "examples", "example", "ex", "tokens", "tok",
           "items", "records", "sentences", "words", "graphs", "rows")  # fmt: skip
RATE_UNITS = frozenset(f"{thing}/{second}" for thing in _THINGS for second in ("s", "sec", "second"))
"""`<number> <unit>` is the throughput, whatever it is called."""
