"""`leapstep`, `python -m leapstep`, and `accelerate launch -m leapstep train ...`."""

import sys

from leapstep import stopping


def main() -> None:
    """Run the command line. From its first moment on, a request to stop ends it with one line, and the code of it."""
    asked: list[int] = []

    def note(number: int) -> None:
        asked.append(number)
        stopping.stop(number)

    with stopping.handled(note):
        try:
            from leapstep.cli import app

            app(prog_name="leapstep")
        except (Exception, KeyboardInterrupt) as error:  # an import that is cut short may raise anything
            if not asked:
                raise
            request = error if isinstance(error, stopping.Stopped) else stopping.Stopped(asked[0])
            print(stopping.message(request), file=sys.stderr)
            sys.exit(stopping.exit_code(request))


if __name__ == "__main__":
    main()
