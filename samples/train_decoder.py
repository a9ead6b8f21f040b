"""Train the sample decoder on the sources of Python's standard library, and export it with a cache.

    pip install torch tokenizers onnx onnxruntime
    python samples/train_decoder.py [output folder]

Writes `decoder.onnx`, `tokenizer.json`, `calib.txt` and `test.txt`. Needs PyTorch and runs
once, offline. Single-threaded and seeded; another version of Python has other sources, and so gives other weights.
"""

from __future__ import annotations

import math
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from decoder_graph import Shape, decoder
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F

SEED = 20261126
SHAPE = Shape(vocabulary=1024, width=192, layers=3, queries=6, pairs=2, head=32, hidden=512)
LEFT_OUT = frozenset({"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "encodings"})
EVERY = 20
"""One file of so many is for testing, and the one after it for calibration."""
KEPT = 48_000
"""Characters of text that are written for testing, and for calibration."""
LENGTH, BATCH, STEPS, RATE = 128, 16, 2500, 3e-3


# --- text -------------------------------------------------------------------------------------------------------------


def sources() -> dict[str, str]:
    """Text of three disjoint sets of files: `train`, `calib`, `test`. ASCII files only."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [p for p in sorted(root.rglob("*.py")) if not LEFT_OUT.intersection(p.relative_to(root).parts)]
    texts = [text for text in (p.read_text(encoding="utf-8", errors="replace") for p in files) if text.isascii()]
    parts: dict[str, list[str]] = {"test": texts[::EVERY], "calib": texts[1::EVERY]}
    parts["train"] = [text for number, text in enumerate(texts) if number % EVERY > 1]
    return {name: "\n".join(found) for name, found in parts.items()}


def excerpt(text: str) -> str:
    """Whole lines from all over a text, in blocks of about a thousand characters."""
    blocks, lines = [], text.splitlines(keepends=True)
    size = 0
    for line in lines:
        if not blocks or size > 1000:
            blocks.append("")
            size = 0
        blocks[-1] += line
        size += len(line)
    step = max(len(text) // KEPT, 1)
    return "".join(blocks[step // 2 :: step])


def trained_tokenizer(text: str) -> Tokenizer:
    """Byte-level BPE (Radford et al., 2019)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE.vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


# --- model ------------------------------------------------------------------------------------------------------------


class Norm(nn.Module):
    """RMSNorm over the last axis."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SHAPE.width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + SHAPE.epsilon) * self.weight


class Block(nn.Module):
    """A decoder layer: float[N,time,width], same shape."""

    def __init__(self) -> None:
        super().__init__()
        wide, narrow = SHAPE.queries * SHAPE.head, SHAPE.pairs * SHAPE.head
        self.attention_norm, self.mlp_norm = Norm(), Norm()
        self.q, self.k, self.v = (nn.Linear(SHAPE.width, n, bias=False) for n in (wide, narrow, narrow))
        self.o = nn.Linear(wide, SHAPE.width, bias=False)
        self.gate, self.up = (nn.Linear(SHAPE.width, SHAPE.hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(SHAPE.hidden, SHAPE.width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        q, k, v = (layer(normed).unflatten(-1, (-1, SHAPE.head)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = (
            y * cosine + torch.cat([-y[..., SHAPE.head // 2 :], y[..., : SHAPE.head // 2]], -1) * sine for y in (q, k)
        )
        k, v = (y.repeat_interleave(SHAPE.queries // SHAPE.pairs, dim=1) for y in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        normed = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Decoder(nn.Module):
    """Token ids int[N,time] to logits float[N,time,vocabulary]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SHAPE.vocabulary, SHAPE.width)
        self.blocks = nn.ModuleList(Block() for _ in range(SHAPE.layers))
        self.norm = Norm()
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(
                    parameter, std=0.02 if parameter is self.embedding.weight else parameter.shape[1] ** -0.5
                )

    def forward(self, ids: Tensor) -> Tensor:
        angles = torch.arange(ids.shape[1])[:, None] * torch.from_numpy(SHAPE.frequencies)[None]
        twice = torch.cat([angles, angles], -1)
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, twice.cos(), twice.sin())
        return F.linear(self.norm(x), self.embedding.weight)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """As `decoder_graph.decoder` takes them."""
        found = {"embedding": self.embedding.weight, "norm": self.norm.weight}
        for number, block in enumerate(self.blocks):
            for name, parameter in block.named_parameters():
                found[f"{number}.{name.removesuffix('.weight')}"] = parameter.T if parameter.ndim == 2 else parameter
        return {name: value.detach().numpy().copy() for name, value in found.items()}


def train(model: Decoder, ids: NDArray[np.int64]) -> None:
    """AdamW, with a rate that rises for 100 steps and falls along a cosine to a tenth."""
    generator = np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.05)
    started, total = time.time(), 0.0
    for step in range(STEPS):
        share = min(step / 100, 1.0) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / STEPS)))
        for group in optimizer.param_groups:
            group["lr"] = RATE * share
        starts = generator.integers(0, len(ids) - LENGTH - 1, BATCH)
        batch = torch.from_numpy(np.stack([ids[s : s + LENGTH + 1] for s in starts]))
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        if step % 100 == 99:
            print(f"step {step + 1}: {total / 100:.4f} nats, {time.time() - started:.0f} s", flush=True)
            total = 0.0


# --- export -----------------------------------------------------------------------------------------------------------


def windows(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [windows, LENGTH + 1]."""
    count = (len(ids) - 1) // LENGTH
    return np.stack([ids[i * LENGTH : (i + 1) * LENGTH + 1] for i in range(count)])


def likelihood(file: Path, rows: NDArray[np.int64]) -> float:
    """Mean log-likelihood in nats per token of the exported model, on whole windows with an empty cache."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    ids, targets = rows[:, :-1], rows[:, 1:]
    empty = np.zeros((len(ids), SHAPE.pairs, 0, SHAPE.head), np.float32)
    feeds = {i.name: empty for i in session.get_inputs()}
    places = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    feeds |= {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.ascontiguousarray(places)}
    logits = torch.from_numpy(session.run(["logits"], feeds)[0])
    return -F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten()).item()


def main(folder: Path) -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    texts = sources()
    tokenizer = trained_tokenizer(texts["train"])
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {}
    for part in ("calib", "test"):
        kept = excerpt(texts[part])
        (folder / f"{part}.txt").write_text(kept, encoding="utf-8", newline="\n")
        ids[part] = np.asarray(tokenizer.encode(kept).ids, np.int64)
    train_ids = np.concatenate([np.asarray(tokenizer.encode(t).ids, np.int64) for t in texts["train"].split("\n\n\n")])
    print(f"{len(texts['train'])} characters, {len(train_ids)} tokens; test {len(ids['test'])} tokens", flush=True)
    model = Decoder()
    train(model, train_ids)
    file = folder / "decoder.onnx"
    onnx.save(decoder(SHAPE, model.weights()), file)
    rows = windows(ids["test"])
    with torch.no_grad():
        logits = model(torch.from_numpy(rows[:, :-1]))
        own = -F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(rows[:, 1:]).flatten()).item()
    print(f"{file.stat().st_size} bytes; {own:.4f} nats per token in PyTorch, {likelihood(file, rows):.4f} exported")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "decoder")
