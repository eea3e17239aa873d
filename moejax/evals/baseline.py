"""The line that every model must pass: logistic regression on average-pooled pixels.

Source: ours (multinomial logistic regression of scikit-learn, L-BFGS, C = 1).
"""

import warnings
from typing import Any

import numpy as np

# Measured once with `logistic_regression(build('patchwork'))`: fitted on the training split, scored on
# the test split of 2,000 + 669 + 360 pictures. Fitting takes about a minute on one core.
PATCHWORK = {"all": 0.7504, "garments": 0.8060, "pictograms": 0.4753, "digits": 0.9528}


def logistic_regression(
    dataset: Any, *, split: str = "test", side: int = 8, max_steps: int = 300, max_train: int | None = None
) -> dict[str, float]:
    """Accuracy on `split`: 'all', and every domain, after training on the training split.

    dataset: a `moejax.data.Dataset`. side: pictures are averaged over a grid of side x side cells per channel.
    max_steps: of L-BFGS; 300 are not full convergence on patchwork, and the recorded figures hold for 300.
    max_train: at most so many training pictures, evenly spread.
    """
    from sklearn.exceptions import ConvergenceWarning  # slow to import
    from sklearn.linear_model import LogisticRegression

    images, labels = dataset.examples("train")
    if max_train is not None and max_train < len(images):
        chosen = np.arange(max_train) * len(images) // max_train
        images, labels = images[chosen], labels[chosen]
    held_images, held_labels = dataset.examples(split)
    model = LogisticRegression(max_iter=max_steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(pooled_pixels(images, side), labels)
    correct = model.predict(pooled_pixels(held_images, side)) == held_labels
    domains = np.asarray(dataset.info.class_domains)[held_labels]
    accuracy = {"all": float(correct.mean())}
    for index, name in enumerate(dataset.info.domain_names):
        if len(dataset.info.domain_names) > 1 and (domains == index).any():
            accuracy[name] = float(correct[domains == index].mean())
    return accuracy


def pooled_pixels(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 [n h w c] -> float64 [n side*side*c] in [0, 1]: means over cells; borders that do not divide are cut off."""
    count, height, width, channels = images.shape
    rows, columns = height // side, width // side
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    cut = images[:, top : top + rows * side, left : left + columns * side]
    cells = cut.reshape(count, side, rows, side, columns, channels)
    return cells.mean(axis=(2, 4)).reshape(count, -1) / 255
