"""Batches that make the loss not finite, or large: those that hold certain samples, on whichever worker they are."""

from collections.abc import Iterable

from marey.clips.loader import FeedOrder
from marey.recipes.base import Recipe, Step


def keys_of(order: FeedOrder, places: Iterable[tuple[int, int]], world: int = 1) -> set[int]:
    """The key of the last sample of each (step from 1, rank)."""
    return {order.plan.slice(step - 1, order.batch, rank, world)[-1].key for step, rank in places}


def poison(recipe: Recipe, keys: set[int], factor: float = float("nan")) -> Recipe:
    """Multiply the loss of passes that hold one of ``keys`` by ``factor``."""
    forward = recipe.forward

    def poisoned(batch, mode="train") -> Step:
        step = forward(batch, mode=mode)
        bad = mode == "train" and not keys.isdisjoint(batch.key.tolist())
        return Step(step.loss * factor, step.metrics) if bad else step

    recipe.forward = poisoned
    return recipe
