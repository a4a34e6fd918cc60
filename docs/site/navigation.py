"""The order of the documentation: which pages there are, and on which page of the reference each public name stands.

The pages follow Diátaxis (Procida, https://diataxis.fr): tutorials, notebooks and a course teach, how-to guides lead to
a goal, the reference states, explanations give reasons. A page that is missing here, or a public name, fails the tests
and the build.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Theme(NamedTuple):
    """A page of the reference.

    Attributes:
        title: its heading.
        words: what its names have in common.
        names: public names, without `leapstep.`, in the order of the page.
        module: the module that they are imported from.
    """

    title: str
    words: str
    names: tuple[str, ...]
    module: str = "leapstep"


def numbered(folder: str, suffix: str) -> tuple[str, ...]:
    """Pages whose files say their order."""
    return tuple(
        path.relative_to(ROOT).with_suffix("").as_posix() for path in sorted((ROOT / folder).glob(f"[0-9]*{suffix}"))
    )


PAGES = {
    "Tutorials": ("docs/first-steps", "docs/first-network", "docs/first-pictures", "docs/first-pipeline"),
    "Notebooks": numbered("examples/notebooks", ".ipynb"),
    "How-to guides": (
        "docs/sampling",
        "docs/few-calls",
        "docs/your-own-network",
        "docs/diffusers",
        "docs/editing",
        "docs/encoding",
        "docs/training",
        "docs/evaluation",
        "docs/likelihood",
        "docs/checkpoints",
        "docs/scaling",
        "docs/performance",
    ),
    "Reference": (
        "docs/commands",
        "docs/samplers",
        "reference/processes",
        "reference/denoisers",
        "reference/transitions",
        "reference/sampling",
        "reference/editing",
        "reference/fitting",
        "reference/likelihood",
        "reference/models",
        "reference/training",
        "reference/evaluation",
        "reference/doctor",
        "reference/diffusers",
        "reference/commands",
        "docs/glossary",
    ),
    "The course": ("docs/theory", *numbered("docs/course", ".md")),
    "Explanation": ("docs/results", "docs/architecture"),
    "Project": ("CONTRIBUTING", "SECURITY", "CHANGELOG"),
}
"""Groups of the navigation, each with its pages: paths from the root of the repository, without `.md`."""

THEMES = {
    "processes": Theme(
        "Processes and schedules",
        "A process is two curves, alpha and sigma; a schedule is a function that makes one.",
        (
            *("Process", "linear", "scaled_linear", "quadratic", "cosine", "sigmoid", "exponential"),
            *("exponential_s", "vp", "subvp", "ve", "karras", "flow"),
            *("from_betas", "from_alphas_cumprod", "from_log_snr", "rescale_zero_terminal_snr", "SCHEDULES"),
        ),
    ),
    "denoisers": Theme(
        "Denoisers and conventions",
        "From a network, however it is called, to an estimate of x0; and denoisers made of others.",
        (
            *("from_network", "Convention", "Condition", "Diffusion", "Denoiser", "Estimate"),
            *("guided", "clipped", "dynamic_threshold", "scaled", "accelerated"),
            *("Gaussian", "GaussianMixture", "Moments", "empirical"),
        ),
    ),
    "transitions": Theme(
        "Methods and transitions",
        "A method is a function with options that makes a transition, which moves x from a time t to a time s. "
        "[Every method](../docs/samplers.md) compares them.",
        (
            *("Transition", "Step", "Method", "ddim", "ddpm", "heun", "dpm_2", "rk4", "rk23", "rk45", "pf_euler"),
            *("dpmpp_2s", "dpmpp_2m", "dpmpp_3m", "unipc", "deis", "ipndm", "fitted"),
            *("sde_dpmpp_2m", "edm", "euler_maruyama", "pc"),
            *("churned", "corrected", "inverted", "TRANSITIONS"),
        ),
    ),
    "sampling": Theme(
        "Sampling and encoding",
        "The one loop, `trajectory`, and the functions that iterate it.",
        (
            *("sample", "sample_in_batches", "times", "SPACINGS", "trajectory", "State", "Noise", "NotFinite"),
            *("encode", "decode", "slerp", "spherical", "interpolation_grid"),
        ),
    ),
    "editing": Theme(
        "Editing and restoring",
        "Data that are changed in part or as far as noise hides them, and data of which only a linear observation is "
        "known, such as the pixels outside a hole.",
        ("edit", "inpainted", "blended", "restore", "given", "masked", "downsampled", "blurred"),
    ),
    "fitting": Theme(
        "Fitted solvers and calibration",
        "Methods whose times and coefficients are fitted to a network, and what the optimal variance needs.",
        ("tune", "fit", "Teacher", "refer", "Fitted", "Reference", "Distance", "calibrate", "Calibration"),
    ),
    "likelihood": Theme(
        "Likelihood",
        "How probable data are under a model.",
        ("variational_bound", "Bound", "ode_log_likelihood", "Density", "bits_per_dim"),
    ),
    "models": Theme(
        "Models and specifications",
        "A network with its convention in a folder, and the specification of what to draw from it.",
        ("load", "save", "push", "Published", "Model", "SamplingSpec"),
    ),
    "training": Theme(
        "Training and distillation",
        "Functions behind `leapstep train` and `leapstep distill`.",
        ("train", "distill"),
    ),
    "evaluation": Theme(
        "Evaluation",
        "Distances between samples and real data, with intervals; tables of methods; a page about a model.",
        ("evaluate", "Evaluation", "Measure", "sweep", "Sweep", "report", "Report"),
    ),
    "doctor": Theme(
        "The doctor",
        "Finds the convention of a network from the network and a few hundred samples of its data.",
        ("diagnose", "Diagnosis"),
    ),
    "diffusers": Theme(
        "Pipelines of diffusers",
        "Our methods in their pipelines, and their pipelines as models. It needs `pip install 'leapstep[diffusers]'`.",
        ("Scheduler", "from_scheduler", "from_pipeline", "LatentModel"),
        module="leapstep.diffusers",
    ),
}
"""Pages of the reference by their file's name."""
