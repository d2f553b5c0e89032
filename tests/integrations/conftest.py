"""Settings that the tests of one library share."""

import logging

import pytest
import torch


@pytest.fixture
def quiet_and_alone():
    """Train with one thread and without warnings in the log."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)
