"""Runs the benchmarks and writes BENCHMARKS.md: machine, versions, and per table its command and figures.

python tests/benchmarks/run.py [--only NAME …] [--out BENCHMARKS.md] [--manifest M]
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

NAMES = ("recognition", "latency", "footprint", "answers")
PACKAGES = ("torch", "transformers", "ctranslate2", "faster-whisper", "faiss-cpu", "sentence-transformers", "langgraph")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--out", type=Path, help="Markdown file; the screen if not given")
    parser.add_argument("--limit", type=int, help="the first N items of every set")
    parser.add_argument(
        "--manifest", type=Path, nargs="*", default=[], help="NeMo manifests with text, for recognition"
    )
    arguments = parser.parse_args()
    sections = [header()]
    for name in arguments.only:
        extra = {"manifests": arguments.manifest} if name == "recognition" else {}
        table = importlib.import_module(name).run(limit=arguments.limit, **extra)
        sections.append(table.markdown())
        print(sections[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(sections), encoding="utf-8")


def header() -> str:
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    cpu = names[0] if names else platform.processor()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    machine = f"Machine: {os.cpu_count()} CPUs ({cpu}), {platform.system()}, Python {platform.python_version()}"
    return f"# Benchmarks\n\n`make bench` writes this file.\n\n{machine};\n{versions}.\n"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
