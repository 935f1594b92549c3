"""Train the judge: a small CNN on Fashion-MNIST, exported as ONNX. It measures; it never guards.

ONNX inputs and outputs: ``image`` (B, 1, 32, 32) in [0, 1] -> ``logits`` (B, 10),
``features`` (B, 128), the space of our Frechet distances.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fashion
from run import WORK, cosine, log

OUT = Path(__file__).parent / "classifier.onnx"


def block(c_in: int, c_out: int) -> nn.Sequential:
    """Two 3x3 convolutions and a pool."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
        nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


class Judge(nn.Module):
    """Image (B, 1, 32, 32) in [0, 1] -> logits (B, 10) and features (B, 128)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(block(1, 32), block(32, 64), block(64, 128))
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.blocks((image - 0.22) / 0.34).mean((2, 3))
        return self.head(self.dropout(features)), features


def augment(images: Tensor) -> Tensor:
    """Shift by up to two pixels and mirror half of the batch."""
    dx, dy = torch.randint(-2, 3, (2,)).tolist()
    images = torch.roll(images, (dy, dx), (2, 3))
    mirrored = torch.rand(len(images)) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is their label."""
    model.eval()
    hits = sum(
        int((model(x)[0].argmax(1) == y).sum())
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    return hits / len(labels)


def train(epochs: int, batch: int, seed: int) -> Judge:
    """Train on the 60,000 training images and report the test accuracy each epoch."""
    torch.manual_seed(seed)
    data = {
        split: (torch.from_numpy(x[:, None] / 255.0).float(), torch.from_numpy(y))
        for split in ("train", "t10k")
        for x, y in [fashion.load(split)]
    }
    images, labels = data["train"]
    model, total = Judge(), epochs * (len(images) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: cosine(s, total, 200))
    for epoch in range(epochs):
        model.train()
        for index in torch.randperm(len(images))[: total // epochs * batch].split(batch):
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(augment(images[index]))[0]
            loss = F.cross_entropy(logits.float(), labels[index], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        log(
            "classifier",
            epoch=epoch,
            loss=loss.item(),
            test_accuracy=accuracy(model, *data["t10k"]),
        )
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = train(args.epochs, args.batch, args.seed).eval()
    WORK.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), WORK / "classifier.pt")
    torch.onnx.export(
        model,
        (torch.rand(2, 1, 32, 32),),
        OUT,
        input_names=["image"],
        output_names=["logits", "features"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        opset_version=20,
        dynamo=True,
        external_data=False,
    )


if __name__ == "__main__":
    main()
