"""All benchmarks of speed and memory, one after the other, and one table of them: `make bench`.

    python benchmarks/speed.py --out bench

Each subject is a program of its own (`python benchmarks/loop.py`), so that none finds what another has left in memory.
In the folder are `speed.json`; `table.md`, as docs/performance.md has it; and `details.md` with rows that have no
place in the table, such as those of every method.
"""

import argparse
import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import timing

SUBJECTS = ("network", "sampling", "training", "loop", "noise", "startup", "memory", "quality")


def rows_of(subject, options, folder):
    """What a subject measures: the machine and its rows; None where it failed."""
    path = Path(folder) / f"{subject}.json"
    command = [sys.executable, str(Path(__file__).with_name(f"{subject}.py")), "--json", str(path), *options]
    if subprocess.run(command).returncode or not path.is_file():
        return None
    found = json.loads(path.read_text())
    ratios = [timing.Quartiles(*row.pop("ratio")) for row in found["rows"]]
    rows = [timing.Row(**row, ratio=ratio) for row, ratio in zip(found["rows"], ratios, strict=True)]
    return found["machine"], rows


def page(machine, rows, minutes, command):
    """The table in Markdown, with what it was measured on."""
    facts = "".join(f"- {name}: {value}\n" for name, value in machine.items())
    measured = f"Measured on {date.today().isoformat()} by `{command}` in {minutes:.0f} minutes:"
    return f"{measured}\n\n{facts}\n{timing.markdown(rows)}\n"


def main(arguments, options):
    began, found, failed = time.monotonic(), {}, []
    subjects = [subject for subject in SUBJECTS if subject in (arguments.subjects or SUBJECTS)]
    with TemporaryDirectory() as folder:
        for number, subject in enumerate(subjects, start=1):
            passed = time.monotonic() - began
            print(f"--- {subject} ({number} of {len(subjects)}, after {passed:.0f} s)", flush=True)
            measured = rows_of(subject, options, folder)
            if measured is None:
                failed.append(subject)
            else:
                found[subject] = measured
    machine = next((machine for machine, _ in found.values()), {})
    rows = [row for _, rows in found.values() for row in rows]
    minutes = (time.monotonic() - began) / 60
    arguments.out.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python", *sys.argv]) if arguments.subjects or options else "make bench"
    for name, detail in (("table.md", False), ("details.md", True)):
        told = [row for row in rows if row.detail == detail]
        (arguments.out / name).write_text(page(machine, told, minutes, command))
    document = {"machine": machine, "minutes": minutes, "rows": [row._asdict() for row in rows]}
    (arguments.out / "speed.json").write_text(json.dumps(document, indent=1))
    print(f"\n{timing.text(row for row in rows if not row.detail)}\n")
    for name, value in machine.items():
        print(f"{name}: {value}")
    print(f"{minutes:.1f} minutes; {len([row for row in rows if row.met])} of", end=" ")
    print(f"{len([row for row in rows if row.met is not None])} goals met; see also {arguments.out / 'details.md'}")
    return f"failed: {', '.join(failed)}" if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Measure speed and memory beside peers.", epilog="All other options go to every subject."
    )
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"of {', '.join(SUBJECTS)}; all by default")
    parser.add_argument(
        "--out", type=Path, default=Path("bench"), help="the folder for speed.json, table.md and details.md"
    )
    sys.exit(main(*parser.parse_known_args()))
