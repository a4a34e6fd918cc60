"""NaN and infinity are told of: a warning of the library's own, and one line that ends a command."""

import json
import math
import warnings

import pytest
import torch

import leapstep
from commands import invoke, refused
from leapstep.core.calibration import calibrate
from leapstep.core.likelihood import ode_log_likelihood, variational_bound
from leapstep.models import checkpoint

F64 = torch.float64


def breaking(at, value=math.inf, rows=slice(None), process=None):
    """A network that returns this value, for these rows, below a time."""

    def net(x, t):
        out = 0.5 * x
        out[rows] = torch.where(t[rows, None] < at, value, out[rows])
        return out

    return leapstep.from_network(net, process or leapstep.flow(), "x0", "fraction")


@pytest.mark.parametrize("method", [name for name, method in leapstep.TRANSITIONS.items() if method.calls == 1])
def test_the_first_step_that_breaks_is_told(method):
    """At t = 0.5 the network returns NaN for two of five samples: after the step from there they are not finite."""
    diffusion = breaking(0.55, math.nan, slice(1, 3))
    with pytest.warns(leapstep.NotFinite) as told:
        x = leapstep.sample(diffusion, (5, 2), 10, leapstep.TRANSITIONS[method].make())
    assert x.isfinite().all(1).tolist() == [True, False, False, True, True]
    (said,) = [str(each.message) for each in told]
    assert "2 of 5 samples are not finite, first after step 6 of 10, from t = 0.5 to 0.4" in said


def test_samples_that_go_their_own_way_tell_their_own_time():
    diffusion = breaking(0.3, rows=slice(2, 3))
    path = torch.tensor([[1.0, 1.0, 0.8], [0.6, 0.5, 0.2], [0.2, 0.0, 0.1], [0.0, 0.0, 0.0]], dtype=F64)
    with pytest.warns(leapstep.NotFinite, match=r"1 of 3 samples are .* after step 2 of 3, from t = 0\.2 to 0\.1"):
        list(leapstep.trajectory(diffusion, torch.randn(3, 2), path))


def test_a_number_that_is_too_large_for_the_dtype_is_told():
    """A network that overflows in half precision and not in float32."""
    net = lambda x, t: 1e5 * torch.ones_like(x)  # noqa: E731
    half = leapstep.from_network(net, leapstep.flow(), "x0", "fraction", dtype=torch.float16)
    with pytest.warns(leapstep.NotFinite, match="4 of 4 samples .* after step 1 of 3"):
        leapstep.sample(half, (4, 2), 3)
    wide = leapstep.from_network(net, leapstep.flow(), "x0", "fraction")
    assert leapstep.sample(wide, (4, 2), 3).isfinite().all()


def test_latents_are_told_of_and_finite_ones_are_not():
    x0 = torch.randn(3, 2)
    with pytest.warns(leapstep.NotFinite, match=r"after step 2 of 4, from t = 0\.25 to 0\.5"):
        leapstep.encode(breaking(0.3), x0, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        leapstep.decode(breaking(-1.0), leapstep.encode(breaking(-1.0), x0, 4), 4)


@pytest.mark.parametrize("tolerance", [None, 1e-2])
def test_likelihoods_are_told_of(tolerance):
    diffusion, x0 = breaking(0.4, math.nan), torch.randn(3, 2, dtype=F64)
    noise, path = leapstep.Noise(0, range(3), (2,), F64), [1.0, 0.5, 0.2, 0.1, 0.0]
    with pytest.warns(leapstep.NotFinite, match=r"3 of 3 bounds .* in the step from t = 0\.2 to 0\.1"):
        variational_bound(diffusion, x0, path, noise)
    late = breaking(0.15, math.nan)
    if tolerance is None:
        with pytest.warns(leapstep.NotFinite, match=r"3 of 3 likelihoods .* in the step from t = 0\.1 to 0\.2"):
            ode_log_likelihood(late, x0, path, noise, probes=0)
    else:
        with pytest.raises(FloatingPointError, match="output is not finite there, or jumps"):
            ode_log_likelihood(late, x0, path, noise, probes=0, tolerance=tolerance)


def test_nothing_is_calibrated_with_them():
    with pytest.raises(FloatingPointError, match=r"first at t = 0\.002"):
        calibrate(breaking(0.3), torch.randn(5, 2), torch.tensor([0.002, 0.5, 0.9], dtype=F64), per_time=2)


# --- commands ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[math.nan, math.inf])
def broken(request, monkeypatch):
    """Whatever model is loaded has one weight that is not finite."""
    load = checkpoint.load

    def wrong(*args, **options):
        found = load(*args, **options)
        list(found.network.parameters())[-1].data.view(-1)[0] = request.param
        return found

    monkeypatch.setattr(checkpoint, "load", wrong)


COMMANDS = {
    "sample": ["sample", "MODEL", "--n", 4, "--steps", 3],
    "trace": ["trace", "MODEL", "--steps", 3, "--consistency", 3],
    "interpolate": ["interpolate", "MODEL", "--seeds", "1,2", "--steps", 3],
    "reconstruct": ["reconstruct", "MODEL", "DATA", "--steps", 3],
    "evaluate": ["evaluate", "MODEL", "DATA", "--n", 8, "--steps", 3],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_ends_with_the_first_step(name, model, insects, tmp_path, broken):
    args = [{"MODEL": model, "DATA": insects}.get(arg, arg) for arg in COMMANDS[name]]
    out = [] if name == "evaluate" else ["--out", tmp_path / "o"]
    refused(invoke(*args, *out), r"samples are not finite, first after step \d of 3, from t = ")
    if name == "sample":
        assert not list(tmp_path.rglob("*.png"))
        assert json.loads((tmp_path / "o" / "manifest.json").read_text())["finished"] == 0


def test_a_sweep_names_the_cell_and_keeps_those_before(model, insects, tmp_path, monkeypatch):
    """The network breaks at low noise, which only many steps visit."""
    load = checkpoint.load

    def wrong(*args, **options):
        found = load(*args, **options)
        found.network.register_forward_hook(lambda _, given, out: out / (given[1] > 4)[:, None, None, None])
        return found

    monkeypatch.setattr(checkpoint, "load", wrong)
    args = ["sweep", model, insects, "--methods", "ddim", "--etas", 0, "--n", 8, "--steps", "2,20"]
    result = invoke(*args, "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert "leapstep: ddim, η = 0, 20 steps, trailing: 8 of 8 samples are not finite, first after" in result.stderr
    assert [cell["steps"] for cell in json.loads((tmp_path / "o" / "results.json").read_text())["cells"]] == [2]


@pytest.mark.parametrize("given", [["--steps", 3], ["--method", "ode", "--steps", 3], ["--method", "ode"]])
def test_a_likelihood_ends_likewise(given, model, insects, broken):
    refused(
        invoke("likelihood", model, insects, "--n", 4, *given),
        r"not finite, first in the step|output is not finite",
    )


def test_a_calibration_ends_likewise(points, array, tmp_path, broken):
    refused(invoke("calibrate", points, array, "--split", "all", "--per-level", 1), "not finite, first at t = 0.025")
    assert not (points / "calibration.json").exists()
