"""Train the sample models on real handwritten digits and export them, with calibration and test inputs.

    pip install torch scikit-learn onnx onnxruntime
    python samples/train_digits.py [output folder]

Writes `digits_cnn.onnx`, `digits_transformer.onnx`, `digits_lstm.onnx`, `digits_gru.onnx`, `digits_calib.npz`,
`digits_test.npz` and `digits_test_labels.npy`. This is the only file of the project that needs PyTorch, and it runs
once, offline: what the project ships and tests is its output. Single-threaded and seeded, so that it can be repeated.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

SEED = 20240607
CLASSES = 10
SIDE = 32
TEST_SAMPLES = 400
CALIBRATION_SAMPLES = 128
GRID = 64
"""Pixels are multiples of 1/GRID: exact in float32, and they compress well."""


# --- data -------------------------------------------------------------------------------------------------------------


def upsample(digits: np.ndarray) -> np.ndarray:
    """Grey digits of 8x8 in 0..16, float[N,8,8], to the models' input, float32[N,1,32,32] in 0..1 (bilinear)."""
    small = digits.shape[-1]
    position = np.clip((np.arange(SIDE) + 0.5) * small / SIDE - 0.5, 0, small - 1)
    weights = np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(small)[None, :]))
    image = weights @ (digits / 16.0) @ weights.T
    return (np.round(image * GRID) / GRID).astype(np.float32)[:, None]


def splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of three disjoint parts: `train`, `calib`, `test`.

    The test part is the tail of the file and not a random draw: neighbours in this dataset tend to be by the same
    writer, so after shuffling even 1-nearest-neighbour is right on 98-99 % and no damage by quantization would show.
    """
    digits = load_digits()
    images, labels = upsample(digits.images), digits.target.astype(np.int64)
    train_x, calib_x, train_y, calib_y = train_test_split(
        images[:-TEST_SAMPLES],
        labels[:-TEST_SAMPLES],
        test_size=CALIBRATION_SAMPLES,
        stratify=labels[:-TEST_SAMPLES],
        random_state=SEED,
    )
    test = images[-TEST_SAMPLES:], labels[-TEST_SAMPLES:]
    return {"train": (train_x, train_y), "calib": (calib_x, calib_y), "test": test}


def augment(images: Tensor) -> Tensor:
    """Each image turned, scaled and shifted a little, plus noise: float[N,1,32,32], same shape."""
    count = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count) * 2 - 1) * limit

    angle, scale = uniform(0.17), 1 + uniform(0.1)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack([cosine, -sine, uniform(0.16)], 1), torch.stack([sine, cosine, uniform(0.16)], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False) + 0.03 * torch.randn_like(images)


# --- models -----------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = (
            nn.Identity()
            if (inputs, stride) == (outputs, 1)
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Cnn(nn.Module):
    """A small ResNet: float[N,1,32,32] to logits float[N,10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 48, 3, 1, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2))
        self.blocks = nn.Sequential(Residual(48, 48, 1), Residual(48, 64, 1), Residual(64, 64, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(image))).flatten(1))


class Encoder(nn.Module):
    """A pre-norm transformer layer: float[N,tokens,width], same shape. Only the batch axis is dynamic in its graph."""

    def __init__(self, tokens: int, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.tokens, self.width, self.heads = tokens, width, heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.tokens, self.heads, self.width // self.heads).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_attention(x)
        query, key, value = self.split(self.query(y)), self.split(self.key(y)), self.split(self.value(y))
        scores = query @ key.transpose(-1, -2) * (self.width // self.heads) ** -0.5
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(-1, self.tokens, self.width)
        x = x + self.project(mixed)
        return x + self.mlp(self.norm_mlp(x))


class Transformer(nn.Module):
    """A small vision transformer, 64 patches of 4x4: float[N,1,32,32] to logits float[N,10]."""

    def __init__(self, width: int = 112, layers: int = 3, heads: int = 2, hidden: int = 168) -> None:
        super().__init__()
        patch = 4
        self.shape = (-1, width, tokens := (SIDE // patch) ** 2)
        self.embed = nn.Conv2d(1, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.layers = nn.Sequential(*(Encoder(tokens, width, heads, hidden) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.embed(image).reshape(self.shape).transpose(1, 2) + self.position
        return self.head(self.norm(self.layers(tokens)).mean(1))


class Recurrent(nn.Module):
    """Reads a digit row by row: float[N,1,32,32] to logits float[N,10], from the mean state over all rows."""

    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU], hidden: int, *, both_ways: bool) -> None:
        super().__init__()
        self.reader = cell(SIDE, hidden, batch_first=True, bidirectional=both_ways)
        self.head = nn.Linear(hidden * (1 + both_ways), CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        states, _ = self.reader(image.squeeze(1))
        return self.head(states.mean(1))


# --- training and export ----------------------------------------------------------------------------------------------


def train(model: nn.Module, images: np.ndarray, labels: np.ndarray, epochs: int, peak_rate: float) -> nn.Module:
    """AdamW with a one-cycle rate; label smoothing keeps the logits in a range where a small error can be seen."""
    x, y, batch = torch.from_numpy(images), torch.from_numpy(labels), 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_rate, weight_decay=0.05)
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_rate, total_steps=steps)
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(x))
        total = 0.0
        for start in range(0, len(x) - batch + 1, batch):
            pick = order[start : start + batch]
            loss = F.cross_entropy(model(augment(x[pick])), y[pick], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"  epoch {epoch + 1}/{epochs}: loss {total / (len(x) // batch):.4f}", flush=True)
    return model.eval()


def export(model: nn.Module, path: Path, opset: int, fold: bool) -> None:
    """Write the graph with a dynamic batch axis N; without `fold`, BatchNormalization stays a node of its own."""
    mode = torch.onnx.TrainingMode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter is deprecated; the other one has no opset 13
        torch.onnx.export(
            model,
            (torch.zeros(1, 1, SIDE, SIDE),),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
            training=mode.EVAL if fold else mode.PRESERVE,
            do_constant_folding=fold,
        )


def logits_of(path: Path, images: np.ndarray) -> np.ndarray:
    """Output of the exported model in onnxruntime, float32[N,10]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def verify(model: nn.Module, path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Check the file against the standard and against PyTorch, and print its accuracy."""
    onnx.checker.check_model(onnx.load(path), full_check=True)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    logits = logits_of(path, images)
    difference = float(np.abs(logits - expected).max())
    accuracy = float((logits.argmax(1) == labels).mean())
    print(f"{path.name}: {path.stat().st_size} bytes, accuracy {accuracy:.2%}, off PyTorch by {difference:.1e}")
    if difference > 1e-4:
        raise SystemExit(f"{path.name} does not reproduce the PyTorch model")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    parts = splits()
    np.savez_compressed(folder / "digits_calib.npz", image=parts["calib"][0])
    np.savez_compressed(folder / "digits_test.npz", image=parts["test"][0])
    np.save(folder / "digits_test_labels.npy", parts["test"][1])

    torch.manual_seed(SEED)
    cnn = train(Cnn(), *parts["train"], epochs=15, peak_rate=4e-3)
    export(cnn, folder / "digits_cnn.onnx", opset=13, fold=False)
    verify(cnn, folder / "digits_cnn.onnx", *parts["test"])

    torch.manual_seed(SEED)
    transformer = train(Transformer(), *parts["train"], epochs=60, peak_rate=1.5e-3)
    export(transformer, folder / "digits_transformer.onnx", opset=17, fold=True)
    verify(transformer, folder / "digits_transformer.onnx", *parts["test"])

    for name, cell, hidden, both_ways in (("lstm", nn.LSTM, 96, True), ("gru", nn.GRU, 128, False)):
        torch.manual_seed(SEED)
        model = train(Recurrent(cell, hidden, both_ways=both_ways), *parts["train"], epochs=60, peak_rate=4e-3)
        export(model, folder / f"digits_{name}.onnx", opset=17, fold=True)
        verify(model, folder / f"digits_{name}.onnx", *parts["test"])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
