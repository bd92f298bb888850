"""Lines and pieces of lines of many formats, for tests that put them together at random."""

from __future__ import annotations

from hypothesis import strategies as st

from models.schemas import MetricDefinition
from services.parsing.presets import PRESETS

NUMBERS = st.sampled_from(
    ["0.5", "1", "0", "3", "12", "0.0417", "1e-05", "nan", "inf", "-1.5", "82.45", "1,024", "7/10"]
)

SAMPLES = [line for preset in PRESETS.values() for line, _ in preset.samples]

LINES = st.sampled_from(
    [
        # counters and phases
        "Epoch [{a}/10] started",
        "Epoch {a}/10",
        "Epoch [{a}/10] finished in 3s",
        "---- Epoch {a} ----",
        "Evaluating...",
        "***** Running Evaluation *****",
        "Eval begin...",
        "Training...",
        "Training complete. Best Accuracy: {a}%",
        "Engine run finished. Time taken: 0:00:0{a}",
        "***** Running training *****",
        "Total optimization steps = 120",
        "max_epochs={a}",
        # keys and values
        "Train Loss: {a}, Train Accuracy: {b}%",
        "Validation Loss: {a}, Validation Accuracy: {b}%",
        "Validation Top-k Accuracy: {{'top1': {a}, 'top5': {b}}}",
        "LR: {a}",
        "loss: {a} acc: {b}",
        "Epoch: [{a}]  [ 3/40]  eta: 0:00:1{a}  lr: 0.1  loss: {a} ({b})  acc1: {b} ({a})",
        "Test: [3/40]  Loss {a} ({b})  Acc@1 {b} ({a})",
        " * Acc@1 {a} Acc@5 {b}",
        "Averaged stats: lr: {a}  loss: {a} ({b})",
        "Train Epoch: {a} [640/60000 (1%)]\tLoss: {b}",
        "Test set: Average loss: {a}, Accuracy: 9{b}/100 (9{b}%)",
        "16/16 - 1s - 60ms/step - accuracy: {a} - loss: {b} - val_loss: {a}",
        " 3/16 ━━━━━━━━━━━━━━━━━━━━ 9s 616ms/step - accuracy: {a} - loss: {b}",
        "epoch {a} step {b} loss={a} | ppl={b}",
        "第{a}轮/共10轮 训练损失：{b}，训练准确率：{a}%",
        "[{a}]\ttrain-logloss:{a}\tvalid-logloss:{b}",
        "[default1]:step {a} loss: {b}",
        # bars
        "Epoch {a}:  50%|#####     | 3/6 [00:01<00:01,  2.1it/s, loss={b}, val_loss={a}]",
        " 50%|#####     | 3/6 [00:01<00:01,  2.1it/s]",
        "Epoch {a}: 100%|####| 6/6 [00:02<00:00, 2.1it/s, loss={b}]\rEpoch {a}:  17%|# | 1/6 [00:00<?, ?it/s]",
        # records
        '{{"epoch": {a}, "step": 4, "loss": {b}}}',
        '{{"mode": "val", "epoch": {a}, "acc": {b}}}',
        "{{'eval_loss': {a}, 'epoch': {b}}}",
        "ts=2026-01-02T03:04:05Z level=info epoch={a} loss={b}",
        # tables
        "epoch  train_loss  valid_loss  accuracy",
        "    {a}       {b}      {a}     {b}",
        "  epoch    train_loss    valid_acc    dur",
        "epoch,loss,val_loss",
        "{a},{b},{a}",
        "      Epoch    GPU_mem   box_loss   cls_loss  Instances       Size",
        "    {a}/10      1.2G      {b}      {a}        12        640: 100%|##########| 3/3 [00:01<00:00,  2.1it/s]",
        "                 Class     Images  Instances      Box(P          R      mAP50  mAP50-95)",
        "                   all         12         40      {a}      {b}      {a}      {b}",
        "                   cat         12         20      {a}      {b}      {a}      {b}",
        "| val_acc | {a} |",
        # sentences, settings and noise
        "Epoch {a}: val_acc improved from {b} to {a}, saving model to best.ckpt",
        "Current learning rate: {a}",
        "Namespace(lr={a}, epochs={b})",
        "UserWarning: epoch {a} is late",
        "Dice: {a} of epoch {b}, at step {a}",
        "",
        "hello",
    ]
)
"""Templates of lines, with places for two numbers."""


@st.composite
def filled_lines(draw: st.DrawFn) -> str:
    return draw(LINES).format(a=draw(NUMBERS), b=draw(NUMBERS))


@st.composite
def damaged_lines(draw: st.DrawFn) -> str:
    """A line of some format with a piece of it taken out and another put in."""
    line = draw(st.sampled_from(SAMPLES) | filled_lines())
    start = draw(st.integers(0, len(line)))
    end = draw(st.integers(start, min(len(line), start + 8)))
    return line[:start] + draw(st.sampled_from(["", ".", ",", "9" * 30, "-"]) | st.sampled_from(UNITS)) + line[end:]


LOGS = st.lists(filled_lines(), max_size=25)

DEFINITIONS = [
    MetricDefinition(name="dice", regex=r"Dice: ([0-9.]+)"),
    MetricDefinition(regex=r"of epoch (?P<epoch>\S+?),? at step (?P<step>\S+)"),
    MetricDefinition(name="never", regex=r"no such line (\d+)"),
]

UNITS = [
    *("Epoch ", "Step ", "started", "Training complete", "Train Loss: ", "Val Acc: ", "ETA: ", "LR: ", "INFO:"),
    *("[3/10]", "0.5", "1e", "nan", "%", " images/s", "999999999999", "Validation Top-k Accuracy: {", "'top1': ", "}"),
    *(", ", " - ", " ", "|", "[", "]", "\uff1a", "\r", "\x1b[", "\x1b]"),
    *("a", "1", ".1", "1,2", ", a", " - a", "a-", "a: ", "1m ", "1e5", "(", "-", "\u00e9", "Epoch [", "Epoch [1/2] "),
    *("\x1b[0", "INFO ", "INFO:a:", "100%|##| ", "100%|##| 3/6 [00:01<00:01, ", "[1/2] ", "a/", "key=", "{'a': "),
    *(
        "{",
        '{"a":',
        "第",
        "第3轮",
        "轮",
        "共",
        "损失",
        "训练损失：0.5，",
        "━",
        "█",
        "=",
        "#",
        ">",
        "loss ",
        "loss=",
        "nan ",
    ),
    *("1:00:00 ", "1:00", "- ", ".ckpt", "a.ckpt ", "(1) ", "(1", "\t", "\n", "'", '"', '\\"', 'a="', "a=1 ", "a=1, "),
    *(
        "_",
        "__",
        "top",
        "acc@",
        "top1 ",
        "mAP50-95 ",
        "val ",
        "val/",
        "best ",
        "avg ",
        "improved from 1 to ",
        "1 day, ",
    ),
    *("1h ", "1d 2h ", "3 of ", "1/", "/s", "1/s ", " | ", "1 | ", "aB", "A", "->", " at ", "!", "#1 ", "\u200b"),
    *(
        "\u3000",
        "\x9b",
        "\x1b]8;;",
        "[rank0]:",
        "[default0]",
        "a.py:1 ",
        "a:1 - ",
        "12:00:00 ",
        "2026-01-02 ",
        ":",
        "<",
    ),
    *(
        "class ",
        "Error ",
        "config ",
        "resume",
        "did not improve from 1",
        "best model ",
        "accuracy of the network on the ",
    ),
    *("1s]", "s, ", "2026-11-23 14:51:00", "x] 2026-11-23 14:51:0", "Iteration 1, loss = 1", "learn: 1 ", "1: learn: "),
    *("load", "restor", "reach", "increas", "(=", "  ", "x ", " x", "train", "accuracy of the ", "hyperparam", "\x08"),
]
"""Pieces that a pattern may want to read in more than one way, repeated over a whole line."""
