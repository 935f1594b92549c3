"""From process start to the first picture, beside what importing diffusers and torch costs here."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAFEGEN = Path(sys.executable).parent / "safegen"
RUNS = 5


def seconds(command: list[str], cwd: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=cwd)
    return time.perf_counter() - began


def main() -> None:
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import safegen": [sys.executable, "-c", "import safegen"],
        "from safegen import Pipeline": [sys.executable, "-c", "from safegen import Pipeline"],
        "first picture": [str(SAFEGEN), "generate", "a coat", "--seed", "1", "-o", "coat.png"],
        "import diffusers, torch": [sys.executable, "-c", "import diffusers, torch"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(RUNS):  # in turn, so that all meet the same load
            for name, command in commands.items():
                taken[name].append(seconds(command, scratch))
    medians = {name: round(statistics.median(times), 3) for name, times in taken.items()}
    ratio = medians["first picture"] / medians["import diffusers, torch"]
    print(
        json.dumps(
            {"median_s": medians, "first picture / import diffusers, torch": round(ratio, 2)},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
