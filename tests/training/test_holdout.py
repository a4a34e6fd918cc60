"""What is held out is a property of each sample; a run remembers it, and whoever measures the run is handed it."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from leapstep.cli import options
from leapstep.data import holdout, read
from leapstep.models import checkpoint
from leapstep.models.data import parts_of
from leapstep.training import Trainer, train
from leapstep.training.configuration import configure

RNG = np.random.default_rng(0)


def array(tmp_path, values, name="x.npy"):
    np.save(tmp_path / name, values)
    return str(tmp_path / name)


def photos(folder, count, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}.png")
    return str(folder)


def settings(**more):
    return configure(
        {"channels": (8, 8), "attention": (0, 0), "blocks": 1, "groups": 4, "batch_size": 32, "steps": 2, **more}
    )


@pytest.mark.parametrize(
    ("asked", "n", "count"),
    [("auto", 99, 0), ("auto", 100, 10), ("auto", 20_000, 1000), ("25%", 40, 10), ("1%", 20, 1), ("7", 9, 7)],
)
def test_as_many_are_held_out_as_asked(tmp_path, asked, n, count):
    data = read(array(tmp_path, RNG.normal(size=(n, 3))))
    kept, held = holdout.rows(data, holdout.choose(data, asked))
    assert (len(kept), len(held)) == (n - count, count)
    assert sorted([*kept, *held]) == list(range(n))


def test_too_many_and_too_equal(tmp_path):
    data = read(array(tmp_path, RNG.normal(size=(9, 3))))
    with pytest.raises(ValueError, match="--holdout 8 of 9 samples leaves fewer than 2"):
        holdout.choose(data, "8")
    coins = read(array(tmp_path, RNG.integers(0, 2, (200, 1)), "coins.npy"))
    with pytest.raises(ValueError, match="equal samples are held out together"):
        holdout.choose(coins, "10%")
    assert holdout.choose(coins, "auto") is None


def test_a_sample_stays_held_out_whatever_joins_or_leaves_and_copies_share_a_side(tmp_path):
    values = RNG.normal(size=(300, 3))
    data = read(array(tmp_path, values))
    chosen = holdout.choose(data, "10%")
    held = {row.tobytes() for row in data.subset(holdout.rows(data, chosen)[1]).values}
    shuffled = RNG.permutation(np.concatenate([values[50:], values[:100], RNG.normal(size=(200, 3))]))
    other = read(array(tmp_path, shuffled, "more.npy"))
    kept, now = (other.subset(rows).values for rows in holdout.rows(other, chosen))
    assert held <= {row.tobytes() for row in now}
    assert not held & {row.tobytes() for row in kept}
    assert 5 < len({row.tobytes() for row in now} - held) < 40  # about a tenth of what is new


@pytest.mark.parametrize("mapped", [False, True])
def test_a_subset_is_a_data_set(tmp_path, mapped):
    values, labels = RNG.normal(size=(50, 2, 3)), RNG.integers(0, 4, 50)
    np.savez(tmp_path / "x.npz", x=values, labels=labels)
    data = read(array(tmp_path, values) if mapped else str(tmp_path / "x.npz"))
    chosen = np.array([3, 40, 7])
    part = data.subset(chosen)
    assert (getattr(part.values, "values", None) is data.values) == mapped  # a view, where a copy may be too large
    assert np.array_equal(part.values, values[chosen])
    assert part.scaling == data.scaling
    if not mapped:
        assert part.labels.tolist() == labels[chosen].tolist()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a plain folder of photos, of which it held out a quarter."""
    folder = tmp_path_factory.mktemp("photos")
    source = photos(folder / "photos", 40)
    train(source, folder / "run", config=settings(holdout="25%"), device="cpu", progress=False)
    return folder


def test_training_never_sees_what_is_held_out(run):
    trainer = Trainer(settings(holdout="25%"), str(run / "photos"), device="cpu", progress=False)
    kept, held = holdout.rows(trainer.data, trainer.samples.holdout)
    seen = set()
    for trainer.step in range(20):
        pictures, _ = trainer.batch(0)
        seen |= {picture.numpy().tobytes() for picture in pictures}
    assert len(held) == 10
    assert seen == {trainer.data.batch([i])[0].numpy().tobytes() for i in kept}


def test_commands_are_handed_the_run_s_parts(run):
    model = checkpoint.load(run / "run")
    whole, kept, held = (parts_of(model, str(run / "photos"))(part)[0] for part in ("all", "train", "test"))
    record = holdout.Holdout.recorded(model.details)
    assert [len(part) for part in (whole, kept, held)] == [40, 30, 10]
    assert (record.samples, record.of) == (10, 40)
    assert np.array_equal(held.values, whole.values[holdout.rows(whole, record)[1]])
    assert np.array_equal(kept.values, whole.values[holdout.rows(whole, record)[0]])


def test_the_same_photos_elsewhere_are_known_and_others_are_not(run, tmp_path):
    model = checkpoint.load(run / "run")
    assert len(parts_of(model, photos(tmp_path / "moved", 40))("test")[0]) == 10
    others = photos(tmp_path / "others", 40, start=1000)
    assert len(parts_of(model, others)("train")[0]) == 40
    with pytest.raises(ValueError, match="has no split 'test'"):
        parts_of(model, others)("test")


def test_other_data_may_have_no_part_for_training(run, tmp_path):
    photos(tmp_path / "other" / "test", 6, start=1000)
    photos(tmp_path / "other" / "validation", 4, start=2000)
    split, (data, _) = options.part(parts_of(checkpoint.load(run / "run"), str(tmp_path / "other")), "other", None)
    assert (split, len(data)) == ("test", 6)


def test_what_was_held_out_and_is_gone(run, tmp_path):
    model = checkpoint.load(run / "run")
    source = photos(tmp_path / "photos", 40)
    moved = checkpoint.dataclasses.replace(
        model, details={**model.details, "data": {**model.details["data"], "source": source}}
    )
    data = read(source)
    for row in holdout.rows(data, holdout.Holdout.recorded(model.details))[1]:
        (tmp_path / "photos" / f"{row:04d}.png").unlink()
    with pytest.raises(ValueError, match="of 10 samples that were held out 0 are left, of the others 30"):
        parts_of(moved, source)("test")


def test_a_damaged_record_is_named(run):
    details = json.loads((run / "run" / "leapstep.json").read_text())
    details["data"]["holdout"]["threshold"] = "x"
    with pytest.raises(ValueError, match=r"leapstep.json: data.holdout.threshold: string should match"):
        holdout.Holdout.recorded(details)


def test_a_run_goes_on_with_what_it_held_out(run, tmp_path):
    details = checkpoint.find_state(run / "run")[1]
    for had in ("25%", None):
        record = details if had else {**details, "data": {**details["data"], "holdout": None}}
        trainer = Trainer(settings(), str(run / "photos"), "cpu", False, resumed=record)
        assert len(trainer.samples.rows) == (30 if had else 40)


def test_a_part_of_its_own_is_kept(tmp_path):
    for name, count, start in (("train", 120, 0), ("test", 9, 500)):
        source = photos(tmp_path / "parts" / name, count, start)
    source = str(tmp_path / "parts")
    trainer = Trainer(settings(), source, device="cpu", progress=False)
    assert (len(trainer.samples.rows), len(trainer.samples.test), trainer.samples.holdout) == (120, 9, None)
    with pytest.raises(ValueError, match="a part test of its own"):
        Trainer(settings(holdout="5"), source, device="cpu", progress=False)
    assert Trainer(settings(holdout="no"), source, device="cpu", progress=False).samples.test is None


def test_a_name_with_test_in_it_is_no_part(tmp_path):
    """`read` takes a source called so whole as the part test: it would be trained on and measured against."""
    source = photos(tmp_path / "our-test", 120)
    assert holdout.own_test(read(source)) is None
    assert len(Trainer(settings(), source, device="cpu", progress=False).samples.rows) == 108


@pytest.mark.parametrize(("given", "kept"), [("10%", "10%"), (31, "31"), (False, "no"), (0, "no"), ("0", "no")])
def test_how_it_is_said(given, kept):
    assert settings(holdout=given).holdout == kept


@pytest.mark.parametrize("given", ["0.1", "ten", "100%", "-3", "10 %"])
def test_how_it_is_not_said(given):
    with pytest.raises(ValueError, match="holdout="):
        settings(holdout=given)


# --- the loss on what is held out ---


def test_the_loss_on_held_out_samples_is_the_same_question_each_time(run):
    """It draws the same noise and times for both parts, leaves the training's numbers alone, and is the loss."""
    plain, asked = (Trainer(settings(holdout="25%", dropout=0.1), str(run / "photos"), "cpu", False) for _ in range(2))
    for _ in range(2):
        before = asked.compare()
        assert asked.compare() == before
        assert plain.advance()["loss"] == asked.advance()["loss"]
        assert asked.compare() != before
    asked.samples = dataclasses.replace(asked.samples, test=asked.data, rows=np.arange(len(asked.data)))
    both = asked.compare()
    assert both["held_out"] == both["training"]
    for value in asked.ema.parameters():
        value.data.zero_()
    assert asked.compare()["held_out"] == pytest.approx(1, rel=0.03)  # silence is as wrong as eps is large


def test_memorising_shows(tmp_path):
    """A network that learned a dozen points by heart knows them better than those it never saw."""
    source = array(tmp_path, RNG.normal(size=(24, 16)))
    config = configure(
        {"holdout": "12", "width": 128, "depth": 2, "batch_size": 64, "steps": 300, "learning_rate": 3e-3, "warmup": 5,
         "ema_decay": 0.9, "holdout_every": 1000, "precision": "float32"}
    )  # fmt: skip
    trainer = Trainer(config, source, "cpu", False)
    for _ in range(config.steps):
        trainer.advance()
    losses = trainer.compare()
    assert losses["held_out"] > 2 * losses["training"]


def test_what_data_are_to_a_model(tmp_path):
    source = photos(tmp_path / "photos", 20)
    whole = read(source, split="all")
    held = holdout.choose(whole, "5")
    (tmp_path / "moved").symlink_to(source)

    def relation(name, split, **data):
        details = {"data": {"source": source, **data}}
        return holdout.relation(details, name, split, holdout.part(details, name, split, lambda split: whole))

    for name in (source, str(tmp_path / "moved")):
        assert relation(name, "test", holdout=held.model_dump()) == "held-out"
        assert relation(name, "train", holdout=held.model_dump()) == "training"
        assert relation(name, "all") == "training"
        assert relation(name, "test") == "held-out"  # a part of its own
    elsewhere = str(tmp_path / "elsewhere")
    assert relation(elsewhere, "test", holdout=held.model_dump()) == "held-out"  # known by the samples themselves
    assert relation(elsewhere, "all") == "?"
    assert holdout.relation({}, source, "test", whole) == "?"
