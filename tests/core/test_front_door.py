"""What newcomers pass in notebooks: it works, or one line says what to do."""

import inspect
import types
import warnings

import pytest
import torch

import leapstep
from leapstep.core.arguments import TrainingMode

MIXTURE = leapstep.GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), torch.full((2,), 0.1))
DIFFUSION = MIXTURE.diffusion("linear")
X = torch.zeros(2, 2)
NOISE = leapstep.Noise(0, range(2), (2,))


class Net(torch.nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, x, timestep):
        return 0.1 * self.layers(x)


def conditional(x, timestep, y):
    return 0.1 * x


class DDPMScheduler:
    """What a scheduler of diffusers is known by."""

    def __init__(self, prediction_type="epsilon", **attributes):
        self.config = types.SimpleNamespace(prediction_type=prediction_type)
        self.__dict__ |= attributes

    def set_timesteps(self, number):
        """Never called."""


class DDPMPipeline:
    def __init__(self, scheduler):
        self.scheduler, self.unet = scheduler, Net()


class Modelled:
    """As `leapstep.Model`: it makes its diffusion, of labels where it wants some."""

    def diffusion(self, labels=None):
        return DIFFUSION


SCHEDULER = DDPMScheduler("v_prediction", alphas_cumprod=torch.linspace(0.9, 0.1, 10))


# --- what works ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", ["cosine", leapstep.cosine, leapstep.cosine(), "squaredcos_cap_v2"])
def test_processes_go_by_name_by_function_and_as_they_are(process):
    assert torch.equal(leapstep.times(process, 7, "quad"), leapstep.times(leapstep.cosine(), 7, "quad"))
    for diffusion in (
        MIXTURE.diffusion(process),
        leapstep.empirical(process, X),
        leapstep.from_network(Net(), process),
    ):
        assert diffusion.process == leapstep.cosine()
    t = torch.tensor(0.5)
    assert torch.equal(MIXTURE.log_density(X, process, t), MIXTURE.log_density(X, leapstep.cosine(), t))


@pytest.mark.parametrize("make", [leapstep.churned, leapstep.corrected, leapstep.inverted])
def test_methods_of_methods_take_them_by_name(make):
    by_name, by_object = make("heun"), make(leapstep.heun())
    assert by_name == by_object == make(leapstep.heun)
    assert repr(by_name) == f"{make.__name__}(heun())"
    if make is not leapstep.inverted:
        assert torch.equal(
            leapstep.sample(DIFFUSION, (2, 2), 3, by_name), leapstep.sample(DIFFUSION, (2, 2), 3, by_object)
        )


def test_a_model_is_taken_for_its_diffusion_everywhere():
    model, path = Modelled(), leapstep.times("linear", 4)
    for call in (
        lambda m: leapstep.sample(m, (3, 2), 4, "unipc"),
        lambda m: leapstep.sample(lambda rows: m, (3, 2), 4, batch_size=2),
        lambda m: leapstep.encode(m, X, 4),
        lambda m: leapstep.decode(m, X, 4),
        lambda m: [*leapstep.trajectory(m, X, path)][-1].x,
        lambda m: leapstep.variational_bound(m, X, path, NOISE).total,
        lambda m: leapstep.ode_log_likelihood(m, X, path, NOISE).log_likelihood,
        lambda m: leapstep.calibrate(m, X, path[:-1].flip(0)).error,
        lambda m: leapstep.clipped(m, (-1, 1)).denoise(X + 3, path[1]),
        lambda m: leapstep.guided(m, 2.0).denoise(X, path[1]),
        lambda m: leapstep.scaled(m, 1.0, 2.0).denoise(X, path[1]),
    ):
        assert torch.equal(call(model), call(DIFFUSION))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: leapstep.clipped(net, (-1, 1)),
        lambda net: leapstep.guided(net, 2.0),
        lambda net: leapstep.scaled(net, 1.0, 2.0),
    ],
)
def test_what_wraps_a_diffusion_says_what_to_pass_for_a_network(wrap):
    with pytest.raises(ValueError, match=r"^diffusion is a network, Net: pass leapstep.from_network\("):
        wrap(Net())


def test_a_network_in_training_mode_is_told():
    class Ignoring(Net):
        def forward(self, x, timestep):
            return 0.1 * x

    for layer in (torch.nn.Dropout(0.1), torch.nn.BatchNorm1d(2), torch.nn.MultiheadAttention(2, 1, dropout=0.1)):
        words = rf"^Ignoring is in training mode, .* {type(layer).__name__} .* call net.eval\(\)$"
        diffusion = leapstep.from_network(Ignoring(layer), "linear", clip=(-1, 1))
        with pytest.warns(TrainingMode, match=words) as told:
            leapstep.sample(diffusion, (4, 2), 3, batch_size=2)
        assert len(told) == 1
        for travel in (leapstep.encode, leapstep.decode):
            with pytest.warns(TrainingMode, match=words):
                travel(diffusion, X, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for net in (Ignoring(torch.nn.Dropout(0.1)).eval(), Ignoring(torch.nn.Linear(2, 2), torch.nn.Dropout(0.0))):
            leapstep.sample(leapstep.from_network(net, "linear"), (4, 2), 3)


# --- what gets one line --------------------------------------------------------------------------------------------

MISTAKES = {
    "a network for a diffusion": (
        lambda: leapstep.sample(Net(), (1, 2)),
        r"a network, Net: pass leapstep.from_network\(",
    ),
    "a function for a diffusion": (
        lambda: leapstep.sample(conditional, (1, 2)),
        "a function, conditional: pass leapstep",
    ),
    "a network's class": (lambda: leapstep.from_network(Net, "linear"), "net=Net is a class, not a network"),
    "no network": (lambda: leapstep.from_network(X, "linear"), "net=Tensor is no network"),
    "a process for a diffusion": (lambda: leapstep.sample(leapstep.linear(), (1, 2)), "a Process, without a network"),
    "a convention": (
        lambda: leapstep.sample(leapstep.Convention("vp", time="fraction"), (1, 2)),
        "a Convention, without",
    ),
    "a folder": (lambda: leapstep.sample("runs/digits", (1, 2)), r"pass leapstep.load\('runs/digits'\)"),
    "a mixture": (lambda: leapstep.sample(MIXTURE, (1, 2)), r"GaussianMixture: pass what its .diffusion\(process\)"),
    "nothing": (lambda: leapstep.sample(None, (1, 2)), "diffusion is None: pass what leapstep.from_network"),
    "swapped": (lambda: leapstep.sample((1, 2), DIFFUSION), "shape="),
    "encode swapped": (lambda: leapstep.encode(X, DIFFUSION), r"diffusion is float32 \[2, 2\]: pass"),
    "a pipeline": (
        lambda: leapstep.sample(DDPMPipeline(SCHEDULER), (1, 2)),
        r"a DDPMPipeline of diffusers: pass leapstep.from_network\(pipeline.unet, leapstep.from_alphas_cumprod\("
        r"pipeline.scheduler.alphas_cumprod\), 'v'\)",
    ),
    "a pipeline of flows": (
        lambda: leapstep.decode(DDPMPipeline(DDPMScheduler(None)), X),
        r"leapstep.from_network\(pipeline.unet, leapstep.flow\(\), 'flow', '1000t'\)",
    ),
    "a scheduler for a diffusion": (
        lambda: leapstep.sample(SCHEDULER, (1, 2)),
        "DDPMScheduler of diffusers: .* network",
    ),
    "a scheduler for a process": (
        lambda: leapstep.from_network(Net(), SCHEDULER),
        r"leapstep.from_alphas_cumprod\(scheduler.alphas_cumprod\) and predicts='v'",
    ),
    "a network for a process": (
        lambda: leapstep.from_network(Net(), Net()),
        "process is a network, Net: pass the process",
    ),
    "from_network swapped": (
        lambda: leapstep.from_network("linear", Net()),
        "process is a network|net=str is no network",
    ),
    "a diffusion for a process": (lambda: leapstep.times(DIFFUSION, 5), "process is a Diffusion: pass its .process"),
    "no such process": (lambda: leapstep.from_network(Net(), "linaer"), r"no process 'linaer': did you mean linear\?"),
    "a number for a process": (lambda: leapstep.from_network(Net(), 1000), "process is 1000: pass a Process such as"),
    "a table's function": (lambda: leapstep.times(leapstep.from_betas, 5), "from_betas makes a process of a table"),
    "predicts noise": (
        lambda: leapstep.from_network(Net(), "linear", "noise"),
        "unknown predicts='noise': .*use one of eps",
    ),
    "time step": (lambda: leapstep.from_network(Net(), "linear", time="step"), "unknown time='step': .*index"),
    "conditions": (
        lambda: leapstep.from_network(conditional, "linear"),
        r"takes \(x, timestep, y\) .* pass condition=",
    ),
    "too many conditions": (
        lambda: leapstep.from_network(Net(), "linear", condition={"y": 1}),
        r"net\(x, timestep, y=\)",
    ),
    "no timestep": (
        lambda: leapstep.from_network(torch.nn.Linear(2, 2), "linear"),
        "Linear takes .* lambda x, timestep",
    ),
    "a range": (lambda: leapstep.from_network(Net(), "linear", clip=1), r"clip=1: give a range \(low, high\)"),
    "a number as a shape": (
        lambda: leapstep.sample(DIFFUSION, 16),
        "shape=16: pass the number of samples and the shape",
    ),
    "no samples": (lambda: leapstep.sample(DIFFUSION, (0, 2)), "n=0, .*at least 1"),
    "no steps": (lambda: leapstep.sample(DIFFUSION, (1, 2), 0), "steps=0: at least 1 step"),
    "too many steps": (lambda: leapstep.sample(DIFFUSION, (1, 2), 2000), "steps=2000: the network was trained on 1000"),
    "steps by name": (lambda: leapstep.sample(DIFFUSION, (1, 2), "ten"), "'ten'.* numbers in"),
    "half a step": (lambda: leapstep.sample(DIFFUSION, (1, 2), 2.5), "2.5.*times lie in"),
    "timesteps": (lambda: leapstep.sample(DIFFUSION, (1, 2), [999, 500, 0]), r"times lie in \[0, 1\]; .* t = k / T"),
    "steps that rise": (lambda: leapstep.sample(DIFFUSION, (1, 2), [0.1, 0.5, 1.0]), "strictly decreasing"),
    "no such method": (lambda: leapstep.sample(DIFFUSION, (1, 2), 5, "unipcc"), r"'unipcc': did you mean unipc\?"),
    "a schedule for a method": (
        lambda: leapstep.sample(DIFFUSION, (1, 2), 5, leapstep.linear),
        "transition=linear: pass a name",
    ),
    "a scheduler for a method": (
        lambda: leapstep.sample(DIFFUSION, (1, 2), 5, SCHEDULER),
        "transition=DDPMScheduler: pass",
    ),
    "a method of none": (
        lambda: leapstep.sample(DIFFUSION, (1, 2), 5, leapstep.churned),
        r"leapstep.churned\('heun'\)",
    ),
    "churned of nothing": (lambda: leapstep.churned("hoin"), "unknown transition 'hoin': .*use one of"),
    "spacing": (
        lambda: leapstep.sample(DIFFUSION, (1, 2), 5, spacing="uniform"),
        "unknown spacing 'uniform': use one of",
    ),
    "start": (
        lambda: leapstep.sample(DIFFUSION, (1, 2), 5, start="noise"),
        "unknown start='noise': use one of marginal, unit, gaussian",
    ),
    "seed": (lambda: leapstep.sample(DIFFUSION, (1, 2), 5, seed=-1), "seed=-1: must be an integer from 0"),
    "dtype": (
        lambda: leapstep.sample(DIFFUSION, (1, 2), 5, dtype="float16x"),
        "dtype='float16x': pass a floating-point",
    ),
    "device": (lambda: leapstep.sample(DIFFUSION, (1, 2), 5, device="gpu"), "device='gpu': .*cpu"),
    "guidance of nothing": (
        lambda: leapstep.from_network(Net(), "linear", guidance=3.0),
        "guidance=3.0 leads from a null",
    ),
    "save swapped": (
        lambda: leapstep.save("runs/digits", DIFFUSION),
        "model is a str: pass a leapstep.Model, and then",
    ),
    "bound to no end": (
        lambda: leapstep.variational_bound(Net(), X, [1.0, 0.0], NOISE),
        "a network, Net: pass leapstep",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line(name):
    call, words = MISTAKES[name]
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 330


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: leapstep.DDIMSampler, AttributeError, "has no attribute 'DDIMSampler'"),
        (lambda: leapstep.smaple, AttributeError, r"did you mean sample\?"),
        (lambda: leapstep.unipc(ordre=3), TypeError, r"unipc\(\) .*'ordre': it takes order"),
        (lambda: leapstep.sample(DIFFUSION, (1, 2), num_inference_steps=5), TypeError, r"did you mean steps\?"),
    ],
)
def test_names_that_there_are_not(call, kind, words):
    with pytest.raises(kind, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_the_front_door_has_a_name_for_every_task():
    for name in ("diagnose", "evaluate", "from_network", "load", "report", "sample", "save", "sweep", "train"):
        kinds = {parameter.kind for parameter in inspect.signature(getattr(leapstep, name)).parameters.values()}
        assert name in dir(leapstep)
        assert inspect.Parameter.VAR_POSITIONAL not in kinds
        assert getattr(leapstep, name).__doc__
    for kind in ("Condition", "Convention", "Estimate", "Model", "SamplingSpec"):
        assert isinstance(getattr(leapstep, kind), type)
