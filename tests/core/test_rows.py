"""Samples at different steps, of different numbers of steps, share a batch, come and go: bit for bit as if alone."""

import math

import pytest
import torch

import leapstep
from leapstep.core.process import along
from leapstep.core.transitions import join, rows, select

F64 = torch.float64
PROCESSES = {
    "linear": leapstep.linear(),
    "cosine": leapstep.cosine(),
    "ve": leapstep.ve(sigma_max=80),
    "flow": leapstep.flow(1000),
}
SOME = ["linear", "flow", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cosine", "ve"))]
FEW = {"rtol": 0.1, "atol": 0.1}  # steps of those that choose them
METHODS = {name: method.make(**({} if method.calls else FEW)) for name, method in leapstep.TRANSITIONS.items()} | {
    "ddim(0.5)": leapstep.ddim(0.5),
    "ddim(optimal)": leapstep.ddim(0.3, "optimal", lambda t: 0.3 * t, last_std=0.1),
    "ddpm(beta)": leapstep.ddpm("beta"),
    "ddpm(none)": leapstep.ddpm("none"),
    "ddpm(learned)": leapstep.ddpm("learned"),
    "ddim(0.5, raw)": leapstep.ddim(0.5, eps="raw"),
    "ddpm(optimal)": leapstep.ddpm("optimal", lambda t: 0.3 * t),
    "unipc(3)": leapstep.unipc(3),
    "deis(2)": leapstep.deis(2),
    "deis(2, log_snr)": leapstep.deis(2, "log_snr"),
    "deis(3, log_snr)": leapstep.deis(3, "log_snr"),
    "deis(4, rho)": leapstep.deis(4, "rho"),
    "ipndm(1)": leapstep.ipndm(1),
    "ipndm(3)": leapstep.ipndm(3),
    "dpmpp_2m(exact)": leapstep.dpmpp_2m("exact"),
    "sde_dpmpp_2m(0.5)": leapstep.sde_dpmpp_2m(0.5),
    "edm(1)": leapstep.edm(1.0, low=0.1, high=20.0),
    "churned ddim": leapstep.churned(leapstep.ddim(), 0.4),
    "corrected dpmpp_3m": leapstep.corrected(leapstep.dpmpp_3m(), 2, 0.1),
    "corrected rk23": leapstep.corrected(leapstep.rk23()),
    "pc(2)": leapstep.pc(2),
    "inpainted ddpm": leapstep.inpainted("ddpm", torch.tensor([0.4, -0.2, 0.9]), torch.tensor([0.0, 0.6, 1.0])),
    "inpainted dpmpp_2m, twice": leapstep.inpainted("dpmpp_2m", torch.ones(3), torch.tensor([1.0, 0.3, 0.0]), 2),
}
ENCODERS = {name: METHODS[name] for name, method in leapstep.TRANSITIONS.items() if method.deterministic} | {
    "inverted ddim": leapstep.inverted(leapstep.ddim()),
    "inverted heun": leapstep.inverted(leapstep.heun(), limit=9),
}


def exact(process):
    """The posterior mean of data N(0.4, 0.3), elementwise, so that no sum over the batch rounds differently."""

    def denoise(x, t):
        alpha, variance = process.alpha(t), process.sigma(t) ** 2
        share = alpha * 0.3 / (alpha**2 * 0.3 + variance)
        return 0.4 + along(share, x) * (x - along(0.4 * alpha, x))

    return leapstep.Diffusion(process, denoise)


def network(process, learned=False):
    """A network that predicts v, with one sum for each sample, of its own values; and a variance, if asked to."""
    weights = torch.linspace(-1, 1, 18, dtype=F64).reshape(6, 3)

    def net(x, k):
        hidden = torch.tanh((x[:, None, :] * weights.to(x)).sum(-1) + k.to(x)[:, None] / 500)
        v = (hidden[:, None, :] * weights.T.to(x)).sum(-1)
        return torch.cat([v, torch.tanh(v)], 1) if learned else v

    return leapstep.from_network(net, process, "v", clip=(-1, 1))


class Request:
    """Some samples of one seed on their way along times of their own."""

    def __init__(self, diffusion, method, dtype, seed, indices, times, x=None):
        self.diffusion, self.method, self.times, self.taken, self.memory = diffusion, method, times, 0, None
        self.noise = leapstep.Noise(seed, indices, (3,), dtype)
        self.x = diffusion.process.sigma(times[0]) * self.noise(0) if x is None else x

    def alone(self):
        """The samples of a run by themselves."""
        return self.along(self.times, 0)

    def along(self, times, taken):
        *_, last = leapstep.trajectory(
            self.diffusion, self.x, times, self.method, self.noise, memory=self.memory, taken=taken
        )
        self.memory = last.memory
        return last.x

    def advance(self, steps):
        """Take some steps by themselves."""
        self.x = self.along(self.times[self.taken : self.taken + steps + 1], self.taken)
        self.taken += steps
        return self


def advance(requests, steps):
    """Take some steps in one batch; samples at the end of their times wait there. Then part again."""
    sizes = [len(request.x) for request in requests]
    columns = []
    for request, size in zip(requests, sizes, strict=True):
        left = request.times[request.taken : request.taken + steps + 1]
        left = torch.cat([left, left[-1:].expand(steps + 1 - len(left))])
        columns.append(left[:, None].expand(-1, size))
    noise = leapstep.Noise(
        [request.noise.seed for request, size in zip(requests, sizes, strict=True) for _ in range(size)],
        [row for request in requests for row in request.noise.rows],
        (3,),
        requests[0].x.dtype,
    )
    *_, last = leapstep.trajectory(
        requests[0].diffusion,
        torch.cat([request.x for request in requests]),
        torch.cat(columns, 1),
        requests[0].method,
        noise,
        memory=join([request.memory for request in requests], sizes),
        taken=torch.cat([torch.full((len(request.x),), request.taken) for request in requests]),
    )
    low = 0
    for request, size in zip(requests, sizes, strict=True):
        request.x, request.memory = last.x[low : low + size], rows(last.memory, slice(low, low + size))
        request.taken = min(request.taken + steps, len(request.times) - 1)
        low += size


def requests(diffusion, method, dtype, path, data=None):
    """Three requests, of 7, 4 and 5 steps and 3, 2 and 4 samples, at times that differ."""
    return [
        Request(diffusion, method, dtype, seed, indices, path(steps), None if data is None else data[list(indices)])
        for seed, indices, steps in [(3, range(3), 7), (9, [12, 4], 4), (3, range(20, 24), 5)]
    ]


def share_a_batch(first, second, third):
    """Two half-finished requests go on together, a third begins beside them, and one of them leaves before the end."""
    first.advance(3)
    second.advance(1)
    advance([first, second], 1)
    advance([second, first, third], 1)
    third.advance(1)
    advance([third, first], 2)
    advance([second, third], 3)
    return [first.x, second.x, third.x]


@pytest.mark.parametrize("process", SOME)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("denoiser", "dtype"), [(exact, F64), (network, torch.float32)])
def test_samples_that_share_a_batch_are_those_of_separate_runs(process, method, denoiser, dtype):
    learned = method == "ddpm(learned)"
    diffusion = network(PROCESSES[process], learned) if learned else denoiser(PROCESSES[process])
    path = lambda steps: leapstep.times(diffusion.process, steps)  # noqa: E731
    expected = [request.alone() for request in requests(diffusion, METHODS[method], dtype, path)]
    found = share_a_batch(*requests(diffusion, METHODS[method], dtype, path))
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.isfinite().all()
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("process", SOME)
@pytest.mark.parametrize("method", ENCODERS)
def test_latents_that_share_a_batch_are_those_of_separate_runs(process, method):
    diffusion = exact(PROCESSES[process])
    data = 0.4 + math.sqrt(0.3) * torch.randn(24, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    path = lambda steps: leapstep.times(diffusion.process, steps).flip(0)  # noqa: E731
    expected = [request.alone() for request in requests(diffusion, ENCODERS[method], F64, path, data)]
    found = share_a_batch(*requests(diffusion, ENCODERS[method], F64, path, data))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_that_waits_stays_as_it_is(method):
    """Before its first step and between two: its x does not change by a bit, and its memory neither."""
    diffusion, transition = network(PROCESSES["linear"], method == "ddpm(learned)"), METHODS[method]
    times = torch.tensor([[0.9, 0.9, 0.6, 0.6, 0.3, 0.0], [0.9, 0.6, 0.3, 0.1, 0.05, 0.0]], dtype=F64).T
    x = torch.randn(2, 3, dtype=F64, generator=torch.Generator().manual_seed(9))
    noise = lambda step, draw=0: leapstep.Noise(1, [0, 1], (3,), F64)(torch.as_tensor(step).expand(2), draw)  # noqa: E731
    states = list(leapstep.trajectory(diffusion, x, times, transition, noise))
    assert torch.equal(states[0].x[0], x[0])
    assert torch.equal(states[2].x[0], states[1].x[0])
    *_, alone = leapstep.trajectory(
        diffusion, x[:1], times[[0, 2, 4, 5], 0], transition, lambda step, draw=0: noise([0, 2, 4, 5][step], draw)[:1]
    )
    assert torch.equal(states[-1].x[:1], alone.x)


def test_the_memory_of_a_sample_that_has_not_begun_is_zeros():
    begun = {"size": torch.tensor([0.5, 0.25]), "value": torch.ones(2, 3)}
    assert join([None, None], [2, 3]) is None
    assert rows(None, slice(1)) is None
    both = join([None, begun, {"size": torch.ones(1)}], [1, 2, 1])
    torch.testing.assert_close(both["size"], torch.tensor([0.0, 0.5, 0.25, 1.0]))
    torch.testing.assert_close(both["value"], torch.tensor([0.0, 1.0, 1.0, 0.0])[:, None].expand(4, 3))
    torch.testing.assert_close(rows(both, torch.tensor([2, 0]))["size"], torch.tensor([0.25, 0.0]))
    taken = select(torch.tensor([True, False]), None, begun)
    torch.testing.assert_close(taken["size"], torch.tensor([0.0, 0.25]))
    torch.testing.assert_close(taken["value"], torch.tensor([0.0, 1.0])[:, None].expand(2, 3))
    assert select(torch.tensor(True), None, None) is None
