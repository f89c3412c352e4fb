"""The example scripts, each as a process of its own with warnings as errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"

# Lines that must be printed: numbers of the golden files to nine decimals, and how many were compared.
LINES = {
    "many_to_one_four_steps": [
        "L = y - ŷ 0.326717871",
        "sum -0.081462639 -0.089653094 -0.676219873",
        "dL/dw' -0.081462639",
        "dL/dw'' -0.113611095",
        "L after the update 0.323957772",
        "dL/dw' -0.178802978",
        "w, w', L after the update 0.606208675 0.917880298 0.382230956",
        "[seed000_scalar_residual: 54 numbers agree",
        "[seed000_tied_readout: 5 numbers agree",
    ],
    "hello": [
        "L 7.841698885",
        "i = 4, k = 1: b_a -0.015162272 0.011103965 -0.023050610",
        "∂L/∂b_a, exact -3.834905072 -0.746628744 -1.989720091",
        "∂L/∂b_a, depth 1 -2.589863406 0.491176474 -1.889890697",
        "∂L/∂b_a, printed -1.439565074 -0.801566281 -0.343565873",
        "exact 4.690059430",
        "depth 1 5.235521140",
        "printed 6.325853443",
        "[seed001_hello_charrnn: 590 numbers agree",
        "sampled: hello",
        "sampled: neuro",
    ],
    "sentiment": [
        "L 1.887361935",
        "∂L/∂w_o 0.733222303",
        "L after the update 1.542699926",
        "10 0.996230758 0.896607682 0.308087095",
        "[seed002_m2o_bce: 151 numbers agree",
        "[seed002_T10_vanish: 11 numbers agree",
    ],
    "copy_delay": [
        "5 5e-02 ",
        "40 4e-10 not in 600",
        "Elman, untrained, delay 40",
        "The layer: going back, the gradient falls by a factor of 0.55 a step",
        "LSTM, untrained, delay 40",
    ],
    "tanh_m2m_m2o": [
        "L after one update of all five 5.796031614",
        "∂L/∂w_h 0.106861004",
        "∂L/∂w_i -0.310946603",
        "1 0.377935693 0.500310947 -0.800106861 1.200204020",
        "[seed003_m2m_linear_readout: 274 numbers agree",
        "[seed003_m2o_scalar: 24 numbers agree",
        "[seed003_m2o_scalar_time_biases: 39 numbers agree",
        "[seed003_m2o_vector: 110 numbers agree",
    ],
    "vanishing": [
        "10 0.896607682 1.000000000 1.000000000 0.350630131 1.000000000 1.000000000",
        "1 0.308087095 0.387420489 0.037694751 68.719476736",
        "k = 9 0.056653969",
        "sum -0.328882662",
        "[seed002_T10_vanish: 30 numbers agree",
        "w_h = 0.9: ∂o_40/∂o_0 = 7.546e-03, Lyapunov exponent -0.1222 a step",
        "w_h = 1.6: ∂o_40/∂o_0 = 3.046e-16, Lyapunov exponent -0.8932 a step",
        "after 38 steps: the loss reaches the steps 3 to 40 of the input.",
        "after 4 steps: the loss reaches the steps 37 to 40 of the input.",
    ],
    "yesterday_today_tomorrow": [
        "SSR 0.000200000",
        "dSSR/dw1 -0.022000000",
        "dSSR/dw2 -0.039600000",
        "dSSR/dw3 -0.036000000",
        "dSSR/dw2 0.000000000 -3.960000000",
        "SSR, dSSR/dw1, dSSR/dw2 1.213200000 2.208000000 0.000000000",
        "SSR, dSSR/dw1, dSSR/dw2 0.804600000 0.874000000 -1.483200000",
        "SSR, dSSR/dw1, dSSR/dw2 0.862200000 1.068000000 -1.098000000",
        "[seed004_relu_four_sequences: 47 numbers agree",
        "[seed004_relu_kink: 8 numbers agree",
        "[seed004_linear_1day: 20 numbers agree",
        "[seed004_linear_2day: 29 numbers agree",
        "[seed004_linear_3day: 29 numbers agree",
        "[seed004_unrolling_exponents: 21 numbers agree",
    ],
}


def start(
    script: Path, *options: str, cwd: Path, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script away from the checkout, so that it uses the installed package."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-W", "error", str(script), *options]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False
    )


def succeed(name: str, *options: str, cwd: Path) -> str:
    """Run an example that must succeed and return its output with blanks squeezed."""
    done = start(EXAMPLES / f"{name}.py", *options, cwd=cwd)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert "Traceback" not in done.stderr
    text = re.sub(r" +", " ", done.stdout)
    missing = [line for line in LINES[name] if not re.search(rf"^ ?{re.escape(line)}", text, re.MULTILINE)]
    assert not missing, text
    return text


def size_of(picture: Path) -> list[int]:
    """Width and height of a PNG."""
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return [int.from_bytes(data[i : i + 4], "big") for i in (16, 20)]


def test_every_script_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("[!_]*.py")} == set(LINES)


def test_signed_residual_runs_away(tmp_path: Path) -> None:
    text = succeed("many_to_one_four_steps", cwd=tmp_path)
    rows = dict(re.findall(r"^ (\w+) \S+ (\S+) \S+ \S+$", text, re.MULTILINE))  # smallest ŷ
    accuracy = {name: float(a) for name, a in re.findall(r"^ (\w+) \S+ \S+ \S+ (\S+)$", text, re.MULTILINE)}
    assert accuracy["binary_cross_entropy"] > 0.9
    assert accuracy["sum_squared_residuals"] > 0.9
    assert float(rows["residual"]) > 0.99  # ŷ = 1 for the sequence that should have it least
    assert accuracy["residual"] < 0.6


@pytest.mark.parametrize("backend", ["kernels", "reference"])
def test_hello_is_spelt(tmp_path: Path, backend: str) -> None:
    succeed("hello", "--quick", "--backend", backend, cwd=tmp_path)


def test_sentiment_is_above_chance_on_held_out_sentences(tmp_path: Path) -> None:
    text = succeed("sentiment", cwd=tmp_path)
    accuracy, error = map(float, re.findall(r"held-out accuracy (\S+) ± (\S+)", text)[0])
    assert accuracy > 0.65
    assert accuracy - 3 * error > 0.5
    assert re.search(r"ŷ = 0\.\d\d (right|WRONG) \w", text)


def test_noisy_sensor_is_followed_better_than_by_smoothing(tmp_path: Path) -> None:
    text = succeed("tanh_m2m_m2o", "--quick", cwd=tmp_path)
    smoothing, network = (
        float(re.findall(rf"{row} (\S+)$", text, re.MULTILINE)[0])
        for row in ("best exponential smoothing", "the trained RNN")
    )
    assert network < 0.8 * smoothing


def test_sunspots_are_forecast_better_than_by_persistence(tmp_path: Path) -> None:
    text = succeed("yesterday_today_tomorrow", "--out", "forecast.png", cwd=tmp_path)
    persistence, network = (
        float(re.findall(rf"{row} (\S+)$", text, re.MULTILINE)[0])
        for row in (r"as this year \(persistence\)", "the RNN")
    )
    assert persistence == pytest.approx(30.43, abs=0.005)
    assert network < 0.7 * persistence
    assert size_of(tmp_path / "forecast.png") == [1080, 480]


@pytest.mark.parametrize("backend", ["kernels", "reference"])
def test_vanishing(tmp_path: Path, backend: str) -> None:
    succeed("vanishing", "--backend", backend, "--out", "terms.png", cwd=tmp_path)
    assert size_of(tmp_path / "terms.png") == [1000, 750]


def test_an_lstm_remembers_what_an_elman_network_does_not(tmp_path: Path) -> None:
    text = succeed("copy_delay", "--quick", "--out", "reach.png", cwd=tmp_path)
    rows = re.findall(r"^ (\d+) (\S+) (not in 600|\d+) (\S+) (\S+) (\d+) (\S+)$", text, re.MULTILINE)
    assert [row[0] for row in rows] == ["5", "40"]
    elman, lstm = ([float(row[place]) for row in rows] for place in (1, 4))
    assert elman[1] < 1e-6 < 1e-2 < lstm[1]  # of the gradient, at the first step
    assert rows[1][2] == "not in 600"
    assert float(rows[1][3]) < 0.6
    assert [float(row[6]) for row in rows] == [1, 1]
    assert size_of(tmp_path / "reach.png") == [1100, 400]


def test_sunspots_need_statsmodels_and_say_so(tmp_path: Path) -> None:
    (tmp_path / "statsmodels").mkdir()
    (tmp_path / "statsmodels" / "__init__.py").write_text(
        "raise ModuleNotFoundError('No module named statsmodels', name='statsmodels')"
    )
    done = start(EXAMPLES / "yesterday_today_tomorrow.py", cwd=tmp_path, path=tmp_path)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert text.endswith("and statsmodels is not installed: pip install statsmodels matplotlib")
    assert not (tmp_path / "sunspots.png").exists()


def test_a_number_that_differs_is_an_error(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    golden = tmp_path / "tests" / "golden"
    shutil.copytree(ROOT / "tests" / "golden", golden)
    path = golden / "seed001_hello_charrnn.json"
    case = json.loads(path.read_text(encoding="utf-8"))
    case["expected"]["grads"]["b_h"][1] = "-0.74662874400"  # right to 5e-12
    path.write_text(json.dumps(case), encoding="utf-8")
    done = start(tmp_path / "examples" / "hello.py", "--quick", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("seed001_hello_charrnn: expected.grads b_a: expected [-3.834905072")
    assert done.stderr.count("\n") == 1  # a sentence, no traceback


def test_sentences_are_balanced_and_different() -> None:
    lines = (EXAMPLES / "sentences.tsv").read_text(encoding="utf-8").splitlines()
    assert "written for this project" in lines[1]
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    assert {len(row) for row in rows} == {2}
    labels, sentences = zip(*rows, strict=True)
    assert labels.count("0") == labels.count("1") == len(rows) / 2
    assert len(rows) >= 200
    assert len({sentence.lower() for sentence in sentences}) == len(rows)
