"""Claims about k-NN: cosine, plain majority, and ties that fall the same way everywhere."""

from __future__ import annotations

import numpy as np

from usjepa.train.probe.knn import knn_predict


def test_neighbours_are_nearest_by_angle_not_by_distance() -> None:
    train = np.array([[100, 0], [0, 1], [90, 1], [0.1, 2]], np.float32)
    labels = np.array([0, 1, 0, 1])
    assert knn_predict(train, labels, np.array([[1, 0.1], [0.1, 50]], np.float32), 2, 2).tolist() == [0, 1]


def test_it_agrees_with_scikit_learn_where_no_votes_tie() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((200, 12)).astype(np.float32), rng.integers(0, 2, 200)
    queries = rng.standard_normal((1500, 12)).astype(np.float32)
    judge = KNeighborsClassifier(7, metric="cosine", algorithm="brute").fit(x, y)
    assert (knn_predict(x, y, queries, 7, 2) == judge.predict(queries)).all()


def test_equal_votes_go_to_the_class_of_the_nearest_neighbour() -> None:
    train = np.array([[1, 0.3], [1, 0.1], [1, 0.2], [1, 0.0]], np.float32)
    query = np.array([[1, 0.0]], np.float32)
    assert knn_predict(train, np.array([0, 0, 1, 1]), query, 4, 2).tolist() == [1]
    assert knn_predict(train, np.array([1, 1, 0, 0]), query, 4, 2).tolist() == [0]


def test_more_neighbours_than_training_frames_means_all_of_them() -> None:
    train = np.eye(3, dtype=np.float32)
    assert knn_predict(train, np.array([1, 1, 0]), train, 20, 2).tolist() == [1, 1, 1]


def test_a_feature_vector_of_zeros_is_no_fault() -> None:
    train = np.array([[0, 0], [1, 0]], np.float32)
    assert knn_predict(train, np.array([0, 1]), np.zeros((1, 2), np.float32), 1, 2).tolist() == [0]
