"""The command line as a process of its own."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sysconfig
import time

import numpy as np
import pytest
from command_line import TINY, assert_same_model, command, contents, make_model, make_text, results, run

from bptt.text import default_corpus


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return make_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def model(text):
    return make_model(text)


def test_train_says_what_it_does(tmp_path, text):
    done = run("train", text, *TINY, "--epochs", 2, cwd=tmp_path)
    out = results(done.stdout)
    assert out["model"] == "model.safetensors"
    assert (tmp_path / "model.safetensors").is_file()
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert float(out["epochs"]) == 2
    n = (3800 - 1) // 4
    assert int(out["steps"]) == 2 * -(-n // 16)
    assert int(out["characters"]) == 2 * n * 4
    assert 2 < float(out["validation_bits_per_character"]) < 6.5
    lines = done.stderr.splitlines()
    form = r" *\d+%  epoch [\d.]+  train ([\d.]+|-)  validation [\d.]+ bits/char  [\d,]+ char/s  [-\d:]+ left"
    assert re.fullmatch(form, lines[0])
    last = [line for line in lines if re.fullmatch(form, line)][-1]
    assert last.startswith("100%  epoch 2.00")
    assert f"validation {float(out['validation_bits_per_character']):.3f}" in last
    assert len(done.stderr.split(last)[1].strip("\n")) <= 300  # the sample
    assert len(done.stderr.split(last)[1]) > 250


def test_quiet(tmp_path, text):
    done = run("train", text, *TINY, "--epochs", 1, "--quiet", cwd=tmp_path)
    assert done.stderr == ""
    results(done.stdout)


def test_the_default_text(tmp_path):
    out = results(run("train", *TINY, "--seconds", 1.5, "--quiet", cwd=tmp_path).stdout)
    assert float(out["seconds"]) < 4
    assert int(out["steps"]) > 0


def test_seconds_end_a_run(tmp_path, text):
    out = results(run("train", text, *TINY, "--seconds", 1, "--quiet", cwd=tmp_path).stdout)
    assert 0.5 < float(out["seconds"]) < 3


def test_training_learns(tmp_path):
    (tmp_path / "t").write_text("hello world. " * 300)
    out = results(run("train", "t", *TINY, "--epochs", 20, "--lr", 0.02, "--quiet", cwd=tmp_path).stdout)
    assert float(out["validation_bits_per_character"]) < 0.3
    assert float(out["best_validation_bits_per_character"]) <= float(out["validation_bits_per_character"])
    done = run(
        "sample", "model.safetensors", "--prompt", "hello w", "--length", 12, "--temperature", 0, cwd=tmp_path
    )
    assert done.stdout == "hello world. hello \n"


@pytest.mark.parametrize(
    "options",
    [
        ("--cell", "relu"),
        ("--cell", "sigmoid"),
        ("--cell", "identity"),
        ("--optimizer", "sgd"),
        ("--clip", "0.01"),
        ("--backend", "reference"),
    ],
)
def test_options_change_the_model(tmp_path, text, model, options):
    run("train", text, *TINY, "--epochs", 1, "--quiet", *options, cwd=tmp_path)
    ours, _, training = contents(tmp_path / "model.safetensors")
    tensors, _, _ = contents(model)
    name = "rnn.weight_hh_l0"
    assert ours[name].shape == tensors[name].shape
    assert training["steps"] == 60
    if options == ("--backend", "reference"):
        np.testing.assert_allclose(ours[name], tensors[name], atol=1e-5)  # rounding, after 60 updates
    else:
        assert not np.array_equal(ours[name], tensors[name])


def test_a_seed_fixes_the_model_whatever_the_threads(tmp_path, text, model):
    run("train", text, *TINY, "--epochs", 1, "--threads", 1, "--out", "same", "--quiet", cwd=tmp_path)
    assert_same_model(tmp_path / "same", model)
    run("train", text, *TINY, "--epochs", 1, "--seed", 1, "--out", "other", "--quiet", cwd=tmp_path)
    assert not np.array_equal(
        contents(tmp_path / "other")[0]["rnn.weight_hh_l0"], contents(model)[0]["rnn.weight_hh_l0"]
    )


def test_an_existing_model_is_replaced_and_links_are_followed(tmp_path, text, model):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    run("train", text, *TINY, "--epochs", 1, "--out", "link", "--quiet", cwd=tmp_path)
    assert (tmp_path / "link").is_symlink()
    assert_same_model(tmp_path / "real", model)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_resuming_gives_the_bits_of_an_uninterrupted_run(tmp_path, text, optimizer):
    options = ("--optimizer", optimizer, "--quiet")
    run("train", text, *TINY, "--epochs", 3, *options, "--out", "straight", cwd=tmp_path)
    run("train", text, *TINY, "--epochs", 1, *options, "--out", "first", cwd=tmp_path)
    run("train", text, "--resume", "first", "--epochs", 3, "--out", "second", "--quiet", cwd=tmp_path)
    assert_same_model(tmp_path / "straight", tmp_path / "second")
    assert contents(tmp_path / "first")[2]["epoch"] == 1  # the model resumed from is left alone


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_command_it_names_goes_on(tmp_path, number):
    (tmp_path / "my text").write_text(default_corpus()[:40_000], encoding="utf-8")
    options = ("my text", *TINY, "--epochs", "6")  # many times the pause below
    process = subprocess.Popen(
        command("train", *options, "--out", "half"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline().startswith("  0%")
    time.sleep(0.1)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert stdout == ""
    last = stderr.splitlines()[-1]
    assert last.startswith(
        f"bptt: interrupted; saved to {tmp_path / 'half'}; to go on: bptt train --resume half "
    )
    steps = contents(tmp_path / "half")[2]["steps"]
    words = shlex.split(last.split("to go on: ")[1])
    assert words[0] == "bptt"
    run(*words[1:], cwd=tmp_path)
    run("train", *options, "--out", "straight", "--quiet", cwd=tmp_path)
    assert 0 < steps < contents(tmp_path / "straight")[2]["steps"]
    assert_same_model(tmp_path / "straight", tmp_path / "half")


def test_resuming_what_has_ended(tmp_path, text, model):
    done = run("train", text, "--resume", model, "--out", "again", "--quiet", cwd=tmp_path)
    assert (
        done.stderr == "bptt: the run had reached its limit; give a larger --epochs or --seconds to go on\n"
    )
    assert_same_model(tmp_path / "again", model)


def test_sample(tmp_path, model):
    arguments = ("sample", model, "--prompt", "The ", "--length", 50)
    one, same, other = (run(*arguments, "--seed", seed, cwd=tmp_path).stdout for seed in (1, 1, 2))
    assert one == same != other
    assert one.startswith("The ")
    assert len(one) == 4 + 50 + 1
    assert one.endswith("\n")
    assert run("sample", model, "--length", 0, cwd=tmp_path).stdout == "\n"
    assert len(run("sample", model, cwd=tmp_path).stdout) == 301
    likeliest = ("sample", model, "--temperature", 0)
    assert run(*likeliest, cwd=tmp_path).stdout == run(*likeliest, cwd=tmp_path).stdout
    reference = run(*arguments, "--seed", 1, "--backend", "reference", cwd=tmp_path).stdout
    assert reference[:10] == one[:10]


def test_sample_into_a_closed_pipe(tmp_path, model):
    process = subprocess.Popen(
        command("sample", model, "--length", 100_000),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert len(process.stdout.read(10)) == 10
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 128 + signal.SIGPIPE


def test_sample_takes_ctrl_c(tmp_path, model):
    process = subprocess.Popen(
        command("sample", model, "--length", 10**8),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.strip() == b"bptt: interrupted"


def test_sample_in_a_narrow_encoding(tmp_path):
    (tmp_path / "t").write_text("é€" * 1000, encoding="utf-8")
    run("train", "t", *TINY, "--epochs", 1, "--quiet", cwd=tmp_path)
    done = run(
        "sample",
        "model.safetensors",
        "--length",
        5,
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert re.fullmatch(r"(\\xe9|\\u20ac){5}\n", done.stdout)


def test_a_run_outlives_those_who_watch_it(tmp_path, text):
    process = subprocess.Popen(
        command("train", text, *TINY, "--epochs", 2),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stderr.close()
    stdout, _ = process.communicate(timeout=60)
    assert stdout == b""
    assert process.returncode == 128 + signal.SIGPIPE
    assert contents(tmp_path / "model.safetensors")[2]["epoch"] == 2


def test_info(tmp_path):
    lines = dict(line.split(": ", 1) for line in run("info", cwd=tmp_path).stdout.splitlines())
    assert {"version", "processor", "variant", "threads"} <= lines.keys()
    assert all(lines.values())


def test_bench(tmp_path):
    # Names that the measuring process imports: those in the current directory are not meant.
    for name in ("json", "numpy", "statistics"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    arguments = [shutil.which("bptt", path=sysconfig.get_path("scripts")), "bench", "--seconds", "0.5"]
    done = subprocess.run(
        [*arguments, "--json", "times"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("| layer | direction | dtype | threads | T,B,I,H | bptt |")
    for cell in ("rnn", "lstm", "gru"):
        for case, number in (("forward", 2), ("forward backward", 2), ("single step", 1)):
            assert sum(line.startswith(f"| {cell} | {case} | float32 | 1 | ") for line in lines) == number
    content = json.loads((tmp_path / "times").read_text())
    about = content["machine_info"]["bench"]
    assert {"bptt", "numpy"} <= about["versions"].keys()
    for name in ("torch", "onnxruntime", "jax"):
        assert (name in about["versions"]) != (name in about["absent"])
        assert (f"- absent: {name} (" in done.stdout) == (name in about["absent"])
    assert "15/15 gru single_step 1,1,64,64 float32 1 thread" in done.stderr


def test_bench_takes_ctrl_c(tmp_path):
    process = subprocess.Popen(
        command("bench"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr.readline().startswith("1/15 rnn forward")
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr == "bptt: interrupted\n"


def test_help(tmp_path):
    for arguments in (
        (),
        ("--help",),
        ("train", "-h"),
        ("sample", "--help"),
        ("info", "--help"),
        ("bench", "-h"),
    ):
        assert run(*arguments, cwd=tmp_path).stdout.startswith("Usage: bptt")
    assert run("--version", cwd=tmp_path).stdout.startswith("bptt ")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
@pytest.mark.parametrize("size", [(0, 0), (24, 120)])
def test_a_bar_on_a_terminal(tmp_path, text, size):
    termios = pytest.importorskip("termios")
    terminal, inside = os.openpty()
    termios.tcsetwinsize(inside, size)
    with subprocess.Popen(
        command("train", text, *TINY, "--seconds", 1), cwd=tmp_path, stdout=subprocess.PIPE, stderr=inside
    ) as process:
        os.close(inside)
        shown = b""
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not part:
                break
            shown += part
        stdout = process.stdout.read().decode()
    os.close(terminal)
    assert process.returncode == 0
    results(stdout)
    drawn = [line for line in shown.decode().split("\r") if "char/s" in line]
    assert len(drawn) > 3
    assert all(re.search(r"\d+%\|.*\| epoch ", line) for line in drawn)
    assert "100%|" in drawn[-1]
