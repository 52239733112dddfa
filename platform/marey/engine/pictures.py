"""Hooks that draw: reconstructions of masked clips, the confusion matrix, and clips that were mistaken."""

import numpy as np

from marey.clips.batch import Batch
from marey.clips.loader import FeedOrder
from marey.clips.plan import Sample
from marey.engine.evaluate import Scores
from marey.engine.events import Evaluated, Event, Stepped
from marey.engine.hooks import LogConfig
from marey.recipes import metrics
from marey.tracking.base import Tracker
from marey.tracking.judgements import confusion_picture, mistakes_picture
from marey.tracking.pictures import reconstruction_strip

MOST_MISTAKES = 8  # clips in one picture


class Reconstructions:
    """Strips of original, masked and reconstructed frames. Every worker runs forward; rank 0 draws.

    The clip is sample 0 of the plan, masked in the same way each time, also after a restart: what changes between
    two pictures is the model.
    """

    def __init__(self, tracker: Tracker | None, config: LogConfig, order: FeedOrder) -> None:
        self.tracker = tracker
        self.config = config
        self.order = order
        self.shown: Batch | None = None

    def on(self, event: Event) -> None:
        """See `Hook.on`."""
        if not isinstance(event, Stepped):
            return
        clock = event.clock
        if clock.done or clock.step == 1 or clock.step % self.config.pictures_every == 0:
            images = event.strategy.forward(self._clip(), "picture").metrics
            if self.tracker is not None:
                original, masked, reconstructed = (
                    images[name].cpu().numpy() for name in ("original", "masked", "reconstructed")
                )
                strip = reconstruction_strip(original, masked, reconstructed)
                self.tracker.picture(clock.step, "reconstruction", strip)

    def _clip(self) -> Batch:
        if self.shown is None:
            sample = self.order.plan.sample(0)
            self.shown = self.order.pipeline.batch(self.order.table.read([sample.row]), [sample])
        return self.shown


class ValidationPictures:
    """After each validation: the confusion matrix, and the mistaken clips of which the model was surest."""

    def __init__(self, tracker: Tracker | None, validation: FeedOrder, classes: list[str]) -> None:
        self.tracker = tracker
        self.validation = validation
        self.classes = classes

    def on(self, event: Event) -> None:
        """See `Hook.on`."""
        if not isinstance(event, Evaluated) or self.tracker is None or event.scores is None:
            return
        for key, picture in judgement_pictures(event.scores, self.validation, self.classes).items():
            self.tracker.picture(event.clock.step, key, picture)


def judgement_pictures(scores: Scores, order: FeedOrder, classes: list[str]) -> dict[str, np.ndarray]:
    """ "confusion", and "mistakes" if there are any: uint8 [H, W, 3]. ``order``: what was scored."""
    confusion = metrics.confusion(scores.scores, scores.labels)
    pictures = {"confusion": confusion_picture(confusion, classes)}
    if worst := surest_mistakes(scores, MOST_MISTAKES):
        clips = [first_clip(order, scores.source_ids[one]) for one in worst]
        pictures["mistakes"] = mistakes_picture(clips, [_caption(scores, one, classes) for one in worst])
    return pictures


def surest_mistakes(scores: Scores, most: int) -> list[int]:
    """Places of the wrongly classified sources with the highest probability for the wrong class, surest first."""
    predicted = scores.scores.argmax(1)
    wrong = np.flatnonzero(predicted != scores.labels)
    sure = scores.scores[wrong, predicted[wrong]]
    return [int(wrong[place]) for place in np.argsort(-sure, kind="stable")[:most]]


def first_clip(order: FeedOrder, source_id: str) -> np.ndarray:
    """The first view of the first row of a source, uint8 [T, H, W, C]."""
    row = order.table.column("source_id").index(source_id)
    sample = Sample(0, row, 0, 0, view=0)
    return order.pipeline.examples(order.table.read([row])[0], [sample])[0].numpy()


def _caption(scores: Scores, place: int, classes: list[str]) -> tuple[str, str]:
    guess = int(scores.scores[place].argmax())
    return classes[scores.labels[place]], f"{classes[guess]} {scores.scores[place, guess]:.2f}"
