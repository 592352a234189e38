"""Runs the benchmarks and writes BENCHMARKS.md: machine, versions, and per table its command and figures.

python tests/benchmarks/run.py [--only NAME …] [--out BENCHMARKS.md] [--manifest M] [--n N] [--million]
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

NAMES = ("recognition", "latency", "footprint", "answers", "retrieval")
PACKAGES = ("torch", "transformers", "ctranslate2", "faster-whisper", "faiss-cpu", "sentence-transformers", "langgraph")
RIVALS = ("chromadb", "langchain-community")  # which may be missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--out", type=Path, help="Markdown file; the screen if not given")
    parser.add_argument("--limit", type=int, help="the first N items of every set")
    parser.add_argument(
        "--manifest", type=Path, nargs="*", default=[], help="NeMo manifests with text, for recognition"
    )
    parser.add_argument("--n", type=int, help="vectors, for retrieval: 100,000 if not given, at least 1,000")
    parser.add_argument("--million", action="store_true", help="one table more: a million vectors, ours alone")
    arguments = parser.parse_args()
    if arguments.n is not None and arguments.n < 1_000:
        parser.error("--n must be at least 1000")
    extras = {"recognition": {"manifests": arguments.manifest}, "retrieval": {"n": arguments.n}}
    works = [partial(importlib.import_module(name).run, **extras.get(name, {})) for name in arguments.only]
    if arguments.million:
        works.append(importlib.import_module("retrieval").million)
    sections = [header()]
    for work in works:
        sections.append(work(limit=arguments.limit).markdown())
        print(sections[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(sections), encoding="utf-8")


def header() -> str:
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    cpu = names[0] if names else platform.processor()
    versions = ", ".join([f"{name} {metadata.version(name)}" for name in PACKAGES] + [_version(one) for one in RIVALS])
    machine = f"Machine: {os.cpu_count()} CPUs ({cpu}), {platform.system()}, Python {platform.python_version()}"
    return f"# Benchmarks\n\n`make bench` writes this file.\n\n{machine};\n{versions}.\n"


def _version(name: str) -> str:
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return f"{name} not installed"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
