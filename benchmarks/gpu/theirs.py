"""The other side: the same step in PyTorch (torch.compile, channels-last, autocast), as a worker of `turns`.

The loss is lightly's NTXentLoss, in float32 as this library's; where lightly is missing, the same formula.
"""

import time
from collections.abc import Callable
from typing import Any

from benchmarks.gpu import turns
from benchmarks.gpu.ours import Case
from benchmarks.train_step import TEMPERATURE


def ntxent() -> tuple[str, Callable[..., Any]]:
    """Where the loss is from, and the loss of two sets of embeddings `[b d]`."""
    try:
        from benchmarks._torchvision_cpu import import_torchvision

        import_torchvision()  # lightly imports it
        from lightly.loss import NTXentLoss

        return "lightly", NTXentLoss(temperature=TEMPERATURE)
    except ImportError:
        return "own formula, since lightly is not installed", own_ntxent


def own_ntxent(first: Any, second: Any) -> Any:
    """Cross-entropy of an embedding's other view among all other embeddings, by cosine similarity."""
    import torch
    from torch.nn import functional

    z = functional.normalize(torch.cat([first, second]), dim=1)
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(float("-inf"))
    return functional.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(first)))


def prepare(case: Case) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """As `ours.prepare`."""
    began = time.perf_counter()
    import torch

    from benchmarks import _torch_networks

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True  # XLA tries convolutions out as well
    torch.manual_seed(0)
    model = _torch_networks.with_projector(case.network, 3, size=case.size)
    model = model.to(device=device, memory_format=torch.channels_last)
    if case.network == "vit_s":
        optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, weight_decay=1e-4, momentum=0.9, fused=True)
    source, criterion = ntxent()
    x = torch.randn(2 * case.batch, 3, case.size, case.size, device=device).to(memory_format=torch.channels_last)
    compiled = torch.compile(model)
    half = case.dtype == "bfloat16"
    facts = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "platform": {"cuda": "gpu"}.get(device.type, device.type),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss_from": source,
        "started_s": time.perf_counter() - began,
    }

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def run(count: int) -> dict[str, Any]:
        wait()
        began = time.perf_counter()
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
                embedding = compiled(x)
            loss = criterion(*embedding.float().chunk(2))
            loss.backward()
            optimizer.step()
        wait()
        seconds = time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
        return {"seconds": seconds, "loss": float(loss.detach()), "peak_bytes": peak}

    began = time.perf_counter()
    run(1)
    facts["compile_s"] = time.perf_counter() - began  # the first step, which compiles
    run(2)
    facts["step_s"] = run(2)["seconds"] / 2
    return facts, run


if __name__ == "__main__":
    turns.serve(lambda: prepare(Case.from_command()))
