"""What the reports of the doctor say, in which order, and that no string of anybody's breaks them."""

import dataclasses
import math
import re
import sys
from html.parser import HTMLParser
from unittest import mock

import pytest

import leapstep
from diagnoses import CODE, diagnosis
from leapstep.doctor.diagnosis import ROWS
from leapstep.doctor.evidence import Concern, Curve, Finding, Level, Passage
from leapstep.views.doctor import figures
from leapstep.views.doctor.page import html

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'single' {braces} $x_1$ \x1b[31mred\x07"


class Page(HTMLParser):
    """What a browser makes of a page; raises where an element is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.words, self.links = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self._note(tag, attributes)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self._note(tag, attributes)

    def _note(self, tag, attributes):
        given = dict(attributes)
        self.tags.append((tag, given))
        self.ids += [given["id"]] if "id" in given else []
        self.links += [value for name, value in given.items() if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def page(**changes):
    pytest.importorskip("matplotlib")
    text = html(diagnosis(**changes))
    assert not re.search(r"https?:|<script|url\(|@import", text)
    found = Page(text)
    assert len(set(found.ids)) == len(found.ids)
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    return found


CONCERNS = (Concern(1, "it was in train()", "call net.eval()"), Concern(3, "two calls differ by 8 %", "switch it off"))
UNSURE = (Finding("schedule", "linear()", "unsure", "1.5 tolerances off", "scaled_linear()"),)


def both(**changes):
    """The words of both reports, with single spaces; without the figures, which take their time."""
    with mock.patch.multiple(figures, **dict.fromkeys(("schedule", "denoising", "sampling"), lambda *_: "")):
        shown = page(**changes).text
    return " ".join(diagnosis(**changes).text().split()), shown


# --- what they say -------------------------------------------------------------------------------------------------


def test_a_healthy_network():
    for said in both():
        assert said.index("The convention is clear. Samples follow the data.") < said.index("eps, the noise")
        assert "In this range the error is 0.48 of the linear one's." in said
        assert "their spread is 1.02 of the data's, their mean 0.01 standard deviations away" in said
        assert "their shape off by 0.05, where up to 0.43 counts as following and luck alone makes 0.06" in said
        assert "48,120 samples went through the network, in 31.4 s." in said
        assert "assumed" not in said
        assert "wrong" not in said
        assert "next best" not in said  # what is sure needs no alternative
        assert "a guess" not in said


def test_what_contradicts_comes_first():
    for said in both(contradictions=("predicts='v' was assumed; as eps it errs less",), concerns=CONCERNS):
        assert "One thing that you assumed does not hold." in said
        assert said.index("predicts='v' was assumed; as eps it errs less.") < said.index("[-1, 1]")
    assert "Two things that you assumed do not hold." in diagnosis(contradictions=("a", "b")).text()


def test_concerns_come_by_weight_with_their_cures():
    for said in both(concerns=CONCERNS):
        places = [
            said.lower().index(word) for word in ("spoils every sample", "two calls", "switch", "worth", "it was")
        ]
        assert places == sorted(places)
        assert "One thing spoils every sample." in said
        assert "→ Switch it off." in said


def test_doubt_is_said_with_the_runner_up():
    for said in both(findings=UNSURE):
        assert "Not sure of the schedule." in said
        assert "unsure" in said
        assert "The next best is scaled_linear()." in said
    two = (*UNSURE, Finding("range", "[0, 1]", "unsure", "", ""), Finding("time", "index", "likely", "", "1000t"))
    said = diagnosis(findings=two).text()
    assert "Not sure of the schedule and range." in said
    assert "◐ likely" in said
    assert "The next best is 1000t." in said


def test_what_is_only_likely_is_not_clear():
    found = (Finding("range", "[0, 1]", "sure", ""), Finding("predicts", "eps", "likely", "", "v"))
    assert diagnosis(findings=found).verdict().startswith("The convention is clear but for the prediction, which is")
    found = (*found, Finding("time", "index", "likely", "", "fraction"))
    assert "but for the prediction and time, which are likely." in diagnosis(findings=found).verdict()


def test_an_untrained_network():
    """Nothing is sure, and its error is nowhere below that of the linear denoiser."""
    found = tuple(Finding(name, "it", "unsure", "") for name in ("range", "predicts", "time", "schedule"))
    poor = tuple(dataclasses.replace(level, error=level.linear) for level in diagnosis().levels)
    for said in both(findings=found, levels=poor):
        assert "Nothing that was tried fits: the network may be untrained, or the data not its own." in said
        assert "to paste, but a guess: not sure of the range and prediction" in said.lower()
    for said in both(findings=found):
        assert "Not sure of the range, prediction, time and schedule." in said


def test_sampling_that_parts_or_was_not_checked():
    limits = (0.25, 0.8, 1.5, 0.43)
    passages = (Passage(1.0, 0.1, 1.0, 0.1, 0.06, limits), Passage(0.31, 0.1, 1.91, 0.1, 0.06, limits))
    passages += (Passage(0.0, 0.6, 0.5, 0.9, 0.06, limits),)
    for said in both(passages=passages, parted=0.31):
        assert "Samples leave the data." in said
        assert "Samples part from the data at t = 0.31: spread 1.91 times the data's, limit 1.5." in said
        assert "At the end: mean 0.6 standard deviations from the data's, limit 0.25, spread 0.5 times" in said
        assert "the data's, at least 0.8, shape off by 0.9, limit 0.43." in said
    for said in both(eta=1.0):
        assert "Samples with eta = 1 follow the data from noise to the end" in said
    for said in both(passages=()):
        assert "Sampling was not checked." in said
        assert "follow the data." not in said
    assert page(passages=()).count("svg") == 2


def test_the_code_is_whole_and_can_be_pasted():
    assert diagnosis().text(40).endswith(f"\n\n{CODE.strip()}")  # and copied to the end
    assert " ".join(CODE.split()) in both()[1]


# --- the table and the track ---------------------------------------------------------------------------------------


def rows(text):
    return [line for line in text.splitlines() if re.match(r" +[\d.]+ +-?[\d.]+ +[\d.e-]+ +[\d.e-]+", line)]


def test_the_table_shows_some_levels_from_end_to_end():
    shown = rows(diagnosis().text())
    assert len(shown) == ROWS
    assert shown[0].split()[0] == "0"
    assert shown[-1].split()[0] == "950"
    few = rows(diagnosis(levels=diagnosis().levels[:2]).text())
    assert [row.split()[0] for row in few] == ["0", "50"]
    assert "DENOISES" not in diagnosis(levels=()).text()


def test_the_track_puts_the_network_left_of_a_worse_denoiser_and_one_in_its_place():
    levels = (Level(0.1, 99, 3.0, 0.01, 0.1), Level(0.5, 499, 0.0, 0.5, 0.5), Level(0.9, 899, -3.0, 10.0, 1.0))
    text = diagnosis(levels=levels).text(100)
    better, same, worse = rows(text)
    scale = next(line for line in text.splitlines() if "timestep" in line and "0.01" in line)
    assert better.index("●") == scale.index("0.01")
    assert better.index("○") == scale.index("0.1", scale.index("0.01") + 4)
    assert better.index("│") == same.index("│") == scale.index("1 ", scale.index("0.1 ") + 3)
    assert "◉" in same
    assert worse.index("○") == better.index("│") < worse.index("●")
    assert "●" not in rows(diagnosis(levels=levels).text(50))[0]  # no room


@pytest.mark.parametrize("width", [40, 60, 100])
def test_lines_are_no_longer_than_the_width(width):
    said = diagnosis(findings=UNSURE, concerns=CONCERNS, contradictions=("word " * 60,), code="").text(width)
    beyond = [line for line in said.splitlines() if len(line) > max(width, 44)]
    assert beyond == []
    assert "\x1b" not in said


def test_sentences_are_finished_but_symbols_keep_their_case():
    said = diagnosis(concerns=(Concern(1, "eps is small", "x0 is better"), Concern(1, "v is odd!", ""))).text()
    assert "eps is small." in said
    assert "→ x0 is better." in said
    assert "v is odd!" in said
    assert "odd!." not in said


# --- the page ------------------------------------------------------------------------------------------------------


def test_the_page_stands_alone_and_has_text_for_every_figure():
    found = page()
    assert found.count("figure") == found.count("figcaption") == found.count("svg") == 3
    pictures = [given for tag, given in found.tags if tag == "svg"]
    assert all(given["role"] == "img" and len(given["aria-label"]) > 40 for given in pictures)
    for title in (
        "up to here they follow",
        "The schedule",
        "How well it denoises",
        "Samples against noised data",
        "log-SNR (nats)",
    ):
        assert title in found.text
    text = html(diagnosis())
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"#0[1-4]0", text)  # every stand-in has become a colour of the page


def test_hostile_strings_are_shown_as_they_are():
    findings = (Finding(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE),)
    changes = {
        "findings": findings,
        "concerns": (Concern(9, HOSTILE, HOSTILE),),
        "contradictions": (HOSTILE,),
        "code": HOSTILE,
    }
    found = page(**changes)
    assert found.count("script") == 0
    assert found.text.count("<script>alert(1)</script> & \"quotes\" 'single' {braces} $x_1$") == 9
    text = diagnosis(**changes).text()
    assert "\x1b" not in text
    assert "\x07" not in text


def test_a_curve_that_the_network_does_not_tell():
    timesteps = (0.0, 1.0, 2.0, 3.0)
    some = Curve(timesteps, (3.0, 1.0, None, -2.0), (2.5, None, None, -math.inf), (3.5, None, None, -1.0), (None,) * 4)
    found = page(curve=some, levels=(), passages=())
    assert "read from the network at 2 of 4 timesteps" in found.text
    assert "... but unsure" in found.text
    assert "300" not in page(curve=dataclasses.replace(some, named=(300.0, 1.0, 0.0, -300.0)), levels=()).text
    none = Curve(timesteps, (None,) * 4, (None,) * 4, (None,) * 4, (None,) * 4)
    assert page(curve=none, levels=(), passages=()).count("svg") == 0
    only = dataclasses.replace(none, named=(3.0, math.inf, 0.0, -math.inf))
    assert page(curve=only, levels=(), passages=()).count("svg") == 1
    sigmas = Curve((0.01, 0.1, 1.0, 10.0), (9.0, 4.0, 0.0, -4.0), (8.0, 3.0, -1.0, -5.0), (9.5,) * 4, (9.0,) * 4)
    assert (
        "0.01"
        in page(curve=sigmas, convention=leapstep.Convention("karras", time="sigma"), levels=(), passages=()).text
    )


def test_numbers_beyond_all_bounds():
    limits = (0.25, 0.8, 1.25, 0.43)
    levels = (Level(0.1, 99, math.inf, 1e6, 0.0), Level(0.5, 499, 0.0, math.nan, 0.5), Level(1, 999, -math.inf, 0, 1))
    passages = (Passage(1.0, 0.0, 1.0, 0.1, 0.1, limits), Passage(0.0, 1e6, 1e6, 13.8, math.nan, limits))
    found = page(levels=levels, passages=passages, parted=0.0)
    assert "1e+06" in found.text
    said = diagnosis(levels=levels, passages=passages, parted=0.0).text()
    assert re.search(r"inf +1e\+06 +0 ", said)
    assert "spread over 1000 times the data's, limit 1.2" in " ".join(said.split())


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'leapstep\[report\]'"):
        html(diagnosis())
    assert "eps, the noise" in diagnosis().text()


def test_str_is_the_text():
    assert str(diagnosis()) == diagnosis().text()
