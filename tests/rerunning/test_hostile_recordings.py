"""Untrusted recordings are rejected in one sentence, or computed as recorded."""

import copy
import re
import sys

import pytest
import torch
from recorded_runs import train

from esper.commands.replay_process import ReplayProcessError, Request, replay_in_process
from esper.leyline.files.incident_files import CAPSULE_NAME
from esper.recording.capsule import watched_capsule_of
from esper.rerunning.replaying import replay_watched
from esper.services.incident_reports import incidents_of
from esper.simic.command_progress import NO_PROGRESS
from esper.simic.replay.incidents import IncidentError
from esper.simic.replay.verdict import NOT_REPRODUCED
from esper.tracing.recorded import STORAGES


@pytest.fixture(autouse=True, scope="module")
def _alone():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def capsule(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train(folder, -1.0)
    (run,) = folder.iterdir()
    (row,) = incidents_of(run).rows
    path = run / row["path"]
    return path, torch.load(path / CAPSULE_NAME, weights_only=True)


def refusal(capsule, change):
    path, values = capsule[0], copy.deepcopy(capsule[1])
    change(values)
    with pytest.raises(IncidentError) as raised:
        replay_watched(watched_capsule_of(values, path))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def at(*path, value):
    """Return a change of one place in a capsule."""

    def change(values):
        *before, last = path
        for step in before:
            values = values[step]
        values[last] = value

    return change


OPERATION = ("plan", "operations", 0)
INPUT = ("plan", "inputs", 0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (at(*OPERATION, 0, value="os.system.default"), "never repeated"),
        (at(*OPERATION, 0, value="aten.from_file.default"), "never repeated"),
        (at(*OPERATION, 0, value="aten.set_.source_Storage"), "never repeated"),
        (at(*OPERATION, 0, value="aten.resize_.default"), "never repeated"),
        (at(*OPERATION, 0, value="aten.bernoulli_.float"), "never repeated"),
        (at(*OPERATION, 0, value="aten.no_such_thing.default"), "no operation"),
        (at(*OPERATION, 0, value="aten.__class__.mro"), "never repeated|no operation"),
        (at(*OPERATION, 1, value=[{"tensor": 10**9}]), "no operation produced"),
        (at(*OPERATION, 1, value=[{"tensor": "0"}]), "no operation produced"),
        (at(*OPERATION, 1, value=[{"device": "cuda", "x": 1}]), "unknown kind"),
        (at(*OPERATION, 1, value=[{"dtype": "Generator"}]), "unknown kind"),
        (at(*OPERATION, 1, value=[{"memory_format": "load"}]), "unknown kind"),
        (at(*OPERATION, 1, value=["/etc/passwd"]), "unknown mode"),
        (at(*OPERATION, 1, value=[[[[[[1]]]]]]), "unknown kind"),
        (at(*OPERATION, 1, value=[]), "does not accept"),
        (at(*OPERATION, 3, value=[1, 2, 3, 4, 5]), "returned"),
        (at(*OPERATION, 4, value=10**6), "no place"),
        (at(*OPERATION, 4, value=-1), "no place"),
        (at("plan", "operations", value=[["aten.relu.default", [], {}, [], 0]] * 100_001), "more"),
        (at("plan", "operations", value="many"), "array"),
        (at("plan", value={}), "missing"),
        (at("plan", "extra", value=1), "unknown field"),
        (at("plan", "looked_at", value=[10**6]), "no operation produced"),
        (at("plan", "storages", value=3000), "do not fit"),
        (at(*INPUT, "dtype", value="quint8"), "type or storage"),
        (at(*INPUT, "storage", value=-1), "type or storage"),
        (at(*INPUT, "shape", value=[2**40]), "shape|storage"),
        (at(*INPUT, "offset", value=-8), "shape"),
        (at(*INPUT, "offset", value=10**12), "larger than its storage"),
        (at(*INPUT, "stride", value=[]), "shape|storage"),
        (lambda values: values["plan"]["inputs"][0].update(shape=[2**42], stride=[0]), "too large"),
        (at("data", STORAGES, value=None), "missing"),
        (at("data", STORAGES, 0, value=torch.ones(3)), "bytes"),
        (at("data", STORAGES, 0, value=torch.zeros(0, dtype=torch.uint8)), "larger"),
    ],
)
def test_a_tampered_recording_is_rejected_in_one_sentence(change, expected, capsule):
    message = refusal(capsule, change)

    assert any(word in message for word in expected.split("|")), message


@pytest.mark.parametrize(
    "operations",
    [
        [
            ["aten.zeros.default", [[1]], {}, [9000], 0],
            ["aten.expand.default", [{"tensor": 9000}, [2**42]], {}, [9001], 0],
            ["aten.sum.default", [{"tensor": 9001}], {}, [9002], 0],
        ],
        [
            ["aten.zeros.default", [[1]], {}, [9000], 0],
            ["aten.as_strided.default", [{"tensor": 9000}, [2**42], [0], 0], {}, [9001], 0],
        ],
        [["aten.zeros.default", [[1] * 5_000_000], {}, [9000], 0]],
    ],
)
def test_the_time_for_a_recording_is_limited(operations, capsule):
    def change(values):
        values["plan"]["operations"][:0] = operations

    assert re.search("too large|too long", refusal(capsule, change))


@pytest.mark.parametrize(
    "operation",
    [
        ["aten.zeros.default", [[2**38]], {}, [9000], 0],
        ["aten.full.default", [[2**20, 2**20], 1.0], {}, [9000], 0],
    ],
)
def test_the_memory_for_a_recording_is_limited(operation, capsule):
    def change(values):
        values["plan"]["operations"].insert(0, operation)

    assert "memory" in refusal(capsule, change)


def given(*tensors):
    """Return a change: a recording whose inputs are these tensors, numbered from 9000."""

    def change(values, operations):
        for number, tensor in enumerate(tensors, 9000):
            storage = values["plan"]["storages"]
            values["data"][STORAGES].append(tensor.contiguous().view(-1).view(torch.uint8).clone())
            values["plan"]["storages"] += 1
            values["plan"]["inputs"].append(
                {
                    "number": number, "storage": storage, "dtype": str(tensor.dtype)[6:],
                    "shape": list(tensor.shape), "stride": list(tensor.contiguous().stride()),
                    "offset": 0, "name": "",
                }
            )  # fmt: skip
        values["plan"]["operations"][:0] = [
            [name, args, {}, [9100 + 10 * number + one for one in range(results)], 0]
            for number, (name, args, results) in enumerate(operations)
        ]

    return change


FAR = 1 << 40
A, B, C, D, E = ({"tensor": 9000 + number} for number in range(5))
ONE = torch.ones(1, 1, 1, 1)
IMAGE = torch.zeros(1, 1, 2, 2)
LINE = torch.ones(4)
ROWS = torch.ones(4, 3)
LISTED = "never repeated"
ALL = [True, True, True]


def index(*shape, value=FAR):
    return torch.full(shape, value, dtype=torch.int64)


@pytest.mark.parametrize(
    ("name", "tensors", "args", "expected"),
    [
        ("max_pool2d_with_indices_backward.default", (ONE, IMAGE, index(1, 1, 1, 1)),
         [A, B, [2, 2], [2, 2], [0, 0], [1, 1], False, C], "index is out of range"),
        ("max_pool2d_with_indices_backward.default", (ONE, IMAGE, index(1, 1, 1, 1, value=-1)),
         [A, B, [2, 2], [2, 2], [0, 0], [1, 1], False, C], "index is out of range"),
        ("max_pool2d_with_indices_backward.default", (ONE, IMAGE, index(1, value=0)),
         [A, B, [2, 2], [2, 2], [0, 0], [1, 1], False, C], "indices does not fit"),
        ("adaptive_max_pool2d_backward.default", (ONE, IMAGE, index(1, 1, 1, 1)),
         [A, B, C], LISTED),
        ("fractional_max_pool2d_backward.default", (ONE, IMAGE, index(1, 1, 1, 1)),
         [A, B, [2, 2], [1, 1], C], LISTED),
        ("max_unpool2d.default", (ONE, index(1, 1, 1, 1)), [A, B, [2, 2]], LISTED),
        ("_reshape_alias.default", (LINE,), [A, [4], [1 << 38]], LISTED),
        ("as_strided.default", (LINE,), [A, [4], [FAR], 0], "does not accept"),
        ("as_strided.default", (LINE,), [A, [4], [1], -8], "does not accept"),
        ("as_strided.default", (LINE,), [A, [4], [1], FAR], "does not accept"),
        ("_index_put_impl_.default", (LINE, index(1), LINE), [A, [B], C, False, True], LISTED),
        ("linalg_lu_solve.default", (torch.eye(3), index(3), torch.eye(3)), [A, B, C], LISTED),
        ("_fft_c2r.default", (LINE.to(torch.complex64),), [A, [0], 0, FAR], LISTED),
        ("_embedding_bag_dense_backward.default", (LINE,), [A], LISTED),
        ("_embedding_bag.default", (ROWS, index(1), index(1)), [A, B, C], LISTED),
        ("add.out", (LINE, LINE), [A, B], LISTED),
        ("embedding.default", (ROWS, index(1)), [A, B], "index is out of range"),
        ("embedding_dense_backward.default", (torch.ones(1, 4), index(1)),
         [A, B, 4, -1, True], "index is out of range"),
        ("nll_loss_backward.default", (torch.ones(()), ROWS, index(4), torch.ones(())),
         [A, B, C, None, 1, -100, D], "index is out of range"),
        ("nll_loss_backward.default", (torch.ones(()), ROWS, index(9, value=0), torch.ones(())),
         [A, B, C, None, 1, -100, D], "target does not fit"),
        ("gather.default", (ROWS, index(1, 1)), [A, 1, B], "index is out of range"),
        ("scatter_add.default", (ROWS, index(4, 3), ROWS), [A, 1, B, C], "index is out of range"),
        ("index_add.default", (ROWS, index(4, value=-1), ROWS), [A, 0, B, C], "out of range"),
        ("index.Tensor", (ROWS, index(1)), [A, [B]], "out of bounds|out of range"),
        ("searchsorted.Tensor", (LINE, LINE), [A, B, "x"], "does not accept"),
        ("convolution_backward.default", (ONE, IMAGE, torch.ones(9, 1, 1, 1)),
         [A, B, C, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, ALL], "gradient does not fit"),
        ("native_layer_norm_backward.default", (ROWS, ROWS, torch.ones(1), torch.ones(1)),
         [A, B, [3], C, D, None, None, ALL], "mean does not fit"),
        ("native_group_norm.default", (ROWS,), [A, None, None, 400, 3, 1, 3, 0.1], "size does not"),
        ("native_batch_norm.default", (ROWS, torch.ones(1)),
         [A, B, None, None, None, True, 0.1, 0.1],
         "weight does not fit"),
        ("native_batch_norm_backward.default", (ROWS, ROWS, torch.ones(1)),
         [A, B, None, None, None, C, C, True, 0.1, ALL], "save_mean does not fit"),
        ("_softmax_backward_data.default", (torch.ones(1), ROWS), [A, B, 1, {"dtype": "float32"}],
         "gradient does not fit"),
        ("_scaled_dot_product_flash_attention_for_cpu_backward.default",
         (torch.ones(1, 1, 8, 4), torch.ones(1)), [A, A, A, A, A, B, 0.0, False], "logsumexp"),
        ("_adaptive_avg_pool2d_backward.default", (torch.ones(3, 3, 1, 1), IMAGE), [A, B],
         "gradient does not fit"),
        ("glu_backward.default", (torch.ones(9), LINE), [A, B, 0], "gradient does not fit"),
        ("mkldnn_rnn_layer.default", (torch.ones(2, 1, 3), torch.ones(1, 1), ROWS, LINE, LINE),
         [A, B, C, D, E, D, D, False, [], 2, 64, 1, True, False, False, True], "weight does not"),
    ],
)  # fmt: skip
def test_no_operation_accesses_memory_outside_its_tensors(name, tensors, args, expected, capsule):
    change = given(*tensors)

    message = refusal(capsule, lambda values: change(values, [(f"aten.{name}", args, 3)]))

    assert any(word in message for word in expected.split("|")), message
    assert name in message


@pytest.mark.parametrize("code", ["of = the.capsule", None])
def test_source_lines_come_only_from_the_capsule(code, capsule):
    path, values = capsule[0], copy.deepcopy(capsule[1])
    for place in values["plan"]["places"]:
        place.update(file=__file__, line=1, loop=(__file__, 1), code=code)

    replay, _ = replay_watched(watched_capsule_of(values, path))

    assert replay.origin.operation.place.code == (code or "")


def test_an_altered_recording_is_not_reproduced(capsule):
    path, values = capsule[0], copy.deepcopy(capsule[1])
    (fill,) = (one for one in values["plan"]["operations"] if one[0] == "aten.fill_.Scalar")
    fill[1][1] = 1.0

    replay, _ = replay_watched(watched_capsule_of(values, path))

    assert replay.verdict == NOT_REPRODUCED
    assert replay.origin is None


def test_an_endless_replay_is_stopped_with_an_error_about_the_time_limit(tmp_path):
    """An untrusted capsule is repeated in a process that is killed after the time limit."""
    request = Request(str(tmp_path), "absent", None, None, True, False, 80, False)
    with pytest.raises(ReplayProcessError, match=r"stopped after 0.01 s; increase --timeout"):
        replay_in_process(request, NO_PROGRESS, 0.01)


def test_a_crash_of_the_replay_process_is_reported_in_one_sentence(tmp_path, monkeypatch):
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    request = Request(str(tmp_path), "absent", None, None, True, False, 80, False)

    with pytest.raises(ReplayProcessError, match=r"crashed \(SIGSEGV\)"):
        replay_in_process(request, NO_PROGRESS, 60)
