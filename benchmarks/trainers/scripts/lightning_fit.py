import argparse

import lightning as L  # noqa: N812 - as its documentation imports it
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

Batch = tuple[Tensor, Tensor]


class Digits(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.loss = nn.CrossEntropyLoss()

    def training_step(self, batch: Batch) -> Tensor:
        images, labels = batch
        loss: Tensor = self.loss(self.network(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch) -> None:
        images, labels = batch
        scores = self.network(images)
        self.log("val_loss", self.loss(scores, labels), prog_bar=True)
        self.log("val_acc", (scores.argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


parser = argparse.ArgumentParser()
parser.add_argument("--bar", choices=["tqdm", "rich"], default="tqdm")
bar = RichProgressBar() if parser.parse_args().bar == "rich" else TQDMProgressBar()

L.seed_everything(0)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
train, val = random_split(digits, [1400, 397])
trainer = L.Trainer(max_epochs=3, accelerator="cpu", callbacks=[bar], logger=False, enable_checkpointing=False)
trainer.fit(Digits(), DataLoader(train, 100, shuffle=True), DataLoader(val, 200))
