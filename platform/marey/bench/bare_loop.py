"""What Marey's overhead is measured against: a training loop as one writes it by hand, and nothing around it.

Run as a module in every worker, ``python -m marey.bench.bare_loop SETTINGS STEPS RECORD``, with torchrun's variables
where there are several. It trains what the settings say for so many steps on the batches that Marey would take, and
writes a line for each: when it ended, and its loss.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from torch import distributed, nn

from marey.clips import loader
from marey.clips.table import open_table
from marey.config import read_yaml
from marey.engine.optim import schedule as optim_schedule
from marey.experiment import Training, assemble


def train(training: Training, steps: int, record: Path) -> None:
    """The loop. Rank r writes ``<record>.<r>``, for each step ``{"step", "time" (seconds), "loss" (of its clips)}``."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        distributed.init_process_group("gloo")
    assert training.table is not None
    order = assemble.feed_order(training, open_table(training.table), world)
    torch.manual_seed(training.seed)
    recipe = training.recipe.build(training.backbone, training.repeats).train()
    model: nn.Module = nn.parallel.DistributedDataParallel(recipe) if world > 1 else recipe
    matrices = [one for one in model.parameters() if one.ndim > 1]
    vectors = [one for one in model.parameters() if one.ndim <= 1]
    optim = training.optim
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": optim.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=optim.base_lr, betas=optim.betas, eps=optim.eps, fused=True,
    )  # fmt: skip
    schedule = optim_schedule(optim, training.batch, steps, order.plan.epoch_length / training.batch)
    lines = []
    for step, batch in enumerate(loader.feed(order, 0, steps, rank, world), 1):
        loss = model(batch).loss
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr(step - 1)
        optimizer.step()
        optimizer.zero_grad()
        lines.append({"step": step, "loss": float(loss), "time": time.time()})
    Path(f"{record}.{rank}").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    _, settings, count, place = sys.argv
    train(Training(**read_yaml(Path(settings))), int(count), Path(place))
