"""`python -m leapstep`, and `accelerate launch -m leapstep train ...`."""

from leapstep.cli import app

app(prog_name="leapstep")
