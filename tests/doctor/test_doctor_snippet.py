"""The lines that the doctor gives to paste: executed, they define all that they use, and mean what was found."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

import leapstep
from leapstep.doctor.curve import Profile, Recovered
from leapstep.doctor.findings import _schedule, complete
from leapstep.doctor.fits import Fit, candidates, code
from leapstep.doctor.probe import Probe
from leapstep.doctor.ranges import ranges
from leapstep.doctor.refinement import Candidate
from leapstep.doctor.samples import draw
from leapstep.doctor.search import Search
from leapstep.doctor.snippet import snippet
from leapstep.doctor.trials import Trial

F64 = torch.float64


def winner_of(span, convention):
    """A candidate of which only its convention is known."""
    trial = Trial(span, convention, torch.zeros(5, dtype=F64), 1)
    return Candidate(trial, [Fit(convention, 1.0, 0.0, 0.0)], {}, None, None)


def pasted(span, convention, samples, eta=0.0, has_origin=False, **given):
    """What the lines to paste leave behind, executed with what was given to the doctor, and nothing else.

    The convention can be written down and read again, and the lines have its process and prediction.
    """
    ask = Probe(lambda x, timestep, **conditions: 0.1 * x, samples.condition, torch.device("cpu"))
    whole = complete(winner_of(span, convention), ask, samples)
    whole = dataclasses.replace(whole, origin=span.values.mean(0) if has_origin else 0.0)
    assert leapstep.Convention.from_json(whole.to_json()) == whole
    scope = {"net": ask.net, **given}
    code = snippet(whole, samples, isinstance(span.scale, torch.Tensor), eta, "cpu")
    exec(code, scope)
    names = [name for name in ("data", "condition", "counts") if re.search(rf"\b{name}\b", code.split(":")[0])]
    assert names == [name for name in ("data", "condition", "counts") if name in given]
    assert scope["x0"].shape == (16, *samples.values.shape[1:])
    assert scope["x0"].isfinite().all()
    return scope


PLANE = torch.randn(40, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0]) + 3
LINEAR = leapstep.Convention("linear", fractional=True)


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
    found = leapstep.Convention(schedule, time=time, timesteps=None if schedule != "flow" else 1000, fractional=True)
    kinds, t = set(), torch.tensor([0.3, 0.8], dtype=F64)
    for candidate, _ in candidates(found, None, False, None):
        kind = (re.sub(r"[\d.e-]+", "0", code(candidate.process)), candidate.time)
        if kind in kinds or candidate.levels not in (None, 1000, 100):
            continue
        kinds.add(kind)
        candidate = dataclasses.replace(candidate, predicts="flow" if schedule == "flow" else "eps")
        process = pasted(span, candidate, samples)["diffusion"].process
        expected = candidate.process.log_snr(t) - 2 * math.log(abs(span.scale))
        torch.testing.assert_close(process.log_snr(t), expected, rtol=1e-5, atol=1e-5)
    assert len(kinds) >= 2


def test_the_lines_to_paste_run_for_every_finding():
    """Ranges, predictions, clocks, conditions, masks, a recovered curve: whatever is used is defined."""
    pictures = torch.randint(0, 256, (40, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pictures[:, 0] //= 2
    for data, is_picture in ((PLANE, False), (pictures, True)):
        samples = drawn(data)
        for span in ranges(samples.values, is_picture):
            needs = {"data": data} if isinstance(span.scale, torch.Tensor) else {}
            pasted(span, LINEAR, samples, **needs)
            for eta in (0.0, 1.0):
                scope = pasted(span, LINEAR, samples, eta, has_origin=True, data=data)
                mean = data.float().mean(0)
                mean = torch.zeros_like(mean) if isinstance(span.scale, torch.Tensor) and data.ndim == 2 else mean
                assert is_picture or torch.allclose(scope["diffusion"].origin, mean, atol=1e-4)
    samples = drawn(PLANE)
    span = ranges(samples.values, False)[0]
    for predicts in ("eps", "x0", "v", "score", "-eps", "-v", "-score"):
        pasted(span, dataclasses.replace(LINEAR, predicts=predicts), samples)
    pasted(span, leapstep.Convention("karras", "F", "log_sigma/4", sigma_data=0.5), samples)
    read = leapstep.from_log_snr({1: 9.0, 500: 0.0, 1000: -9.0}, "flow")._replace(timesteps=None)
    process = pasted(span, leapstep.Convention(read, "flow", "fraction"), samples)["diffusion"].process
    assert process.timesteps is None
    labels = {"y": np.arange(40)}
    for condition in (labels, lambda rows: {"y": rows}):
        scope = pasted(span, LINEAR, drawn(PLANE, condition), condition=condition)
        assert scope["given"]["y"].tolist() == list(range(16))


def test_where_it_does_not_count_the_lines_to_paste_keep_the_data():
    each = (torch.rand(40, 2, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    each[:, 0] = 1 - each[:, 1]
    for mask, first in ((each.numpy(), each[:16]), (np.array([1, 0]), torch.tensor([[1, 0]]).expand(16, 2))):
        samples = drawn(PLANE, None, mask)
        for span in ranges(samples.values, False, samples.counts):
            x0 = pasted(span, LINEAR, samples, data=PLANE.numpy(), counts=mask)["x0"]
            torch.testing.assert_close(x0[first == 0], PLANE[:16].float()[first == 0], rtol=1e-3, atol=1e-3)


def test_no_misfit_is_told_that_was_read_nowhere():
    span = ranges(PLANE, False)[0]
    flat = torch.zeros(5, 3, dtype=F64)
    profile = Profile(torch.arange(5, dtype=F64), torch.arange(3, dtype=F64), flat, flat, flat)
    curve = Recovered(*(torch.full((5,), math.nan, dtype=F64) for _ in range(3)), torch.zeros(5, dtype=torch.bool))
    for convention in (LINEAR, leapstep.Convention("karras", time="log_sigma/4")):
        winner = dataclasses.replace(winner_of(span, convention), profile=profile, curve=curve)
        finding = _schedule(Search([winner], [winner.trial]), weak=False)
        assert "misfit" not in finding.evidence
        assert "0 of" not in finding.evidence
        assert finding.evidence.startswith("at none of 5 timesteps does the network tell its noise level")
        assert finding.confidence == ("unsure" if convention is LINEAR else "likely")
