"""Which half of the vocabulary does a sentence begin with? A tiny BERT, from random weights."""

import numpy as np
import torch
from torch.utils.data import TensorDataset
from transformers import BertConfig, BertForSequenceClassification, EvalPrediction, Trainer, TrainingArguments, set_seed

LENGTH, WORDS = 12, 100


def sentences(count: int) -> TensorDataset:
    tokens = torch.randint(5, WORDS, (count, LENGTH))
    return TensorDataset(tokens, (tokens[:, 0] > WORDS // 2).long())


def collate(rows: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    tokens, labels = zip(*rows, strict=True)
    return {"input_ids": torch.stack(tokens), "labels": torch.stack(labels)}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions.argmax(axis=1) == prediction.label_ids))}


set_seed(0)
model = BertForSequenceClassification(
    BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=2,
    )
)
arguments = TrainingArguments(
    "out",
    num_train_epochs=4,
    per_device_train_batch_size=16,
    learning_rate=5e-3,
    logging_steps=5,
    eval_strategy="epoch",
    save_strategy="no",
    report_to=[],
    use_cpu=True,
)
Trainer(
    model,
    arguments,
    data_collator=collate,
    train_dataset=sentences(320),
    eval_dataset=sentences(64),
    compute_metrics=accuracy,
).train()
