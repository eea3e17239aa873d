"""Partitions by thresholds, worked out by hand."""

import numpy as np

from moejax.theory.covariance_blocks import num_covariances, numbered, partition, partitions, together

# Correlations: first with second 0.6, second with third 0.4, first with third 0.1; variances 1, 4, 9.
CORRELATION = np.array([[1.0, 0.6, 0.1], [0.6, 1.0, 0.4], [0.1, 0.4, 1.0]])
COVARIANCE = CORRELATION * np.outer([1, 2, 3], [1, 2, 3])


def test_a_chain_of_pairs_joins_and_scales_do_not_matter():
    np.testing.assert_array_equal(partition(COVARIANCE, 0.3), [0, 0, 0])  # first and third by way of the second
    np.testing.assert_array_equal(partition(COVARIANCE, 0.5), [0, 0, 1])
    np.testing.assert_array_equal(partition(-COVARIANCE + 2 * np.diag(np.diag(COVARIANCE)), 0.5), [0, 0, 1])
    np.testing.assert_array_equal(partition(COVARIANCE, 0.7), [0, 1, 2])


def test_one_threshold_rises_for_all_experts():
    other = np.eye(3)
    other[0, 2] = other[2, 0] = 0.5
    # 0: all of both together is the first model. At 0 (the second expert's zeros) its second variable is alone; at 0.4 the
    # first expert's third; at 0.5 the second expert's pair; at 0.6 the last pair. 0.1 changes nothing.
    expected = [
        [[0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 1, 0]],
        [[0, 0, 1], [0, 1, 0]],
        [[0, 0, 1], [0, 1, 2]],
        [[0, 1, 2], [0, 1, 2]],
    ]
    np.testing.assert_array_equal(partitions(np.stack([COVARIANCE, other])), expected)


def test_blocks_are_numbered_by_their_first_variables_and_counted():
    blocks = numbered(np.array([7, 2, 7, 0]))
    np.testing.assert_array_equal(blocks, [0, 1, 0, 2])
    np.testing.assert_array_equal(together(blocks)[0], [1, 0, 1, 0])
    assert num_covariances(blocks) == 4 + 1  # variances, and the one pair
    assert num_covariances(np.zeros(4, int)) == 10
