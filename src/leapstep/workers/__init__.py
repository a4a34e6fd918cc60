"""Jobs that are cut into shards, and whoever makes them: this process, Ray, torchrun.

A job is a folder (`leapstep.workers.job`). Workers write shards into it, whole or not at all, and nothing else passes
between them: so it does not matter how many there are, who made what, how often they were stopped, or which of them
died. What is missing is made; what is there stays.
"""

from leapstep.workers.asked import Workers
from leapstep.workers.job import KIND, Make, Work
from leapstep.workers.running import ENGINES, HERE, TORCHRUN, Finished, check_engine, leads, run

__all__ = ["ENGINES", "HERE", "KIND", "TORCHRUN", "Finished", "Make", "Work", "Workers", "check_engine", "leads", "run"]
