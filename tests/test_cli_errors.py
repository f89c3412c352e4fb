"""What the command line refuses, and how: one sentence, no traceback, nothing written."""

import errno
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import TINY, command, make_model, make_text, refused, results, run

from bptt import cli
from bptt.text import needed_length


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return make_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def model(text):
    return make_model(text)


def in_process(monkeypatch, cwd, *arguments):
    """Exit code of the command line in this process."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["bptt", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompt", "aé"), "prompt: expected characters that the model knows, got 'é'"),
        (("--temperature", "-1"), "Invalid value for '--temperature': -1.0 is not in the range x>=0."),
        (("--temperature", "nan"), "Invalid value for '--temperature': nan is not a finite number."),
        (("--length", "-1"), "Invalid value for '--length': -1 is not in the range x>=0."),
        (("--seed", "-1"), "Invalid value for '--seed': -1 is not in the range x>=0."),
    ],
)
def test_sample_refuses(tmp_path, model, options, message):
    assert refused("sample", model, *options, cwd=tmp_path) == message


def test_bad_texts(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "latin").write_bytes(b"abc\xe9 " * 1000)
    (tmp_path / "short").write_text("x" * (needed_length(4, 16) - 1))
    (tmp_path / "folder").mkdir()
    for name, message in {
        "empty": "empty: expected some text, got an empty file",
        "latin": "latin: expected UTF-8 text, got byte 0xe9 at offset 3",
        "short": "text: expected at least 68 characters for 4 streams of 16 steps and 5% to validate on, "
        "got 67",
        "folder": "folder: expected a text file, got a directory",
        "none": "none: No such file or directory",
        "/dev/zero": "/dev/zero: expected a text file, got a device",
    }.items():
        assert refused("train", name, *TINY, cwd=tmp_path) == message


def test_the_shortest_text(tmp_path):
    (tmp_path / "t").write_text("x" * needed_length(4, 16))
    out = results(run("train", "t", *TINY, "--epochs", 2, "--quiet", cwd=tmp_path).stdout)
    assert int(out["steps"]) == 2


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_no_permission(tmp_path):
    """Root may read and write everything, so what reads or writes is replaced by a function that refuses."""
    (tmp_path / "t").write_text("x" * 3000)
    script = (
        "import sys, tempfile\n"
        "def refuse(path, *a, **k): raise PermissionError(13, 'Permission denied', str(path))\n"
        "from bptt import cli\n"
        "from pathlib import Path\n"
        "if sys.argv[1] == 'read': Path.read_bytes = refuse\n"
        "else: tempfile.NamedTemporaryFile = lambda dir, prefix: refuse(dir)\n"
        "sys.argv = ['bptt', 'train', 't']\n"
        "cli.main()\n"
    )
    cases = {"read": "t: Permission denied", "write": "--out: expected a writable directory, got"}
    for what, message in cases.items():
        done = subprocess.run(
            [sys.executable, "-c", script, what], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr.startswith(f"bptt: error: {message}")
        assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["t"]


def test_bad_places_for_the_model(tmp_path):
    (tmp_path / "t").write_text("x" * 3000)
    (tmp_path / "folder").mkdir()
    for out, message in {
        "folder": "--out: expected a file, got the directory folder",
        "none/model": "--out: expected a file in an existing directory, got none/model",
        "t": "--out: expected another file than the text, got t",
        "t/model": "--out: expected a file in an existing directory, got t/model",
        "/dev/null": "--out: expected a regular file, got the device or pipe /dev/null",
        "x" * 300: f"{'x' * 300}: File name too long",
    }.items():
        assert refused("train", "t", "--out", out, cwd=tmp_path).endswith(message)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--hidden", "0"), "Invalid value for '--hidden': 0 is not in the range 1<=x<=16384."),
        (("--hidden", "many"), "Invalid value for '--hidden': 'many' is not a valid integer range."),
        (("--batch", "0"), "'--batch': 0 is not in the range x>=1."),
        (("--steps-per-chunk", "0"), "'--steps-per-chunk' / '--truncation': 0 is not in the range x>=1."),
        (("--epochs", "0"), "'--epochs': 0 is not in the range 1<=x<=1000000000."),
        (("--seconds", "0"), "'--seconds': 0.0 is not in the range x>0."),
        (("--seconds", "inf"), "'--seconds': inf is not a finite number."),
        (("--lr", "nan"), "'--lr': nan is not a finite number."),
        (("--lr", "-1"), "'--lr': -1.0 is not in the range x>0."),
        (("--clip", "-1"), "'--clip': -1.0 is not in the range x>=0."),
        (("--threads", "0"), "'--threads': 0 is not in the range x>=1."),
        (("--seed", "-1"), "'--seed': -1 is not in the range x>=0."),
        (
            ("--cell", "cnn"),
            "'--cell': 'cnn' is not one of 'rnn', 'tanh', 'relu', 'sigmoid', 'identity', 'lstm', 'gru'.",
        ),
        (("--layers", "0"), "'--layers': 0 is not in the range 1<=x<=1000."),
        (("--dropout", "1", "--layers", "2"), "'--dropout': 1.0 is not in the range 0<=x<1."),
        (("--zoneout", "nan"), "'--zoneout': nan is not a finite number."),
        (("--recurrent-dropout", "-0.5"), "'--recurrent-dropout': -0.5 is not in the range 0<=x<1."),
        (
            ("--dropout", "0.5"),
            "--dropout: expected 0 with one layer, as it acts between layers, got 0.5; "
            "--recurrent-dropout acts within one",
        ),
        (("--bidirectional",), "No such option '--bidirectional'."),
        (
            ("--epochs", "1", "--seconds", "1"),
            "--epochs and --seconds: expected at most one of them, got both",
        ),
        (("t", "u"), "Got unexpected extra argument (u)"),
    ],
)
def test_bad_options(tmp_path, options, message):
    assert message in refused("train", *options, cwd=tmp_path)


def test_bad_commands(tmp_path):
    assert refused("tarin", cwd=tmp_path).startswith("No such command 'tarin'.")
    assert refused("sample", cwd=tmp_path) == "Missing argument 'MODEL'."
    assert "--oops" in refused("--oops", cwd=tmp_path)


def test_a_bad_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("BPTT_NUM_THREADS", "two")
    assert "BPTT_NUM_THREADS: expected an integer of at least 1, got 'two'" in refused("train", cwd=tmp_path)
    monkeypatch.delenv("BPTT_NUM_THREADS")
    monkeypatch.setenv("BPTT_CPU", "z80")
    for name in ("train", "info", "bench"):
        names = "baseline, avx2, avx512, amx"
        assert refused(name, cwd=tmp_path).startswith(f"BPTT_CPU: expected one of {names}, ")


def test_divergence(tmp_path, text):
    options = ("--cell", "identity", "--optimizer", "sgd", "--lr", 1e30, "--clip", 0)
    message = refused("train", text, *TINY, "--epochs", 1, "--quiet", *options, cwd=tmp_path, code=1)
    assert re.fullmatch(
        r"training diverged at step \d+ \(epoch 1\): expected a finite .*; try a smaller --lr", message
    )


def test_a_full_disk(tmp_path, text, monkeypatch, capsys):
    def full(path, run):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("bptt.train_command.save_run", full)
    assert in_process(monkeypatch, tmp_path, "train", text, *TINY, "--epochs", 1, "--quiet") == 1
    message = f"{tmp_path / 'model.safetensors'}: the model could not be saved: No space left on device"
    assert capsys.readouterr().err == f"bptt: error: {message}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [("info",), ("--help",), ("sample", "MODEL", "--length", 3)])
def test_a_full_disk_under_the_standard_output(tmp_path, model, arguments):
    line = command(*(model if argument == "MODEL" else argument for argument in arguments))
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == f"bptt: error: [Errno {errno.ENOSPC}] No space left on device\n"


def test_a_read_only_model(tmp_path, text, monkeypatch, capsys):
    """Root may write everything, so os.access is made to answer as it does to others."""
    (tmp_path / "old").write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert in_process(monkeypatch, tmp_path, "train", text, *TINY, "--out", "old") == 2
    message = "--out: expected a writable file, got the read-only file old"
    assert capsys.readouterr().err == f"bptt: error: {message}\n"
    assert (tmp_path / "old").read_bytes() == b"old"


def test_a_clock_that_stands_still(tmp_path, text, monkeypatch, capsys):
    for module in ("training", "train_command"):
        monkeypatch.setattr(f"bptt.{module}.time", SimpleNamespace(monotonic=lambda: 100.0))
    assert in_process(monkeypatch, tmp_path, "train", text, *TINY, "--epochs", 1, "--quiet") == 0
    found = results(capsys.readouterr().out)
    assert (found["seconds"], found["characters_per_second"]) == ("0.00", "nan")


def test_too_little_memory(tmp_path, text, monkeypatch, capsys):
    def greedy(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("bptt.train_command.new_run", greedy)
    assert in_process(monkeypatch, tmp_path, "train", text) == 1
    assert capsys.readouterr().err.startswith("bptt: error: not enough memory; a smaller --hidden")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seconds", "0"), "Invalid value for '--seconds': 0.0 is not in the range x>0."),
        (("--seconds", "inf"), "Invalid value for '--seconds': inf is not a finite number."),
        (("--threads", "0"), "Invalid value for '--threads': 0 is not in the range x>=1."),
        (("--threads", "10000"), "threads: expected 1 to "),
        (("--json", "none/times"), "--json: expected a file in an existing directory, got none/times"),
        (("--json", "."), "--json: expected a file, got the directory ."),
        (("fast",), "Got unexpected extra argument (fast)"),
    ],
)
def test_bench_refuses(tmp_path, options, message):
    assert refused("bench", *options, cwd=tmp_path).startswith(message)


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (1, "bptt: forward 1,1,1,1 float32: y: expected\n", "bptt: forward 1,1,1,1 float32: y: expected"),
        (-9, "", "the measuring process ended with status -9"),
    ],
)
def test_bench_fails(tmp_path, monkeypatch, capsys, status, said, message):
    def failed(command, threads, **options):
        return subprocess.CompletedProcess(command, status, said)

    monkeypatch.setattr("bptt.benchmark.machine.run_fixed", failed)
    assert in_process(monkeypatch, tmp_path, "bench") == 1
    assert capsys.readouterr() == ("", f"bptt: error: {message}\n")


def test_bench_on_a_full_disk(tmp_path, monkeypatch, capsys):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    def measured(command, threads, **options):
        about = {name: {} for name in ("machine", "versions", "absent", "refused")}
        Path(command[-1]).write_text(json.dumps({"machine_info": {"bench": about}, "benchmarks": []}))
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr("bptt.benchmark.machine.run_fixed", measured)
    monkeypatch.setattr("shutil.copyfile", full)
    assert in_process(monkeypatch, tmp_path, "bench", "--json", "times") == 1
    message = f"{tmp_path / 'times'}: could not be written: No space left on device"
    assert capsys.readouterr().err == f"bptt: error: {message}\n"


@pytest.mark.parametrize("package", ["click", "safetensors", "tqdm"])
def test_a_missing_package_is_named(tmp_path, package):
    script = f"import sys; sys.modules[{package!r}] = None; from bptt.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "info"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == f'bptt: error: the command line needs {package}: pip install "bptt[cli]"\n'


def test_resume_refuses_other_settings_and_another_text(tmp_path, text, model):
    message = refused("train", text, "--resume", model, "--hidden", 9, "--out", "x", cwd=tmp_path)
    assert message == "--hidden: expected 8 as in the run to resume, got 9"
    message = refused("train", text, "--resume", model, "--steps-per-chunk", 64, "--out", "x", cwd=tmp_path)
    assert message == "--steps-per-chunk: expected 16 as in the run to resume, got 64"
    message = refused("train", "--resume", model, "--out", "x", cwd=tmp_path)
    assert "expected the text that this run was trained on (4,000 characters), got another" in message
    same = (*TINY, "--lr", 2e-3)  # told again
    run("train", text, "--resume", model, *same, "--out", "x", "--quiet", cwd=tmp_path)
