"""Where nothing is compiled, PyTorch's compiler is not loaded, and afterwards all is as before."""

import subprocess
import sys

PROGRAM = """
import sys, torch
from esper.rerunning.bounded import BoundedMemory
from esper.tracing.without_compiler import without_compiler

def train():
    with BoundedMemory([]):
        model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.load_state_dict(optimizer.state_dict())

with without_compiler(BoundedMemory):
    train()
print("torch._dynamo" in sys.modules)
train()
print("torch._dynamo" in sys.modules)
"""


def test_the_compiler_is_loaded_only_outside():
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stdout.split() == ["False", "True"]
