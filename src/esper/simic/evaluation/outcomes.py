"""The results of a contestant of an evaluation, by episode."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outcomes:
    """The results of one contestant by episode; all arrays `[E]`.

    A network that is not finite has 0 as accuracies and score.

    Attributes:
        what: description of the contestant, such as its rule or architecture.
        test_accuracy, validation_accuracy: accuracy of the finished networks.
        score: validation accuracy minus the price of parameters beyond the host's.
        parameters: number of parameters of the finished networks.
        multiply_adds: cost of training, see `esper.growth.hosts.training_cost`.
    """

    what: str
    test_accuracy: np.ndarray
    validation_accuracy: np.ndarray
    score: np.ndarray
    parameters: np.ndarray
    multiply_adds: np.ndarray
