"""Adam over parts of different age, against one torch.optim.Adam for each part."""

import numpy as np
import torch

from esper.growth.kernel.adam import AdamSettings, adam_step_, step_coefficients


def test_every_part_moves_as_by_an_adam_of_its_own() -> None:
    settings = AdamSettings(learning_rate=3e-2)
    generator = torch.Generator().manual_seed(0)
    sizes, births, steps = [5, 3, 4], [0, 2, 7], 12
    start = torch.randn(12, generator=generator, dtype=torch.float64)
    gradients = torch.randn(steps, 12, generator=generator, dtype=torch.float64)
    gradients[:, 0] = 0.0  # a parameter that is never used

    parts = [torch.nn.Parameter(part.clone()) for part in start.split(sizes)]
    optimizers = [torch.optim.Adam([part], lr=3e-2) for part in parts]
    state = torch.stack([start, torch.zeros(12).double(), torch.zeros(12).double()])
    owners = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    for step in range(steps):
        alive = [step >= birth for birth in births]
        clocks = np.array([max(0, step - birth) for birth in births])
        tables = step_coefficients(settings, clocks, 1)
        length, epsilon = (torch.from_numpy(table)[0][owners] for table in tables)
        used = torch.tensor(alive)[owners]
        piece = state[:, used]
        adam_step_(piece, gradients[step, used], length[used], epsilon[used], settings)
        state[:, used] = piece
        for part, optimizer, gradient, lives in zip(
            parts, optimizers, gradients[step].split(sizes), alive, strict=True
        ):
            if lives:
                part.grad = gradient.clone()
                optimizer.step()
    torch.testing.assert_close(state[0], torch.cat([p.detach() for p in parts]), rtol=1e-12, atol=0)
    assert state[0, 0] == start[0]


def test_coefficients_of_several_steps_are_those_of_one_after_the_other() -> None:
    clocks = np.array([0, 5, 1000])
    together = step_coefficients(AdamSettings(), clocks, 4)
    for step in range(4):
        alone = step_coefficients(AdamSettings(), clocks + step, 1)
        for many, one in zip(together, alone, strict=True):
            np.testing.assert_array_equal(many[step], one[0])
