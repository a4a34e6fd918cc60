"""The lines that the doctor gives to paste: executed, they define all that they use, and mean what was found."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import leapstep
from leapstep.doctor.conventions import Route
from leapstep.doctor.curve import Profile, Recovered
from leapstep.doctor.findings import _schedule, arguments_of
from leapstep.doctor.fits import Fit, candidates
from leapstep.doctor.ranges import ranges
from leapstep.doctor.refinement import Candidate
from leapstep.doctor.samples import draw
from leapstep.doctor.search import Search
from leapstep.doctor.snippet import Sampling, snippet
from leapstep.doctor.trials import Trial

F64 = torch.float64


def winner_of(span, route, predicts="eps", code="leapstep.linear()", levels=None):
    """A candidate of which only what is pasted is known."""
    trial = Trial(span, route, predicts, torch.zeros(5, dtype=F64), 1)
    return Candidate(trial, [Fit(route, code, 1.0, 0.0, 0.0)], {}, None, None, levels)


PLAIN = Sampling(False, 0.0, "cpu")


def pasted(winner, samples, sampling=PLAIN, **given):
    """What the lines to paste leave behind, executed with what was given to the doctor, and nothing else."""
    arguments = arguments_of(winner, "[b]", True)
    scope = {"net": lambda x, timestep, **conditions: 0.1 * x, **given}
    code = snippet(winner, arguments, samples, sampling)
    exec(code, scope)
    names = [name for name in ("data", "condition", "counts") if re.search(rf"\b{name}\b", code.split(":")[0])]
    assert names == [name for name in ("data", "condition", "counts") if name in given]
    assert scope["x0"].shape == (16, *samples.values.shape[1:])
    assert scope["x0"].isfinite().all()
    return scope


PLANE = torch.randn(40, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0]) + 3
LINEAR_ROUTE = Route("linear", leapstep.linear()._replace(timesteps=None), "index", False, 1000)


def drawn(data, condition=None, counts=None):
    return draw(data, condition, counts, 40, torch.Generator().manual_seed(0), torch.device("cpu"))


@pytest.mark.parametrize(
    ("schedule", "time"),
    [("linear", "index"), ("linear", "fraction"), ("flow", "index"), ("flow", "fraction"), ("ve", "index")],
)
def test_the_lines_to_paste_run_for_every_schedule(schedule, time):
    """And make the process that was found, in the values of the data."""
    samples = drawn(PLANE)
    span = ranges(samples.values, False)[0]
    route = Route(schedule, leapstep.SCHEDULES[schedule]()._replace(timesteps=None), time, False, 1000)
    kinds, t = set(), torch.tensor([0.3, 0.8], dtype=F64)
    for candidate, code, _ in candidates(route, None, False, None):
        kind = (re.sub(r"[\d.e-]+", "0", code), candidate.time)
        if kind in kinds or candidate.timesteps not in (None, 1000, 100):
            continue
        kinds.add(kind)
        predicts = "flow" if schedule == "flow" else "eps"
        process = pasted(winner_of(span, candidate, predicts, code), samples)["diffusion"].process
        found = candidate.process.log_snr(t) - 2 * math.log(abs(span.scale))
        torch.testing.assert_close(process.log_snr(t), found, rtol=0.02, atol=0.02)
    assert len(kinds) >= 2


def test_the_lines_to_paste_run_for_every_finding():
    """Ranges, predictions, clocks, conditions, masks, a recovered curve: whatever is used is defined."""
    pictures = torch.randint(0, 256, (40, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pictures[:, 0] //= 2
    for data, is_picture in ((PLANE, False), (pictures, True)):
        samples = drawn(data)
        for span in ranges(samples.values, is_picture):
            needs = {"data": data} if isinstance(span.scale, torch.Tensor) else {}
            pasted(winner_of(span, LINEAR_ROUTE), samples, **needs)
            for sampling in (Sampling(True, 0.0, "cpu"), Sampling(True, 1.0, "cpu")):
                scope = pasted(winner_of(span, LINEAR_ROUTE), samples, sampling, data=data)
                mean = data.float().mean(0)
                mean = torch.zeros_like(mean) if isinstance(span.scale, torch.Tensor) and data.ndim == 2 else mean
                assert is_picture or torch.allclose(scope["diffusion"].origin, mean, atol=1e-4)
    samples = drawn(PLANE)
    span = ranges(samples.values, False)[0]
    for predicts in ("eps", "x0", "v", "score", "-eps", "-v", "-score"):
        pasted(winner_of(span, LINEAR_ROUTE, predicts), samples)
    edm = Route("karras", leapstep.karras()._replace(timesteps=None), "log_sigma/4", sigma_data=0.5)
    pasted(winner_of(span, edm, "F", "leapstep.karras()"), samples)
    pasted(winner_of(span, LINEAR_ROUTE, levels={1: 9.0, 500: 0.0, 1000: -9.0}), samples)
    labels = {"y": np.arange(40)}
    for condition in (labels, lambda rows: {"y": rows}):
        scope = pasted(winner_of(span, LINEAR_ROUTE), drawn(PLANE, condition), condition=condition)
        assert scope["given"]["y"].tolist() == list(range(16))


def test_where_it_does_not_count_the_lines_to_paste_keep_the_data():
    each = (torch.rand(40, 2, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    each[:, 0] = 1 - each[:, 1]
    for mask, first in ((each.numpy(), each[:16]), (np.array([1, 0]), torch.tensor([[1, 0]]).expand(16, 2))):
        samples = drawn(PLANE, None, mask)
        for span in ranges(samples.values, False, samples.counts):
            x0 = pasted(winner_of(span, LINEAR_ROUTE), samples, data=PLANE.numpy(), counts=mask)["x0"]
            torch.testing.assert_close(x0[first == 0], PLANE[:16].float()[first == 0], rtol=1e-3, atol=1e-3)


def test_no_misfit_is_told_that_was_read_nowhere():
    span = ranges(PLANE, False)[0]
    flat = torch.zeros(5, 3, dtype=F64)
    profile = Profile(torch.arange(5, dtype=F64), torch.arange(3, dtype=F64), flat, flat, flat)
    curve = Recovered(*(torch.full((5,), math.nan, dtype=F64) for _ in range(3)), torch.zeros(5, dtype=torch.bool))
    for route in (LINEAR_ROUTE, Route("karras", leapstep.karras(), "log_sigma/4")):
        winner = replace(winner_of(span, route), profile=profile, curve=curve)
        finding = _schedule(Search([winner], [winner.trial]), weak=False)
        assert "misfit" not in finding.evidence
        assert "0 of" not in finding.evidence
        assert finding.evidence.startswith("at none of 5 timesteps does the network tell its noise level")
        assert finding.confidence == ("unsure" if route is LINEAR_ROUTE else "likely")
