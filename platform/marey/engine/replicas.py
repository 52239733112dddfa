"""Whether the workers still hold the same weights, bit for bit: what data-parallel training takes for granted.

A bit that flipped in one worker's memory, or code that changed the weights of one worker only, goes unnoticed
otherwise: losses fall on, and what is saved is rank 0's.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from marey.engine.strategy import Strategy
from marey.errors import TrainingError

CHUNK = 2**20  # elements that are summed at a time: bounds the memory it takes


def check(strategy: Strategy, step: int) -> None:
    """Compare checksums of what all workers should hold alike. Collective.

    Raises `TrainingError` on every worker, which names the ranks that differ from most, and the first such parameter.
    """
    held = strategy.replicas()
    if strategy.world == 1 or not held:
        return
    mine = torch.stack([checksum(tensor) for tensor in held.values()])
    everyone = [torch.empty_like(mine) for _ in range(strategy.world)]
    distributed.all_gather(everyone, mine)
    if difference := _difference(list(held), [one.tolist() for one in everyone]):
        raise TrainingError(
            f"step {step}: {difference}. Workers that train together must hold the same weights, so memory, a GPU or "
            "the network between them is defective, or code changes the weights of one worker only. Training stops and "
            "keeps the checkpoints before; those since the last check (engine.check_replicas) may be of wrong weights"
        )


@torch.no_grad()
def checksum(tensor: Tensor) -> Tensor:
    """A 64-bit sum of the bits of ``tensor``, int64 []; every bit counts, and so does where it stands."""
    flat = tensor.detach().contiguous().reshape(-1)
    words = flat.view(torch.int32 if flat.element_size() % 4 == 0 else torch.uint8)
    # Odd, so that no change of one word is lost in the sum modulo 2^64.
    weights = torch.arange(1, 2 * min(CHUNK, words.numel()) + 1, 2, device=words.device)
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for part in words.split(CHUNK):
        total = total * 1_000_003 + (part.long() * weights[: part.numel()]).sum()
    return total


def _difference(names: Sequence[str], sums: Sequence[Sequence[int]]) -> str:
    """Who differs, and where first; empty if all are alike. ``sums``: by rank, one checksum a name."""
    counts = Counter(map(tuple, sums))
    if len(counts) == 1:
        return ""
    (usual, agreeing), second = counts.most_common(2)
    first = next(place for place in range(len(names)) if len({one[place] for one in sums}) > 1)
    where = f"the first parameter that differs is {names[first]}"
    if agreeing == second[1]:
        return f"the weights of ranks {_listed(range(len(sums)))} differ, and no majority says which are wrong; {where}"
    odd = [rank for rank, one in enumerate(sums) if tuple(one) != usual]
    return f"the weights of rank {_listed(odd)} differ from those of the {agreeing} others that agree; {where}"


def _listed(ranks: Sequence[int]) -> str:
    *others, last = map(str, ranks)
    return f"{', '.join(others)} and {last}" if others else last
