"""How long a user waits for the commands whose time is limited, from the shell's prompt to the next.

    python -m benchmarks.waiting                            # every command
    python -m benchmarks.waiting --command "demo, digits"   # one alone; the others stay

Each runs once, in a process of its own and a new folder, with the threads that it takes by itself, and must end well.
Wall and processor seconds are told, those of processes it starts among them. The machine should do nothing else.
Results: ``benchmarks/results/waiting.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._machine import machine

# what it is called, what it runs, minutes at most
COMMANDS = {
    "demo, digits": (("demo", "--out", "{out}"), 3.0),
    "demo, MNIST": (("demo", "--data", "mnist", "--data-dir", "{mnist}", "--out", "{out}"), None),
    "prior, digits": (("prior", "train", "digits", "{out}"), 1.0),
    "prior, MNIST": (("prior", "train", "mnist:{mnist}", "{out}"), 10.0),
}


def main() -> None:
    """Measure the commands asked for and write them among those measured before."""
    folder = os.environ.get("WHENCE_DATA")
    parser = argparse.ArgumentParser(description="How long a user waits for commands whose time is limited.")
    parser.add_argument("--command", choices=tuple(COMMANDS), action="append")
    parser.add_argument("--data-dir", type=Path, default=Path(folder) if folder else None, required=folder is None)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    kept = options.results / "waiting.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in options.command or COMMANDS:
        found[name] = {**waited(name, options.data_dir / "mnist"), "machine": machine()}
        print(name, found[name], flush=True)
        kept.write_text(json.dumps({one: found[one] for one in COMMANDS if one in found}, indent=1) + "\n")
        (options.results / "waiting.md").write_text(page(found))


def waited(name: str, mnist: Path) -> dict[str, Any]:
    """Run a command and return its seconds."""
    words, most = COMMANDS[name]
    with tempfile.TemporaryDirectory() as scratch:
        given = [word.format(out=Path(scratch) / "out", mnist=mnist) for word in words]
        before, start = children(), time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", "from whence.cli import app; app()", *given], check=True, stdout=subprocess.DEVNULL
        )
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "processor_seconds": children() - before, "limit": most and 60 * most}


def children() -> float:
    """Return the processor seconds of all processes that have been started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def page(found: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    machines = sorted({json.dumps(one["machine"], sort_keys=True) for one in found.values()})
    rows = [
        f"| {name} | {one['seconds']:.0f} | {one['processor_seconds']:.0f} | "
        f"{'' if one['limit'] is None else format(one['limit'], '.0f')} |"
        for name, one in ((name, found[name]) for name in COMMANDS if name in found)
    ]
    head = ["| command | seconds | of the processors | at most |", "|---|---|---|---|"]
    return (
        "\n\n".join(
            [
                "Seconds that a command takes from a shell, once; the commands are in the script.",
                *(f"Machine: {one}" for one in machines),
                "\n".join([*head, *rows]),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
