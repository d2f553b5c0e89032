"""Bad input is refused before anything heavy is imported, so the answer comes at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_files import write_empty_checkpoint

from esper.karn.store.run_store import RunWriter, create_run
from esper.simic.config import TrainingConfig, write_config

#: Runs each case in one process, in which nothing heavy is loaded at first.
PROGRAM = """
import contextlib, io, json, sys, time
import esper.cli
HEAVY = {"torch", "textual", "sklearn", "scipy", "gymnasium", "numpy"}
for program, words in json.load(sys.stdin):
    errors, output = io.StringIO(), io.StringIO()
    start = time.process_time()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        try:
            (esper.cli.main if program == "esper" else esper.cli.sanctum_main)(words)
        except SystemExit as ended:
            code = ended.code
    seconds = time.process_time() - start
    loaded = sorted(HEAVY & set(sys.modules))
    print(json.dumps([code, errors.getvalue(), output.getvalue(), loaded, seconds]))
"""

CASES = {
    "esper eval absent": "there is no run 'absent'",
    "esper eval absent.pt": "there is no file absent.pt",
    "esper eval shiped": "did you mean shipped?",
    "esper eval shipped --against luck": "there is no baseline 'luck'",
    "esper eval shipped --against statik": "did you mean static?",
    "esper eval shipped --episodes 1": "--episodes must be at least 2",
    "esper eval shipped --seed -1": "--seed must be 0 or more",
    "esper eval shipped --plot a.png": "must end in .svg",
    "esper eval shipped --plot absent/a.svg": "there is no folder absent",
    "esper eval gone": "there is no file absent.npz",
    "esper eval bare": "is not in the folder of a run",
    "esper eval new": "has no checkpoint yet",
    "esper grow --task npz:absent.npz --out o": "there is no file absent.npz",
    "esper grow --task chars:absent.txt --out o": "there is no file absent.txt",
    "esper grow --task cifar10:absent --out o": "there is no folder absent",
    "esper grow --task hf:./absent --out o": "there is no folder absent",
    "esper grow --task digits.npz --out o": "did you mean npz:digits.npz?",
    "esper grow --task text.txt --out o": "did you mean chars:text.txt?",
    "esper grow --task digts --out o": "did you mean digits?",
    "esper grow --task npz:here.npz?kind=signl --out o": "did you mean signal?",
    "esper grow --task mnist1d --out full": "full is not empty",
    "esper grow --task mnist1d --out o --policy absent": "there is no run 'absent'",
    "esper grow --task mnist1d --out o --hosts 0": "--hosts must be 1 to 256",
    "esper grow --task mnist1d --out o --steps 0": "--steps must be at least 1",
    "esper grow --task mnist1d --out o --seed -1": "--seed must be 0 or more",
    "esper grow --task mnist1d --out o --max-parameters 0": "--max-parameters must be at least 1",
    "esper grow --task mnist1d --out o --minutes -1": "--minutes must be above 0",
    "esper grow --task mnist1d --out o --price -1": "--price must be 0 or more",
    "esper grow --task mnist1d --out o --price 1 --no-finish": "leave out --no-finish",
    "esper ppo --task npz:absent.npz": "there is no file absent.npz",
    "esper ppo --task chars:absent.txt": "there is no file absent.txt",
    "esper ppo --config absent.toml": "cannot read the settings file absent.toml",
    "esper ppo --config bad.toml": "bad.toml: learning_rate must be above 0",
    "esper ppo --learning-rate 0": "--learning-rate must be above 0",
    "esper ppo --on-nonfinite skp": "did you mean skip?",
    "esper ppo --inject opp:inf@1": "did you mean op?",
    "esper ppo --inject op:inf": "--inject takes HEAD[.QUANTITY]:KIND@UPDATE",
    "esper ppo --resume absent": "there is no run 'absent'",
    "esper ppo --resume gone --episodes 9": "there is no file absent.npz",
    "esper ppo --resume data --episodes 1": "has trained 10 episodes already",
    "esper ppo --resume data --seed 9": "--seed cannot change when a run is resumed",
    "esper replay absent": "there is no run 'absent'",
    "esper replay gone 9": "has no incidents",
    "esper replay gone --html absent/a.html": "--html absent/a.html: there is no folder absent",
    "esper incidents absent": "there is no run 'absent'",
    "esper health absent": "there is no run 'absent'",
    "esper health gone --fail-on none": "--fail-on must be inf, nan, stalled",
    "esper telemetry TELE-9999": "TELE-9999",
    "esper grwo": "did you mean grow?",
    "esper ppo --episods 3": "did you mean --episodes? (see esper ppo --help)",
    "sanctum absent": "there is no run 'absent'",
    "sanctum gone --export a.pdf": "must end in one of .svg",
    "sanctum gone --export absent/a.svg": "--export absent/a.svg: there is no folder absent",
    "sanctum gone --at 99": "has no update 99",
    "sanctum gone --themes dark": "did you mean --theme?",
    "sanctum serve absent": "there is no run 'absent'",
    "sanctum serve --port 0": "port",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory, payloads):
    """What each case answers: exit code, errors, output, heavy modules loaded, processor time."""
    folder = tmp_path_factory.mktemp("early")
    (folder / "full").mkdir()
    (folder / "full" / "a").write_text("")
    (folder / "here.npz").write_text("")
    (folder / "bad.toml").write_text("learning_rate = 0\n")
    for name in ("data", "new", "bare", "gone"):
        run = create_run(folder / "runs", name)
        with RunWriter(run) as writer:
            for payload in (payloads.start(), payloads.update(1), payloads.finish(update=1)):
                writer.emit(payload)
        config = TrainingConfig(task=f"npz:{'here' if name == 'data' else 'absent'}.npz")
        if name != "new":
            write_empty_checkpoint(run, 1, config, episodes_done=10)
        if name != "bare":
            write_config(config, run / "config.toml")
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        input=json.dumps([[*line.split(" ")[:1], line.split(" ")[1:]] for line in CASES]),
        capture_output=True,
        text=True,
        check=True,
    )
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_answered_in_one_sentence_without_heavy_imports(answers, case):
    code, errors, output, loaded, seconds = answers[case]
    assert (code, output) == (2, "")
    assert CASES[case] in errors
    assert errors.count("\n") == 1
    assert loaded == []
    assert seconds < 1.0  # of the processor, on a busy machine; it takes a third of that


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_a_missing_gpu_is_detected_without_torch():
    from esper.simic.config import ConfigError, check_device

    with pytest.raises(ConfigError, match="device cuda needs a GPU"):
        check_device("cuda")
    check_device("cpu")
