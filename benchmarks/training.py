"""Speed of training and inference, compared with the same networks in PyTorch and with the peak speed of the CPU.

    pip install '.[benchmarks]'
    python benchmarks/training.py [MODEL ...] [--sizes 128 240] [--precision mixed]

The batch has 16 images in float32; the number of threads is the default. ``--precision mixed`` computes the layers of
TensorFlow in bfloat16, those of PyTorch stay float32. The values are those of the fastest of several runs, with each
library in a separate process. Training steps are measured without the corruption, which is not implemented in PyTorch;
the last column includes it. PyTorch runs eagerly in both memory formats, and the faster one is used; if it is not
installed, only the speed of TensorFlow is printed. GFLOP/s are those of the convolutions, counted by PyTorch. The peak
is the speed of the product of two 2048 x 2048 float32 matrices in TensorFlow.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

from brainseg_tf.options import Precision

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BATCH = 16


def rate(step: Callable[[], Any], seconds: float) -> float:
    """Images per second of the fastest of three runs, each of about this duration."""
    step()
    start = time.perf_counter()
    step()
    count = max(1, round(seconds / (time.perf_counter() - start)))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(count):
            step()
        best = min(best, (time.perf_counter() - start) / count)
    return BATCH / best


def tensorflow_rates(name: str, size: int, seconds: float, precision: Precision) -> dict[str, float]:
    """Images per second of the network of this package, and the peak speed in floating-point operations per second."""
    import numpy as np
    import tensorflow as tf

    from brainseg_tf.architectures import ARCHITECTURES
    from brainseg_tf.corruption import Task
    from brainseg_tf.training import fit as training

    model = training.compiled(replace(ARCHITECTURES[name].recipe, precision=precision), 100)
    images = tf.constant(np.random.default_rng(0).random((BATCH, size, size, 1)), tf.float32)
    seed = tf.constant([1, 2])
    with_corruption = tf.function(model.training_losses)
    results = {"corrupted": rate(lambda: with_corruption((images, seed)), seconds)}
    model.corruption = lambda clean, seed: Task(clean, clean, clean[..., 0])
    without_corruption = tf.function(model.training_losses)
    results["train"] = rate(lambda: without_corruption((images, seed)), seconds)
    infer = tf.function(model.outputs)
    results["infer"] = rate(lambda: infer(images), seconds)
    matrix = tf.random.normal((2048, 2048))
    product = tf.function(lambda: matrix @ matrix)
    results["peak"] = rate(lambda: product(), seconds) / BATCH * 2 * 2048**3
    return results


def pytorch_rates(name: str, size: int, seconds: float) -> dict[str, float]:
    """Images per second of the same network in PyTorch, and floating-point operations per image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from brainseg_tf import models

    results: dict[str, float] = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        network = pytorch_network(name).to(memory_format=layout)
        size += -size % models.create(name, 1).stride  # The networks of the package pad in the same way.
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        images = torch.rand(BATCH, 1, size, size).to(memory_format=layout)

        def train(network: Any = network, optimizer: Any = optimizer, images: Any = images) -> None:
            optimizer.zero_grad(set_to_none=True)
            network.loss(images).backward()
            optimizer.step()

        def infer(network: Any = network, images: Any = images) -> None:
            with torch.inference_mode():
                network(images)

        network.train()
        results["train"] = max(results.get("train", 0), rate(train, seconds))
        with FlopCounterMode(display=False) as counter:
            train()
        results["train_flops"] = counter.get_total_flops() / BATCH
        network.eval()
        results["infer"] = max(results.get("infer", 0), rate(infer, seconds))
        with FlopCounterMode(display=False) as counter:
            infer()
        results["infer_flops"] = counter.get_total_flops() / BATCH
    return results


def pytorch_network(name: str) -> Any:
    """A network with the same layers in PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional

    from brainseg_tf.models import dae
    from brainseg_tf.models.cvae import CVAE
    from brainseg_tf.models.dcvae import DilatedCVAE
    from brainseg_tf.models.layers import Conv, mirrored

    class Cropped(nn.Module):
        """A transposed convolution with an even kernel size, whose output has one row and one column too many."""

        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.layer(inputs)[..., : inputs.shape[-2], : inputs.shape[-1]]

    def convolution(line: Conv, channels: int) -> nn.Module:
        if line.strides == 1:
            return nn.Conv2d(channels, line.filters, line.kernel_size, padding="same", dilation=line.dilation_rate)
        reach = line.dilation_rate * (line.kernel_size - 1)
        return nn.Conv2d(channels, line.filters, line.kernel_size, line.strides, reach // 2, line.dilation_rate)

    def transposed(line: Conv, channels: int) -> nn.Module:
        reach = line.dilation_rate * (line.kernel_size - 1)
        before = reach // 2
        after = line.strides - 1 + 2 * before - reach
        layer = nn.ConvTranspose2d(
            channels, line.filters, line.kernel_size, line.strides, before, max(after, 0), dilation=line.dilation_rate
        )
        return Cropped(layer) if after < 0 else layer

    def chain(lines: tuple[Conv, ...], channels: int, make: Callable[..., nn.Module], norm_first: bool) -> list[Any]:
        layers: list[nn.Module] = []
        for line in lines:
            after = [nn.LeakyReLU(0.3), nn.BatchNorm2d(line.filters)]
            layers += [make(line, channels), *(after[::-1] if norm_first else after)]
            channels = line.filters
        return layers

    class Context(nn.Module):
        """One encoder and one decoder."""

        def __init__(self) -> None:
            super().__init__()
            layers, channels, lines = [], 1, []
            for group in dae.TABLE:
                layers += [*chain(group, channels, convolution, True), nn.MaxPool2d(2)]
                channels = group[-1].filters
                lines += [*group[:-1], Conv(group[-1].kernel_size, 2, 1, channels)]
            back = mirrored(tuple(lines), 1)
            self.network = nn.Sequential(*layers, *chain(back, channels, transposed, True)[:-2])

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images)

        def loss(self, images: torch.Tensor) -> torch.Tensor:
            return functional.mse_loss(self(images), images)

    class Variational(nn.Module):
        """Encoder, two heads, decoder."""

        def __init__(self, table: tuple[Conv, ...], head: Conv) -> None:
            super().__init__()
            self.encoder = nn.Sequential(*chain(table, 1, convolution, False))
            self.mean, self.stddev = (convolution(head, table[-1].filters) for _ in range(2))
            self.decoder = nn.Sequential(*chain(mirrored((*table, head), 1), head.filters, transposed, False)[:-2])

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.decoder(self.mean(self.encoder(images)))

        def loss(self, images: torch.Tensor) -> torch.Tensor:
            features = self.encoder(images)
            mean, stddev = self.mean(features), functional.softplus(self.stddev(features)) + 1e-4
            decoded = self.decoder(mean + stddev * torch.randn_like(stddev))
            kl = 0.5 * (mean**2 + stddev**2 - 1 - 2 * torch.log(stddev)).sum() / images.numel()
            # The context term uses corrupted images, which here are the images themselves.
            return functional.mse_loss(decoded, images) + functional.mse_loss(self(images), images) + 0.01 * kl

    if name == "dae":
        return Context()
    kind = {"cvae": CVAE, "dcvae": DilatedCVAE}[name]
    return Variational(kind.TABLE, kind.HEAD)


def measure(library: str, name: str, size: int, seconds: float, precision: Precision) -> dict[str, float]:
    """Runs the measurement of one library in a separate process."""
    command = [sys.executable, __file__, name, "--one", library, "--sizes", str(size), "--seconds", str(seconds)]
    command += ["--precision", precision]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def comparison(tensorflow: dict[str, float], pytorch: dict[str, float], stage: str) -> str:
    """The cells of the table that need PyTorch, which also counts the operations."""
    speed = tensorflow[stage] * pytorch[f"{stage}_flops"]
    ratio = tensorflow[stage] / pytorch[stage]
    return f" {pytorch[stage]:.1f} | {ratio:.2f} | {speed / 1e9:.1f} | {speed / tensorflow['peak']:.0%} "


def main() -> None:
    """Runs the measurements and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help="cvae, dcvae, dae")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 240])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32", help="of TensorFlow's layers")
    parser.add_argument("--one", choices=["tensorflow", "pytorch"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        arguments = (given.models[0], given.sizes[0], given.seconds)
        rates = (
            tensorflow_rates(*arguments, given.precision) if given.one == "tensorflow" else pytorch_rates(*arguments)
        )
        print(json.dumps(rates))
        return
    with_pytorch = importlib.util.find_spec("torch") is not None
    print("| model | size | stage | images/s | PyTorch | ratio | GFLOP/s | share of peak | with corruption |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in given.models or ["cvae", "dcvae", "dae"]:
        for size in given.sizes:
            tensorflow = measure("tensorflow", name, size, given.seconds, given.precision)
            pytorch = measure("pytorch", name, size, given.seconds, given.precision) if with_pytorch else None
            for stage in ("train", "infer"):
                corrupted = f"{tensorflow['corrupted']:.1f}" if stage == "train" else ""
                compared = " | | |" if pytorch is None else comparison(tensorflow, pytorch, stage)
                print(f"| {name} | {size} | {stage} | {tensorflow[stage]:.1f} |{compared}| {corrupted} |", flush=True)


if __name__ == "__main__":
    main()
