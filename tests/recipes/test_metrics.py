"""Metrics against scikit-learn's, and on cases done by hand."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from marey.recipes import metrics


@pytest.fixture
def judged():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, 400)
    scores = rng.dirichlet(np.ones(9), 400) + 0.3 * np.eye(9)[labels]
    return scores / scores.sum(1, keepdims=True), labels


def test_accuracies_and_loss_are_scikit_learns(judged):
    scores, labels = judged
    found = metrics.summarise(scores, labels)
    assert found["top1"] == pytest.approx(sklearn_metrics.accuracy_score(labels, scores.argmax(1)))
    assert found["top5"] == pytest.approx(sklearn_metrics.top_k_accuracy_score(labels, scores, k=5))
    assert found["mean_class_accuracy"] == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(labels, scores.argmax(1))
    )
    assert found["loss"] == pytest.approx(sklearn_metrics.log_loss(labels, scores))
    assert (metrics.confusion(scores, labels) == sklearn_metrics.confusion_matrix(labels, scores.argmax(1))).all()


def test_a_class_that_does_not_occur_does_not_count():
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.6, 0.4, 0.0]])
    labels = np.array([0, 1, 1])
    assert metrics.mean_class_accuracy(scores, labels) == pytest.approx((1 + 0.5) / 2)
    assert "top5" not in metrics.summarise(scores, labels)


def test_of_equal_scores_the_lower_class_comes_first():
    scores = np.full((2, 4), 0.25)
    assert metrics.ranks(scores, np.array([0, 3])).tolist() == [0, 3]
    assert metrics.top_k(scores, np.array([0, 3]), 3) == 0.5


def test_views_and_segments_of_a_source_are_averaged_in_order_of_appearance():
    ids, means = metrics.by_source(["b", "a", "b"], np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]))
    assert ids == ["b", "a"]
    assert means.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert means.dtype == np.float32


@pytest.mark.parametrize(("correct", "total", "low", "high"), [(0, 10, 0.0, 0.2775), (81, 263, 0.2553, 0.3662)])
def test_wilsons_interval_is_that_of_the_books(correct, total, low, high):
    assert metrics.wilson(correct, total) == pytest.approx((low, high), abs=1e-4)


def test_intervals_hold_the_figure_and_shrink_with_more_samples(judged):
    scores, labels = judged
    few, all_ = metrics.intervals(scores[:50], labels[:50]), metrics.intervals(scores, labels)
    figures = metrics.summarise(scores, labels)
    for name in ("top1", "top5", "mean_class_accuracy"):
        low, high = all_[name]
        assert low <= figures[name] <= high
        assert high - low < few[name][1] - few[name][0]
    assert metrics.intervals(scores, labels) == all_
