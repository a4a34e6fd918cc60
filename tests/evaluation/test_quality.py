"""Settings, tables and advice against what they must be by hand; drawing in parts against drawing at once."""

import csv
import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

import leapstep
from leapstep.evaluation import cells as quality
from leapstep.evaluation import distances as evaluation
from leapstep.evaluation import drawing, results, yardstick
from leapstep.evaluation.distances import Estimate
from leapstep.inference.spec import SamplingSpec
from leapstep.networks import MLP
from leapstep.views import plots, tables
from leapstep.views.quality import plot
from random_models import model_of


def cell(label="ddim", steps=10, value=1.0, calls=None, half=0.1, spacing="trailing", seconds=2.0, metric="frechet"):
    return {
        "method": "ddim",
        "options": {},
        "label": label,
        "steps": steps,
        "spacing": spacing,
        "calls": calls or steps,
        "seconds": seconds,
        "n": 100,
        "metrics": {metric: {"value": value, "low": value - half, "high": value + half}},
    }


def test_every_beginning_of_the_interleaved_order_has_the_proportions_of_the_whole():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    seen = labels[yardstick.interleaved(labels)]
    assert sorted(seen) == sorted(labels)
    for count in (10, 20, 50, 90):
        assert np.bincount(seen[:count], minlength=3) == pytest.approx(np.array([0.6, 0.3, 0.1]) * count, abs=1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = MLP(shape=(2,), width=16, depth=1, timesteps=40, classes=3).eval()
    scaling = leapstep.core.scaling.Scaling(5.0, 2.0)
    return model_of(
        network, leapstep.linear(40), "v", (2,), scaling, clip=None, classes=("a", "b", "c"), null_label=None
    )


def drawn(model, **fields):
    calls = []
    spec = SamplingSpec("heun", steps=4, labels=(0, 1, 2), **{"n": 10} | fields)
    batches = list(drawing.batches(model, spec, calls.append))
    return np.concatenate([each.values for each in batches]), [each.calls for each in batches], sum(calls)


def test_samples_are_those_of_the_library_in_values_and_each_keeps_its_label_and_noise(model):
    values, calls, counted = drawn(model, batch_size=4)
    x = leapstep.sample(lambda rows: model.diffusion(torch.tensor(rows) % 3), (10, 2), 4, leapstep.heun())
    assert values == pytest.approx(x.double().numpy() * 2 + 5, abs=1e-5)
    seen = []
    leapstep.sample(model.diffusion(torch.zeros(1, dtype=torch.long)), (1, 2), 4, leapstep.heun(), on_step=seen.append)
    assert calls == [seen[-1].calls] * 3
    assert counted == seen[-1].calls * 10
    rest, _, more = drawn(model, batch_size=4, first=7, n=3)
    assert rest == pytest.approx(values[7:], abs=1e-5)
    assert more == seen[-1].calls * 3


class Space:
    """Features that double values, and a classifier of what is positive."""

    name, hash = "double", "0"

    def __init__(self, classify):
        self.probabilities = (lambda values: torch.from_numpy(values > 0).double()) if classify else None

    def extract(self, values):
        return torch.from_numpy(values) * 2


@pytest.mark.parametrize("classify", [False, True])
def test_gathering_goes_on_where_a_part_ends(classify):
    rule = yardstick.Yardstick(Space(classify), torch.zeros(4, 2), {})
    normal, timing = np.random.default_rng(0).normal, torch.arange(16, dtype=torch.float64).reshape(4, 2, 2) + 1
    batches = [drawing.Batch(normal(size=(3, 2)), 8 + i, timing[i]) for i in range(4)]
    *_, whole = drawing.gather(rule, iter(batches))
    *_, half = drawing.gather(rule, iter(batches[:2]))
    assert len(half.seen) == 6
    *_, both = drawing.gather(rule, iter(batches[2:]), half)
    assert torch.equal(both.seen, torch.from_numpy(np.concatenate([each.values for each in batches])) * 2)
    assert torch.equal(both.seen, whole.seen)
    assert both.calls == whole.calls == 11
    assert torch.equal(both.timing, timing.reshape(8, 2))
    assert both.seconds == whole.seconds
    if classify:
        assert torch.equal(both.probabilities, whole.probabilities)
        assert both.probabilities.shape == (12, 2)
    else:
        assert both.probabilities is None


def test_seconds_are_calls_at_their_median_pace_and_a_hiccup_does_not_count(model, monkeypatch):
    now, made = 0.0, 0

    def work(*_):
        nonlocal now, made
        made += 1
        now += {1: 100.0, 10: 60.0}.get(made, 3.0)  # starting up, and a hiccup

    monkeypatch.setattr(drawing.time, "perf_counter", lambda: now)
    rule = yardstick.Yardstick(Space(False), torch.zeros(4, 2), {})
    spec = SamplingSpec("heun", steps=4, n=18, labels=(0, 1, 2), batch_size=6)
    hook = model.network.register_forward_pre_hook(work)
    *_, part = drawing.gather(rule, drawing.batches(model, spec))
    hook.remove()
    quiet = [[6, 12], [6, 12], [6, 12], [3, 6]]
    assert part.timing.tolist() == [[103, 12], *quiet[1:], quiet[0], [63, 12], *quiet[2:], *quiet]
    assert part.seconds == pytest.approx({"seconds": 63.0, "seconds_low": 63.0, "seconds_high": 63.0})


def test_quantiles_count_values_by_their_weights():
    values, weights = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([2.0, 1.0, 1.0])
    assert drawing.quantiles(values, weights, (0.25, 0.5, 0.51, 1.0)) == [1.0, 2.0, 3.0, 3.0]
    assert drawing.quantiles(torch.tensor([0.1] * 10), torch.full((10,), 0.1), (1.0,)) == [pytest.approx(0.1)]


def test_a_yardstick_measures_what_the_library_does():
    generator = torch.Generator().manual_seed(0)
    samples, reference = (torch.randn(60, 2, generator=generator) + shift for shift in (0, 1))
    rule = yardstick.Yardstick(Space(False), reference, {}, ("frechet", "recall"), k=3, resamples=20)
    found, doubts = rule.measure(samples)
    assert doubts == []
    assert list(found) == ["frechet", "recall"]
    assert found["frechet"].value == pytest.approx(evaluation.frechet_distance(samples, reference))
    assert found["recall"].value == pytest.approx(evaluation.neighbours(samples, reference, 3)["recall"])
    (doubt,) = yardstick.Yardstick(Space(False), reference, {}, ("frechet",)).measure(samples[:3])[1]
    assert "3" in doubt
    assert quality.as_json({"a": Estimate(1.0, 0.5, None)}) == {"a": {"value": 1.0, "low": 0.5, "high": None}}


CELLS = [
    cell("ddim, η = 0", 5, 2.0),
    cell("ddim, η = 1", 5, 8.0),
    cell("ddim, η = 0", 20, 1.01, seconds=12.0),
    cell("ddim, η = 1", 20, 1.5),
    cell("ddim, η = 0", 100, 1.0, half=0.004, seconds=900),
]


def test_the_markdown_table_has_a_row_for_each_method_and_the_best_of_each_column_in_bold():
    lines = tables.markdown(CELLS, "frechet").splitlines()
    assert lines[0] == "| Fréchet distance | 5 steps | 20 steps | 100 steps |"
    assert lines[2].startswith("| ddim, η = 0 | **2.00 ± 0.10**<br>5 calls, 2 s | **1.01 ± 0.10**<br>20 calls, 12 s |")
    assert lines[2].endswith("| **1.0000 ± 0.0040**<br>100 calls, 15 min |")
    assert lines[3] == "| ddim, η = 1 | 8.00 ± 0.10<br>5 calls, 2 s | 1.50 ± 0.10<br>20 calls, 2 s |  |"
    assert len(lines) == 4


def test_rows_name_their_spacing_where_they_differ_in_it():
    cells = [cell(), cell(spacing="quad")]
    assert [line.split("|")[1].strip() for line in tables.markdown(cells, "frechet").splitlines()[2:]] == [
        "ddim, trailing",
        "ddim, quad",
    ]


def test_of_distances_the_least_is_best_and_of_all_else_the_most():
    low, high = cell(value=1.0), cell(value=2.0)
    assert quality.best([low, high], "frechet") is low
    low, high = cell(value=0.1, metric="recall"), cell(value=0.2, metric="recall")
    assert quality.best([low, high], "recall") is high
    assert quality.best([high, cell()], "recall") is high  # which the other one lacks
    dear, cheap = cell(steps=50), cell(steps=10)
    assert quality.best([dear, cheap], "frechet") is cheap


def test_the_spreadsheet_holds_every_number():
    rows = list(csv.DictReader(io.StringIO(tables.spreadsheet(CELLS))))
    assert len(rows) == 5
    assert rows[0]["label"] == "ddim, η = 0"
    assert [float(rows[4][f"frechet{part}"]) for part in ("", "_low", "_high")] == [1.0, 0.996, 1.004]
    assert "recall" not in rows[0]


def test_the_advice_names_the_cheapest_near_the_best_and_the_best_for_few_calls():
    first, *rest = quality.advice(CELLS, "frechet")
    assert first == (
        "cheapest within 2 % of the best (ddim, η = 0, 100 steps: 1.0000 ± 0.0040): ddim, η = 0, 20 steps: 1.01 ± 0.10"
    )
    assert rest == [
        "best for 5 or 10 calls: ddim, η = 0, 5 steps: 2.00 ± 0.10",
        "best for 20 calls: ddim, η = 0, 20 steps: 1.01 ± 0.10",
    ]
    assert quality.advice([cell(value=1.0), cell(steps=20, value=1.5)], "frechet")[0].startswith(
        "best and cheapest: ddim"
    )


def with_replicates(found, *deviations, metric="frechet"):
    value = found["metrics"][metric]["value"]
    return found | {"replicates": {metric: [value + deviation for deviation in deviations]}}


def test_cells_are_even_where_the_difference_of_their_replicates_may_be_none():
    best = with_replicates(cell("a", 20, 1.0), 0.3, -0.3, 0.2, -0.2)
    close = with_replicates(cell("b", 20, 1.1), 0.31, -0.29, 0.19, -0.21)  # shares its luck: always 0.1 worse
    wide = with_replicates(cell("c", 20, 1.2), -0.3, 0.3, -0.2, 0.2)  # does not
    unknown, early = cell("d", 20, 1.0001), with_replicates(cell("a", 5, 1.3), -0.3, 0.3, -0.2, 0.2)
    cells = [best, close, wide, unknown, early]
    assert quality.behind(close, best, "frechet").low == pytest.approx(0.1 - 1.96 * 0.01 * (4 / 3) ** 0.5, rel=1e-3)
    assert quality.behind(unknown, best, "frechet") is None
    assert quality.even(cells, "frechet") == [wide]
    lines = tables.markdown(cells, "frechet").splitlines()
    assert "| ≈ 1.20 ±" in lines[4]
    assert not any("≈" in line for line in (*lines[:4], lines[5]))
    assert lines[-1] == quality.EVEN
    assert quality.advice(cells, "frechet")[1] == (
        "cheapest that 100 samples do not tell from the best: a, 5 steps: 1.30 ± 0.10"
    )
    shares = [(0.8, (0.01, -0.01)), (0.79, (-0.01, 0.01)), (0.7, (0.01, -0.011))]
    more = [with_replicates(cell("a", 5, share, metric="recall"), *luck, metric="recall") for share, luck in shares]
    assert quality.even(more, "recall") == more[1:2]


def test_of_equal_calls_the_quality_decides_and_never_the_seconds():
    better, faster = cell("unipc", 10, 1.0, seconds=5.0), cell("dpmpp_2m", 10, 1.01, seconds=1.0)
    assert quality.advice([faster, better], "frechet")[0].startswith("best and cheapest: unipc, 10 steps")
    shares = [
        cell(name, 10, value, seconds=s, metric="recall") for name, value, s in (("a", 0.995, 1.0), ("b", 1.0, 9.0))
    ]
    assert quality.advice(shares, "recall")[0].startswith("best and cheapest: b, 10 steps")


def test_the_plot_over_seconds_shows_their_spread_and_no_line_runs_backwards():
    from matplotlib.figure import Figure

    cells = [cell("a", steps, 5 / steps, seconds=s) for steps, s in ((5, 3.0), (10, 2.5), (20, 9.0))]
    for each in cells:
        each |= {"seconds_low": 0.5 * each["seconds"], "seconds_high": 1.25 * each["seconds"]}
    figure = Figure()
    plot(cells, "frechet")(figure, plots.LIGHT)
    drawn = figure.axes[1].containers[0]  # at the paces 0.6, 0.25 and 0.45 seconds a call
    assert list(drawn.lines[0].get_xdata()) == pytest.approx([2.25, 4.5, 9.0])
    across = drawn.lines[2][0].get_segments()
    ends = np.array([(line[0][0], line[1][0]) for line in across])
    assert ends == pytest.approx(np.array([(0.125 * steps, 0.75 * steps) for steps in (5, 10, 20)]))
    assert len(figure.axes[0].containers[0].lines[2]) == 1  # calls are what they are


def test_an_axis_of_any_length_has_labels():
    rng = np.random.default_rng(0)
    for low, wide in zip(10 ** rng.uniform(-6, 6, 200), 1 + 10 ** rng.uniform(-3, 9, 200), strict=True):
        ticks = plots.round_numbers(low, low * wide)
        assert 2 <= len(ticks) <= 7, (low, wide, ticks)
        assert ticks == sorted(set(ticks))
        assert low <= ticks[0]
        assert ticks[-1] <= low * wide
    assert plots.round_numbers(0.9, 110) == [1, 10, 100]
    assert plots.round_numbers(1.8, 22) == [2, 5, 10, 20]
    assert plots.round_numbers(49.0, 66.0) == [50, 55, 60, 65]


def test_the_plot_shows_every_cell_over_calls_and_over_seconds():
    from matplotlib.figure import Figure

    figure = Figure()
    plot(CELLS, "frechet")(figure, plots.LIGHT)
    for axes, over in zip(figure.axes, ("calls", "seconds"), strict=True):
        drawn = [line for line in axes.get_lines() if len(line.get_xdata()) and line.get_marker() in plots.MARKERS]
        points = {(x, y) for line in drawn for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
        assert {value for _, value in points} == {each["metrics"]["frechet"]["value"] for each in CELLS}
        if over == "calls":
            assert {(each["calls"], each["metrics"]["frechet"]["value"]) for each in CELLS} == points
        assert axes.get_xlabel()
    assert Image.open(io.BytesIO(plots.png(plot(CELLS, "frechet"), (9, 4.5)))).width == 1800


def test_results_of_other_conditions_are_marked_and_explained():
    first = {"n": 5000, "split": "test", "features_sha256": "a" * 64}
    marked, notes = results.marks([first, dict(first), first | {"n": 500}, first | {"n": 500, "split": "train"}])
    assert marked == ["", "", "a", "a b"]
    assert notes == ["a: n is 500, not 5000", "b: split is train, not test"]
    _, (note,) = results.marks([first, first | {"features_sha256": "b" * 64}])
    assert note == "a: features_sha256 is bbbbbbbbbbbb..., not aaaaaaaaaaaa..."


def test_where_nothing_is_good_nothing_is_praised_unsaid():
    """The mean of the data, drawn again and again, is as far from them as they are spread; beyond that is worse."""
    random = np.random.default_rng(0).standard_normal((400, 3)) * [1, 2, 3] + 5
    known = torch.from_numpy(random)
    rule = yardstick.Yardstick(None, known, {})
    assert evaluation.frechet_distance(known.mean(0).expand(400, 3), known) == pytest.approx(rule.spread, rel=0.01)
    cells = [cell(value=15.0), cell(steps=20, value=14.5)]
    first, *rest = quality.advice(cells, "frechet", spread=14.0)
    assert first.startswith("no cell is as near to the data as their mean alone would be (Fréchet distance 14)")
    assert rest == quality.advice(cells, "frechet") == quality.advice(cells, "frechet", spread=14.9)


def test_of_equal_values_every_table_marks_the_cell_of_the_fewest_calls():
    """And of equally many calls the first: in Markdown, on a terminal and on a page, all of which are one table."""
    cells = [cell("heun", 10, 1.0, calls=20), cell("ddim", 10, 1.0), cell("unipc", 10, 1.0), cell("deis", 20, 1.0)]
    rows = dict(tables.table(cells, "frechet").rows)
    assert [name for name, entries in rows.items() for entry in entries if entry and entry.is_best] == ["ddim", "deis"]
    assert [line.split("|")[1].strip() for line in tables.markdown(cells, "frechet").splitlines() if "**" in line] == [
        "ddim",
        "deis",
    ]
    marked = [
        [text.startswith("[bold]") for text in column.cells] for column in tables.terminal(cells, "frechet").columns
    ]
    assert [column.index(True) for column in marked[1:]] == [1, 3]


def test_a_sweep_in_python_goes_on_in_its_folder_and_measures_what_evaluate_does(model, tmp_path, monkeypatch):
    monkeypatch.setenv("LEAPSTEP_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(5, 2, (60, 2)))
    source, measure = str(tmp_path / "points.npy"), leapstep.Measure(k=2, resamples=4)
    spec = SamplingSpec(n=12, labels=("a",), batch_size=5)
    given = {"split": "all", "progress": False}
    with pytest.warns(UserWarning, match="left out 50 steps: the model has 40 noise levels"):
        first = leapstep.sweep(
            model, source, None, measure, methods=["unipc"], steps=[2, 50], spec=spec, folder=tmp_path / "s", **given
        )
    specs = [leapstep.SamplingSpec(name, steps=2, n=12, labels=("a",), batch_size=5) for name in ("unipc", "heun")]
    both = leapstep.sweep(model, source, specs, measure, folder=tmp_path / "s", **given)
    assert both.cells[0] == first.cells[0]  # which was there
    assert [found["label"] for found in both.cells] == ["unipc", "heun"]
    assert leapstep.Sweep.read(tmp_path / "s") == both
    alone = leapstep.evaluate(model, source, specs[1], measure, **given)
    assert both.cells[1]["metrics"]["frechet"]["value"] == pytest.approx(alone.metrics["frechet"].value)
    assert SamplingSpec.from_json(alone.origin["spec"]) == dataclasses.replace(specs[1].checked(model), dtype="float32")
    assert all(parameter.requires_grad for parameter in model.network.parameters())  # a model is left as it was
