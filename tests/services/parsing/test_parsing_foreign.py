"""Logs of other people's trainers, one short one per family of formats, with all that each line must give."""

from __future__ import annotations

import math
from typing import Any

import pytest

from models.schemas import Stage
from services.parsing import LineParser

Said = tuple[str, dict[str, Any]]
"""A line and the metrics it gives, with `step` and, where the test is about it, `stage`. Epochs are carried."""

TRAINING, VALIDATION, END, START, DONE = (
    Stage.TRAINING,
    Stage.VALIDATION,
    Stage.EPOCH_END,
    Stage.EPOCH_START,
    Stage.COMPLETED,
)

LOGS: dict[str, list[Said]] = {
    "MetricLogger": [
        (
            (
                "Epoch: [4]  [ 20/500]  eta: 0:03:10  lr: 0.02  img/s: 87.25  loss: 1.9 (2.1)  acc1: 51.5 (48.25)"
                "  acc5: 80.0 (77.5)  time: 0.39  data: 0.01  max mem: 4096"
            ),
            {
                "epoch": 4,
                "step": 20,
                "total_steps": 500,
                "eta": 190.0,
                "learning_rate": 0.02,
                "throughput": 87.25,
                "train_loss": 1.9,
                "train_loss_avg": 2.1,
                "train_acc": 51.5,
                "train_acc_avg": 48.25,
                "train_top5_acc": 80.0,
                "stage": TRAINING,
            },
        ),
        (
            "Averaged stats: lr: 0.02  loss: 1.7 (1.95)",
            {"train_loss": 1.95, "epoch": 4, "learning_rate": 0.02, "stage": END},
        ),
        (
            "Test:  [10/40]  eta: 0:00:09  loss: 1.5 (1.6)  acc1: 60.0 (58.0)",
            {"epoch": 4, "step": 10, "total_steps": 40, "val_loss": 1.5, "val_acc": 60.0, "stage": VALIDATION},
        ),
        (
            " * Acc@1 59.125 Acc@5 83.5 loss 1.55",
            {"epoch": 4, "val_acc": 59.125, "top1_acc": 59.125, "top5_acc": 83.5, "val_loss": 1.55},
        ),
    ],
    "imagenet example": [
        (
            (
                "Epoch: [7][ 30/200]\tTime  0.21 ( 0.25)\tData  0.01 ( 0.02)\tLoss 3.21e+00 (3.5e+00)"
                "\tAcc@1  31.25 ( 28.12)\tAcc@5  62.50 ( 55.00)"
            ),
            {
                "epoch": 7,
                "step": 30,
                "total_steps": 200,
                "train_loss": 3.21,
                "train_loss_avg": 3.5,
                "train_acc": 31.25,
                "train_acc_avg": 28.12,
                "train_top5_acc": 62.5,
                "stage": TRAINING,
            },
        ),
        (
            "Test: [ 5/20]\tTime  0.10 ( 0.11)\tLoss 2.9 (3.0)\tAcc@1  35.0 ( 33.3)\tAcc@5  66.0 ( 64.0)",
            {"step": 5, "total_steps": 20, "val_loss": 2.9, "val_acc": 35.0, "top5_acc": 66.0, "stage": VALIDATION},
        ),
    ],
    "mnist example": [
        (
            "Train Epoch: 3 [1280/50000 (3%)]\tLoss: 0.712300",
            {"epoch": 3, "samples_seen": 1280, "total_samples": 50000, "train_loss": 0.7123, "stage": TRAINING},
        ),
        (
            "Test set: Average loss: 0.0821, Accuracy: 9750/10000 (98%)",
            {"epoch": 3, "val_loss": 0.0821, "val_acc": 98.0, "stage": VALIDATION},
        ),
    ],
    "keras": [
        ("Epoch 2/8", {"epoch": 2, "total_epochs": 8, "stage": START}),
        (
            (
                "\x1b[1m 9/50\x1b[0m \x1b[32m━━━━\x1b[0m\x1b[37m━━━━━━━━\x1b[0m \x1b[1m3s\x1b[0m 75ms/step"
                " - accuracy: 0.41 - loss: 1.62"
            ),
            {"epoch": 2, "step": 9, "total_steps": 50, "eta": 3.0, "train_acc": 0.41, "train_loss": 1.62},
        ),
        (
            (
                "50/50 - 4s - 80ms/step - accuracy: 0.52 - loss: 1.31 - val_accuracy: 0.55 - val_loss: 1.25"
                " - learning_rate: 0.001"
            ),
            {
                "epoch": 2,
                "total_epochs": 8,
                "train_acc": 0.52,
                "train_loss": 1.31,
                "val_acc": 0.55,
                "val_loss": 1.25,
                "learning_rate": 0.001,
                "stage": END,
            },
        ),
        (
            "Epoch 2: val_accuracy improved from 0.50 to 0.55, saving model to best.keras",
            {"epoch": 2, "best_acc": 0.55, "stage": END},
        ),
    ],
    "lightning": [
        (
            "Epoch 0: 100%|██████████| 4/4 [00:01<00:00,  3.10it/s, v_num=2, train_loss=1.20, val_loss=1.10]",
            {"epoch": 0, "step": 4, "total_steps": 4, "train_loss": 1.2, "val_loss": 1.1},
        ),
        (
            "Epoch 1:  25%|██▌       | 1/4 [00:00<00:01,  3.00it/s, v_num=2, train_loss=0.90, val_loss=1.10]",
            {"epoch": 1, "step": 1, "total_steps": 4, "train_loss": 0.9},
        ),
        ("`Trainer.fit` stopped: `max_epochs=2` reached.", {"total_epochs": 2, "stage": DONE}),
    ],
    "Hugging Face": [
        (
            "{'loss': 2.25, 'grad_norm': 1.5, 'learning_rate': 4e-05, 'epoch': 0.5}",
            {"epoch": 0.5, "train_loss": 2.25, "grad_norm": 1.5, "learning_rate": 4e-05, "stage": TRAINING},
        ),
        (
            "{'eval_loss': 2.0, 'eval_accuracy': 0.44, 'eval_f1': 0.4, 'epoch': 1.0}",
            {"epoch": 1.0, "val_loss": 2.0, "val_acc": 0.44, "f1": 0.4, "stage": VALIDATION},
        ),
        (
            "{'loss': '1.75', 'learning_rate': '2e-05', 'epoch': '1.5'}",
            {"epoch": 1.5, "train_loss": 1.75, "learning_rate": 2e-05},
        ),
    ],
    "ignite": [
        ("2026-02-01 10:00:00,001 ignite.engine INFO: Epoch[2] Complete. Time taken: 00:00:05", {"epoch": 2}),
        (
            "Validation Results - Epoch: 2  Avg accuracy: 0.75 Avg loss: 0.66",
            {"epoch": 2, "val_acc": 0.75, "val_loss": 0.66, "stage": VALIDATION},
        ),
    ],
    "mmengine": [
        (
            (
                "2026/02/01 10:00:00 - mmengine - INFO - Epoch(train)  [3][ 40/120]  lr: 5.0e-03  eta: 1 day, 2:00:00"
                "  time: 0.5  data_time: 0.1  memory: 2048  loss: 1.125"
            ),
            {
                "epoch": 3,
                "step": 40,
                "total_steps": 120,
                "learning_rate": 0.005,
                "eta": 93600.0,
                "gpu_memory": 2048.0,
                "train_loss": 1.125,
                "stage": TRAINING,
            },
        ),
        (
            "2026/02/01 10:00:09 - mmengine - INFO - Epoch(val) [3][20/20]    accuracy/top1: 71.5  accuracy/top5: 93.0",
            {
                "epoch": 3,
                "step": 20,
                "total_steps": 20,
                "val_acc": 71.5,
                "top1_acc": 71.5,
                "top5_acc": 93.0,
                "stage": VALIDATION,
            },
        ),
    ],
    "paddle": [
        ("Epoch 1/4", {"epoch": 1, "total_epochs": 4}),
        ("step  5/30 - loss: 2.125 - acc: 0.25 - 40ms/step", {"step": 5, "total_steps": 30, "train_loss": 2.125}),
        ("Eval begin...", {}),
        (
            "step 10/10 - loss: 1.5 - acc: 0.375 - 20ms/step",
            {"step": 10, "total_steps": 10, "val_loss": 1.5, "val_acc": 0.375, "stage": VALIDATION},
        ),
        ("Epoch 2/4", {"epoch": 2, "total_epochs": 4}),
        ("step  5/30 - loss: 1.25 - acc: 0.5 - 40ms/step", {"epoch": 2, "train_loss": 1.25, "train_acc": 0.5}),
    ],
    "fairseq": [
        (
            "2026-02-01 10:00:00 | INFO | train_inner | epoch 002:     30 / 90 loss=4.5, ppl=22.6, wps=1500, lr=0.0003",
            {"epoch": 2, "step": 30, "total_steps": 90, "train_loss": 4.5, "train_ppl": 22.6, "learning_rate": 0.0003},
        ),
        (
            "2026-02-01 10:01:00 | INFO | valid | epoch 002 | valid on 'valid' subset | loss 4.25 | ppl 19.0",
            {"epoch": 2, "val_loss": 4.25, "val_ppl": 19.0, "stage": VALIDATION},
        ),
        ("2026-02-01 10:02:00 | INFO | fairseq_cli.train | end of epoch 2 (average epoch stats below)", {"epoch": 2}),
    ],
    "boosting": [
        (
            "[12]\ttrain-mlogloss:0.81\teval-mlogloss:0.93",
            {"step": 12, "train_loss": 0.81, "val_loss": 0.93},
        ),
        (
            "[20]\ttraining's binary_logloss: 0.31\tvalid_0's binary_logloss: 0.42",
            {"step": 20, "train_loss": 0.31, "val_loss": 0.42},
        ),
    ],
    "skorch": [
        ("  epoch    train_loss    valid_acc    valid_loss     dur", {}),
        ("-------  ------------  -----------  ------------  ------", {}),
        (
            "      1        \x1b[36m1.3000\x1b[0m       \x1b[32m0.5500\x1b[0m        \x1b[35m1.2000\x1b[0m  0.0250",
            {"epoch": 1, "train_loss": 1.3, "val_acc": 0.55, "val_loss": 1.2, "stage": END},
        ),
        (
            "      2        1.4000       0.5000        1.2500  0.0240",
            {"epoch": 2, "train_loss": 1.4, "val_acc": 0.5, "val_loss": 1.25},
        ),
    ],
    "fastai": [
        ("epoch     train_loss  valid_loss  error_rate  accuracy  time", {}),
        (
            "0         0.912345    0.612345    0.201000    0.799000  00:13",
            {"epoch": 0, "train_loss": 0.912345, "val_loss": 0.612345, "val_acc": 0.799},
        ),
    ],
    "CSV": [
        ("epoch,train_loss,val_loss,val_acc", {}),
        ("0,1.5,1.25,0.5", {"epoch": 0, "train_loss": 1.5, "val_loss": 1.25, "val_acc": 0.5}),
        ("1,1.0,1.125,0.625", {"epoch": 1, "train_loss": 1.0, "val_loss": 1.125, "val_acc": 0.625}),
    ],
    "pipe table": [
        ("| Epoch | Train Loss | Val Loss | Val Acc |", {}),
        ("|-------|------------|----------|---------|", {}),
        ("| 3     | 0.75       | 0.875    | 68.5%   |", {"epoch": 3, "train_loss": 0.75, "val_loss": 0.875}),
    ],
    "ultralytics": [
        ("      Epoch    GPU_mem   box_loss   cls_loss   dfl_loss  Instances       Size", {}),
        (
            (
                "       2/30      1.75G      1.125       2.25       1.05         18        640: 100%|██████████| 6/6"
                " [00:03<00:00,  1.9it/s]"
            ),
            {"epoch": 2, "total_epochs": 30, "gpu_memory": 1.75, "box_loss": 1.125, "cls_loss": 2.25},
        ),
        ("                 Class     Images  Instances      Box(P          R      mAP50  mAP50-95): 100%|██| 2/2", {}),
        (
            "                   all         16         90      0.625        0.5       0.55       0.35",
            {"epoch": 2, "precision": 0.625, "recall": 0.5, "map50": 0.55, "mAP": 0.35, "stage": VALIDATION},
        ),
        ("                 horse         16         40        0.9        0.8       0.85       0.65", {}),
        ("                 zebra         16         50        0.3        0.2       0.25       0.05", {}),
    ],
    "logfmt": [
        (
            'time=2026-02-01T10:00:00Z level=info msg="epoch done" epoch=3 train_loss=0.5 val_acc=0.875 my.score-x=2',
            {"epoch": 3, "train_loss": 0.5, "val_acc": 0.875},
        ),
    ],
    "JSON lines": [
        (
            '{"epoch": 4, "step": 900, "train/loss": 0.375, "val/top5_acc": 97.5, "Grad Norm": 1.25, "data time": 0.5}',
            {"epoch": 4, "step": 900, "train_loss": 0.375, "top5_acc": 97.5, "grad_norm": 1.25, "data_time": 0.5},
        ),
        ('{"mode": "val", "epoch": 4, "loss": 0.5}', {"epoch": 4, "val_loss": 0.5, "stage": VALIDATION}),
        ('{"epoch": 5, "loss": NaN}', {"epoch": 5, "train_loss": math.nan}),
    ],
    "Chinese": [
        ("开始训练", {}),
        ("第 2 轮 / 共 9 轮", {"epoch": 2, "total_epochs": 9}),
        (
            "【训练】第2轮，批次：10/50，损失：0.75，准确率：62.5%，学习率：0.01，剩余时间：1:05",
            {
                "epoch": 2,
                "step": 10,
                "total_steps": 50,
                "train_loss": 0.75,
                "train_acc": 62.5,
                "learning_rate": 0.01,
                "eta": 65.0,
                "stage": TRAINING,
            },
        ),
        (
            "验证集损失：0.5，验证集准确率：７５％",
            {"epoch": 2, "val_loss": 0.5, "val_acc": 75.0, "stage": VALIDATION},
        ),
        ("保存最佳模型，最佳准确率：75%", {"best_acc": 75.0, "stage": END}),
        ("训练完成", {"stage": DONE}),
    ],
    "suffixes": [
        (
            "Epoch: 0007 loss_train: 1.75 acc_train: 0.375 loss_val: 1.8125 acc_val: 0.25 time: 0.02s",
            {"epoch": 7, "train_loss": 1.75, "train_acc": 0.375, "val_loss": 1.8125, "val_acc": 0.25, "stage": END},
        ),
    ],
    "words": [
        ("step 250: train loss 2.5, val loss 2.75", {"step": 250, "train_loss": 2.5, "val_loss": 2.75}),
        ("iter 260: loss 2.4375, time 80.5ms, mfu 3.5%", {"step": 260, "train_loss": 2.4375}),
        ("Early stopping triggered after 12 epochs", {"stage": DONE}),
    ],
}


@pytest.mark.parametrize("family", LOGS)
def test_a_log_gives_what_its_trainer_printed(family: str) -> None:
    parser = LineParser()
    for line, expected in LOGS[family]:
        parsed = parser.parse(line)
        given = {**parsed.metrics, "step": parsed.step, "stage": parsed.stage}
        for name, value in expected.items():
            assert repr(given.get(name)) == repr(value), (line, name, given)
        if not expected:
            assert not parsed.metrics, (line, given)


@pytest.mark.parametrize("family", LOGS)
def test_between_two_of_its_lines_a_log_may_hold_anything(family: str) -> None:
    """Lines that say nothing change nothing: they are what else a training prints."""
    plain, noisy = LineParser(), LineParser()
    for line, _ in LOGS[family]:
        noisy.parse("")
        noisy.parse("Saving checkpoint to runs/7/epoch=3-val_acc=0.99.ckpt")
        assert repr(noisy.parse(line)) == repr(plain.parse(line)), line


def test_a_value_that_a_bar_carries_over_is_not_measured_again() -> None:
    parser = LineParser()
    parser.parse(LOGS["lightning"][0][0])
    parsed = parser.parse(LOGS["lightning"][1][0])
    assert "val_loss" not in parsed.metrics
    later = "Epoch 1: 100%|██████████| 4/4 [00:01<00:00, 3.00it/s, v_num=2, train_loss=0.80, val_loss=0.95]"
    assert parser.parse(later).metrics["val_loss"] == 0.95


@pytest.mark.parametrize(
    ("line", "rank"),
    [
        ("[rank3]: step 5 loss: 0.5", 3),
        ("[default1]:step 5 loss: 0.5", 1),
        ("[rank0]:[2026-02-01 10:00:00,000] [INFO] step 5 loss: 0.5", 0),
        ("step 5 loss: 0.5", None),
        ("[local_rank 2] hello", 2),
    ],
)
def test_a_line_tells_which_process_of_a_distributed_training_speaks(line: str, rank: int | None) -> None:
    parsed = LineParser().parse(line)
    assert parsed.rank == rank
    if "loss" in line:
        assert (parsed.metrics, parsed.step) == ({"train_loss": 0.5}, 5)


NOTHING = {
    "configuration": [
        "batch_size: 64",
        "optimizer:",
        "epochs: 90",
        "learning_rate=0.1, momentum=0.9, weight_decay=0.0001, batch_size=256",
        "Namespace(arch='resnet18', epochs=90, lr=0.1, loss_weight=0.5, accuracy=0.9)",
        '{"batch_size": 32, "epochs": 10, "lr": 0.001, "loss": 0.5}',
        "{'model': 'vit', 'dropout': 0.1, 'num_workers': 4, 'epoch': 0}",
        "config: loss 0.5, train 0.8, val 0.2",
        "Hyperparameters: lr 0.1 loss_scale 128",
        "args: epoch 3, loss 0.5",
    ],
    "optimizer": [
        "AdamW (lr: 0.001, betas: (0.9, 0.999), eps: 1e-08, weight_decay: 0.01, amsgrad: False)",
        "SGD (",
        "    dampening: 0",
        "    momentum: 0.9",
        "optimizer: AdamW(lr=0.001, momentum=0.9) with parameter groups 57 weight(decay=0.0), 64 weight(decay=0.0005)",
    ],
    "checkpoints": [
        "Saved /runs/4/epoch=3-val_acc=0.91.ckpt",
        "saving to checkpoint_epoch_12_loss_0.31.pth",
        "Loaded checkpoint 'model_best.pth.tar' (epoch 12, accuracy 77.5)",
        "Resuming from epoch 7, loss 0.31",
        "=> loading weights of step 4000",
    ],
    "one class of many": [
        "class cat: accuracy 0.91, recall 0.85",
        "         cat       0.91      0.85      0.88       120",
        "Class 3 IoU: 0.5, Acc: 0.75",
    ],
    "downloads": [
        "Downloading data: 100%|██████████| 170M/170M [00:03<00:00, 51.2MB/s]",
        " 45%|████▌     | 20.1M/44.7M [00:01<00:01, 20.1MB/s]",
        "100%|##########| 9912422/9912422 [00:00<00:00, 31415926.5it/s]",
        "Map:  40%|████      | 400/1000 [00:00<00:00, 4000 examples/s]",
    ],
    "warnings and tracebacks": [
        "/opt/lib/loss.py:42: UserWarning: size (3) differs from input (4): loss 0.5 may be wrong",
        '  File "/opt/train.py", line 88, in train_epoch',
        "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; epoch 3)",
        "ValueError: loss is 0.5",
        "DeprecationWarning: val_acc=0.5 will be removed in 2.0",
    ],
    "sizes": [
        "Total params: 11,689,512",
        "number of parameters: 25.56M",
        "Model has 11.7 million parameters and 1.8 GFLOPs",
        "loading annotations into memory... done (t=0.52s)",
        "Found 50000 images in 10 classes",
        "train: 45000 images, val: 5000 images",
    ],
    "scaling": [
        "loss scale: 65536.0",
        "Gradient overflow. Skipping step, reducing loss scale to 32768.0",
        "loss_scale=128",
    ],
    "sentences": [
        "We train 3 networks for better accuracy",
        "see https://host/epoch/3?loss=0.5 for more",
        "EarlyStopping counter: 3 out of 5",
        "version 1.2.3 of the loss",
    ],
    "places in a name": [
        "Accuracy after epoch 3: 0.81",
        "Accuracy after 3 epochs: 81%",
        "Loss after 10 iterations: 0.5",
        "loss after step 100 = 0.5",
        "accuracy on 10000 images: 0.8",
        "train loss [3]: 0.5",
        "mAP@[.5:.95]: 0.4",
    ],
    "decimal commas": ["loss: 0,532", "acc: 0,812%"],
}


@pytest.mark.parametrize(("kind", "line"), [(kind, line) for kind, lines in NOTHING.items() for line in lines])
def test_a_number_that_is_no_metric_gives_nothing(kind: str, line: str) -> None:
    parser = LineParser()
    assert values_of(parser, line) == {}, "at the start of a log"
    parser.parse("Epoch [2/10], Train Loss: 0.5")
    assert values_of(parser, line) == {}, "in the middle of a training"
    assert parser.memory.state.epoch == 2


def values_of(parser: LineParser, line: str) -> dict[str, int | float]:
    carried = ("epoch", "total_epochs")
    parsed = parser.parse(line)
    metrics = {name: value for name, value in parsed.metrics.items() if name not in carried}
    return metrics if parsed.step is None else {**metrics, "step": parsed.step}
