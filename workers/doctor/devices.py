"""Checks of this machine's GPUs: does torch see them, do they compute, and what is free."""

import shutil
from collections.abc import Iterator

import torch

from pixellm.kernel_choice import why_no_kernels
from workers.doctor.findings import Finding, failure, ok, skipped, warning

GIB = 2**30
RELEASED_WIDTH = 128
"""Of the heads of PixelLM-7B and PixelLM-13B."""
BUSY = 0.5
"""Share of a GPU's memory; where others have more, a model of its size may not fit."""


def check_devices() -> Iterator[Finding]:
    """What the GPUs of this machine are good for; on a cluster the workers' machines count."""
    if not torch.cuda.is_available():
        yield _without_gpu()
        return
    yield ok("devices.cuda", f"{torch.cuda.device_count()} GPUs, CUDA {torch.version.cuda}")
    for number in range(torch.cuda.device_count()):
        yield _check_gpu(number)
    yield _check_kernels()


def _without_gpu() -> Finding:
    name = "devices.cuda"
    if shutil.which("nvidia-smi") is None:
        return skipped(name, "no GPU here: replicas on this machine compute in fp32 on its CPUs")
    if torch.version.cuda is None:
        seen = f"there is a driver, and torch {torch.__version__} is built without CUDA"
        return failure(name, seen, "install a torch build with CUDA: make setup TORCH=...")
    return failure(
        name,
        f"there is a driver, and torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU",
        "run nvidia-smi: is the driver new enough; is CUDA_VISIBLE_DEVICES empty; in a container,"
        " were GPUs given to it",
    )


def _check_kernels() -> Finding:
    name = "devices.kernels"
    try:
        why = why_no_kernels(torch.device("cuda"), RELEASED_WIDTH, torch.bfloat16)
    except (RuntimeError, MemoryError) as error:
        return warning(name, f"they could not be tried: {error}", "free the GPU's memory")
    if why is None:
        return ok(name, "Triton compiles the language model's kernels")
    slower = "give it what it wants, or let the model run slower, with torch's operations alone"
    return warning(name, why, slower)


def _check_gpu(number: int) -> Finding:
    """A small product says more than a name: a GPU that fell off the bus still has one."""
    name, what = f"devices.gpu{number}", torch.cuda.get_device_name(number)
    try:
        ones = torch.ones(64, 64, device=f"cuda:{number}")
        if float((ones @ ones).sum()) != 64**3:
            return failure(name, f"{what} computes wrongly", "take it out of service")
        free, total = torch.cuda.mem_get_info(number)
    except RuntimeError as error:
        return failure(name, f"{what} doesn't compute: {error}", "nvidia-smi may say why; reset it")
    seen = f"{what}, {free / GIB:,.1f} of {total / GIB:,.1f} GiB free"
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return warning(name, f"{seen}, no bf16", "give --replica.precision fp32, or a newer GPU")
    if free < BUSY * total:
        return warning(name, f"{seen}, bf16", "others use it: nvidia-smi says who")
    return ok(name, f"{seen}, bf16")
