"""A grown network as an ONNX file, for programs without PyTorch; needs the `onnx` extra."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from torch import nn

from esper.growth.tasks.task import Task

ONNX_NAME: Final = "model.onnx"
#: Names of the input and the output in the file.
INPUT, OUTPUT = "inputs", "logits"
#: Samples that ONNX Runtime runs at a time.
_CHUNK = 500


def write_onnx(module: nn.Module, task: Task, directory: Path) -> torch.Tensor:
    """Write a network as `model.onnx`, and run the file on the test part in ONNX Runtime.

    The file takes any number of samples. Its input is float32 `[B, ...]`, like the raw samples of
    the task; float64 where float32 would lose digits that matter, and int64 for symbols.

    Args:
        module: the network, which takes raw samples.
        task: the task that it grew on.
        directory: its folder.

    Returns:
        The logits of ONNX Runtime for the test part: `[n, classes]`, float32.

    Raises:
        OSError: the file cannot be written.
    """
    samples = _as_input(task)
    path = directory / ONNX_NAME
    # Two samples: the exporter takes a batch of one for a constant.
    example = (samples[:1].expand(2, *samples.shape[1:]).contiguous(),)
    with _quiet():
        program = torch.onnx.export(
            module,
            example,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)
    return _run(path, samples)


def _as_input(task: Task) -> torch.Tensor:
    """Return the raw samples of the test part in the type that the file takes."""
    samples = task.raw(task.test)
    if task.vocabulary:
        return samples.long()
    scale = task.standardisation
    return samples.double() if scale is not None and scale.needs_float64 else samples.float()


def _run(path: Path, samples: torch.Tensor) -> torch.Tensor:
    """Return the logits that ONNX Runtime computes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    parts = samples.split(_CHUNK)
    logits = [torch.from_numpy(session.run([OUTPUT], {INPUT: each.numpy()})[0]) for each in parts]
    return torch.cat(logits)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the exporter's notes about optimisations that it did not make."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
