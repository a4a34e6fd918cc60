"""The doctor: finds the convention of a network from the network itself.

It needs the network as a callable and a few hundred real samples; no labels, gradients or training code. `conventions`
lists what networks are like, `probe` finds how this one is called, `search` which convention explains its answers,
`curve` which noise level each timestep stands for, `examination` how well it does. What comes out is a `Diagnosis`: the
findings with how sure they are, what is wrong, and the lines of Python to paste. `open_case` reads network and data by
the names that the command line has for them.
"""

from leapstep.doctor.case import Case, open_case
from leapstep.doctor.diagnosing import diagnose
from leapstep.doctor.diagnosis import Diagnosis
from leapstep.doctor.evidence import Concern, Curve, Finding, Level, Passage

__all__ = ["Case", "Concern", "Curve", "Diagnosis", "Finding", "Level", "Passage", "diagnose", "open_case"]
