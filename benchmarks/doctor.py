"""How often the doctor is right: perfect networks in many conventions, and really trained ones.

    python benchmarks/doctor.py                          # all, about 20 minutes on 2 cores
    python benchmarks/doctor.py --cache zoo --every 8    # a sample of them; the trained networks' weights are kept

The perfect networks are exact denoisers (of the digits, of Gaussian mixtures in 2 and 32 dimensions, of 1-D series)
wrapped in the conventions of tests/strangers.py, with 5 to 20% of error added; the trained ones are those of zoo.py.
It prints what was missed, and a table of how sure the doctor was, for what was right and for what was wrong.
"""

import argparse
import math
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parent.parent / "tests")]

import torch
import zoo

import leapstep
from strangers import COMBINATIONS, near_size, verdict

NAMES = ("range", "predicts", "time", "schedule")
WORDS = ("sure", "likely", "unsure")


def perfect(number: int) -> tuple[str, dict[str, tuple[bool, str]], float]:
    """The verdict on one perfect network: what it is, right and how sure, and the seconds it took."""
    torch.set_num_threads(1)
    stranger = COMBINATIONS[number]
    net, data = stranger.network()
    diagnosis = leapstep.diagnose(net, data, check=False, budget=math.inf)
    backwards = " reversed" if stranger.reverse else ""
    what = (
        f"{number} {stranger.data} {stranger.range} {stranger.predicts} {stranger.schedule} {stranger.time}{backwards}"
        f" error {stranger.error}"
    )
    return what, verdict(stranger, diagnosis), diagnosis.seconds


def trained(name: str, cache: Path | None) -> tuple[str, dict[str, tuple[bool, str]], float]:
    """The same of a network of the zoo."""
    torch.set_num_threads(1)
    case = zoo.load(name, cache)
    diagnosis = leapstep.diagnose(case.net, case.data, check=False, budget=math.inf)
    return f"trained {name}", zoo_verdict(case, diagnosis), diagnosis.seconds


def zoo_verdict(case: zoo.Case, diagnosis: leapstep.doctor.Diagnosis) -> dict[str, tuple[bool, str]]:
    """Right and how sure, for a trained network; levels are compared where data and noise are of comparable size."""
    truth = case.truth
    convention = diagnosis.convention
    shift, scale = convention.scaling or (0.0, 1.0)
    near = abs(scale / truth["scale"] - 1) < 0.05 and abs(shift - truth["shift"]) < 0.05 * abs(truth["scale"])
    same = {"1000t": "index", "999t": "index", "index_from_1": "index"}  # a level apart at the most
    times = [same.get(name, name) for name in (convention.time, truth["time"])]
    clock = times[0] == times[1] and convention.reverse == truth["reverse"]
    shape = truth["reshape"] in (convention.reshape, "scalar")  # which takes a batch as well
    predicts = convention.predicts == truth["predicts"] and near_size(convention.sigma_data, truth["sigma_data"])
    names = ("process", "time", "timesteps", "reverse")
    theirs = leapstep.Convention(**{name: truth[name] for name in names}, fractional=True).timestep
    t = torch.linspace(0.001, 1, 3000, dtype=torch.float64)
    steps, levels = theirs(t).double(), truth["process"].log_snr(t)
    order = steps.argsort()
    variance = torch.tensor(((case.data - truth["shift"]) / truth["scale"]).astype(float)).var().log()
    right = []
    for timestep, named in zip(diagnosis.curve.timesteps, diagnosis.curve.named, strict=True):
        place = int(torch.searchsorted(steps[order], torch.tensor(timestep, dtype=torch.float64)).clamp(0, 2999))
        level = levels[order][place]
        if abs(level + variance) < 3.5:
            right.append(named is not None and abs(named - level) < 0.5)
    flags = {"range": near, "predicts": predicts, "time": clock and shape, "schedule": len(right) > 2 and all(right)}
    return {name: (bool(flags[name]), diagnosis[name].confidence) for name in NAMES}


def main(every: int, cache: Path | None, workers: int) -> None:
    """Diagnose them all and print the tables."""
    counts: Counter[tuple[str, bool, str]] = Counter()
    right = total = 0
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(perfect, number) for number in range(0, len(COMBINATIONS), every)]
        jobs += [pool.submit(trained, name, cache) for name in list(zoo.ZOO)[::every]]
        for job in jobs:
            what, verdicts, seconds = job.result()
            missed = [f"{name} ({word})" for name, (good, word) in verdicts.items() if not good]
            counts.update((name, good, word) for name, (good, word) in verdicts.items())
            right, total = right + (not missed), total + 1
            print(f"{what}: {'missed ' + ', '.join(missed) if missed else 'all right'}, {seconds:.0f} s", flush=True)
    print(
        f"\nall four right: {right} of {total}\n\n| | right: sure | likely | unsure | wrong: sure | likely | unsure |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in NAMES:
        cells = [str(counts[name, good, word]) for good in (True, False) for word in WORDS]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How often the doctor is right.")
    parser.add_argument("--every", type=int, default=1, help="take every so manieth network only")
    parser.add_argument("--cache", type=Path, help="where the zoo keeps its weights")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    main(arguments.every, arguments.cache, arguments.workers)
