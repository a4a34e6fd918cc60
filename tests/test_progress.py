"""How often a progress bar speaks, by where it is shown."""

import io

from tqdm import auto

from leapstep.progress import progress_bar


def interval(monkeypatch, kind):
    monkeypatch.setattr(auto, "tqdm", kind)
    with progress_bar(3, "sampling", "step") as bar:
        return bar.mininterval


def test_a_bar_is_live_in_a_notebook_and_rare_in_a_file(monkeypatch):
    notebook = type("notebook", (auto.tqdm,), {"__module__": "tqdm.notebook"})  # tqdm.auto's choice under Jupyter
    assert interval(monkeypatch, auto.tqdm) == 30
    assert interval(monkeypatch, notebook) == 0.5


def test_a_bar_of_the_library_shows_to_people_only(monkeypatch):
    """On a terminal or in a notebook; tests and pipes stay without, unless it is asked for."""
    for live in (False, True):
        monkeypatch.setattr("sys.stderr", io.StringIO())
        monkeypatch.setattr("sys.stderr.isatty", lambda live=live: live)
        bars = [progress_bar(3, "sampling", "step", show=show) for show in (None, True, False)]
        assert [bar.disable for bar in bars] == [not live, False, True]
        for bar in bars:
            bar.close()


def test_a_bar_can_be_turned_off(capfd):
    with progress_bar(3, "sampling", "step", show=False) as bar:
        bar.delay = 0
        bar.update()
        bar.refresh()
    assert capfd.readouterr() == ("", "")
