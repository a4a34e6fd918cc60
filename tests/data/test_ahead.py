"""Work ahead of its turn: never too far, with the results that there would be without."""

import threading

import pytest

from leapstep.data.ahead import Ahead


class Making:
    """A function of numbers that notes for which it was called, and waits until it may go on."""

    def __init__(self):
        self.begun, self.may = [], threading.Event()
        self.may.set()

    def __call__(self, number):
        self.begun.append(number)
        assert self.may.wait(60)
        if number == 13:
            raise ValueError("13")
        return number * number


@pytest.mark.parametrize(("count", "threads"), [(0, 1), (1, 1), (4, 2), (3, 8)])
def test_results_are_those_of_the_function_and_none_is_made_twice_or_too_early(count, threads):
    make = Making()
    ahead = Ahead(make, count, threads)
    for number in range(40, 60):
        assert ahead.take(number) == number * number
        assert max(make.begun) <= number + count
    ahead.close()
    assert sorted(set(make.begun)) == sorted(make.begun)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_the_next_ones_are_under_way_before_they_are_asked_for():
    make = Making()
    ahead = Ahead(make, 2, 3)
    ahead.take(0)
    ahead.close()  # waits for those that have begun
    assert set(make.begun) <= {0, 1, 2}
    begun = threading.Event()
    ahead = Ahead(lambda number: begun.set() if number == 1 else None, 1, 1)
    ahead.take(0)
    assert begun.wait(60)
    ahead.close()


def test_a_jump_goes_on_from_there():
    ahead = Ahead(Making(), 3, 2)
    assert [ahead.take(number) for number in (0, 1, 30, 31, 5, 6, 6)] == [0, 1, 900, 961, 25, 36, 36]
    ahead.close()
    assert ahead.take(7) == 49  # and begins again
    ahead.close()


def test_an_error_is_raised_where_its_number_is_asked_for():
    ahead = Ahead(Making(), 4, 2)
    assert [ahead.take(number) for number in (10, 11, 12)] == [100, 121, 144]
    with pytest.raises(ValueError, match="13"):
        ahead.take(13)
    assert ahead.take(14) == 196
    ahead.close()
