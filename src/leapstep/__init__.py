"""leapstep."""
