#!/usr/bin/env python3
"""Compiles every CUDA kernel for compute capability 9.0 (H100, H200) without a GPU, and reports registers and spills.

    python tests/campaigns/sm90.py [--configs 4] [--folder DIR] [-o docs/measurements/sm90.md]

The sources come from `cargo run -p cube-kernels --features sources --example sources`: every variant at its default and at sampled legal
configs, on tasks of real models. NVRTC makes PTX of them and ptxas machine code, both from NVIDIA's packages on PyPI
(`pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-nvcc-cu12 nvidia-cuda-runtime-cu12 nvidia-cuda-cccl-cu12`), which must be importable.
Exits with 1 when a source does not compile or a default config spills registers.
"""
import argparse
import ctypes
import re
import subprocess
import sys
import tempfile
from importlib.machinery import PathFinder
from multiprocessing.pool import ThreadPool
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ARCH = "sm_90a"


def part(package, path):
    """A path inside one of NVIDIA's packages; the campaign nvidia.py, which lies beside this, is another thing."""
    spec = PathFinder.find_spec("nvidia", sys.path[1:])
    found = [Path(folder) / package for folder in (spec.submodule_search_locations or [] if spec else [])]
    found = [folder for folder in found if folder.is_dir()]
    if not found:
        sys.exit(f"nvidia.{package} is not installed; see --help")
    return found[0] / path


class Nvrtc:
    """NVIDIA's run-time compiler, as cubecl-cuda calls it."""

    def __init__(self):
        folder = part("cuda_nvrtc", "lib")
        for builtins in folder.glob("libnvrtc-builtins.so*"):
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(next(folder.glob("libnvrtc.so*"))))
        includes = [part("cuda_runtime", "include"), part("cuda_nvcc", "include"), part("cuda_cccl", "include")]
        options = [f"--gpu-architecture={ARCH}", "-lineinfo", *(f"--include-path={path}" for path in includes)]
        self.options = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))

    def ptx(self, source):
        """PTX, or the compiler's first complaint."""
        library, program = self.library, ctypes.c_void_p()
        library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), None, 0, None, None)
        try:
            failed = library.nvrtcCompileProgram(program, len(self.options), self.options)
            kind = "ProgramLog" if failed else "PTX"
            size = ctypes.c_size_t()
            getattr(library, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
            text = ctypes.create_string_buffer(size.value)
            getattr(library, f"nvrtcGet{kind}")(program, text)
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))
        text = text.value.decode()
        if failed:
            raise ValueError(next((line for line in text.splitlines() if "error" in line), text[:200]))
        return text


def assembled(ptx, folder):
    """Registers of a unit, and bytes that it spills: stores, loads."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx", dir=folder) as file:
        file.write(ptx)
        file.flush()
        command = [str(part("cuda_nvcc", "bin/ptxas")), "-v", f"-arch={ARCH}", file.name, "-o", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError((done.stderr or done.stdout).splitlines()[0])
    number = lambda pattern: int(re.search(pattern, done.stderr).group(1))
    return number(r"Used (\d+) registers"), number(r"(\d+) bytes spill stores"), number(r"(\d+) bytes spill loads")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=int, default=4, help="sampled configs of each variant on each task")
    parser.add_argument("--folder", type=Path, help="where the sources go; default: a temporary folder")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    temporary = tempfile.TemporaryDirectory()
    folder = arguments.folder or Path(temporary.name)
    example = ["cargo", "run", "--release", "--quiet", "-p", "cube-kernels", "--features", "sources", "--example", "sources"]
    subprocess.run([*example, "--", str(folder), str(arguments.configs)], cwd=ROOT, check=True)
    rows = [line.split("\t") for line in (folder / "index.tsv").read_text().splitlines()]
    nvrtc = Nvrtc()

    def one(row):
        file, _, units, shared, kind, config, task = row
        try:
            return kind, config, task, int(units), int(shared), assembled(nvrtc.ptx((folder / file).read_text()), folder)
        except ValueError as error:
            return kind, config, task, int(units), int(shared), str(error)

    with ThreadPool() as pool:
        results = pool.map(one, rows)
    wrong = [row for row in results if isinstance(row[5], str)]
    spilling = [row for row in results if not isinstance(row[5], str) and row[5][1] > 0]
    bad_defaults = [row for row in spilling if row[0] == "default"]
    lines = ["| variant | config | task | units | shared bytes | registers | spill stores | spill loads |", "|---|---|---|---|---|---|---|---|"]
    for kind, config, task, units, shared, figures in results:
        variant, _, knobs = config.partition("@")
        knobs = knobs.partition(" ")[2] + (" (default)" if kind == "default" else "")
        shown = [figures, "", ""] if isinstance(figures, str) else figures
        lines.append(f"| `{variant}` | {knobs} | `{task}` | {units} | {shared} | " + " | ".join(map(str, shown)) + " |")
    summary = (
        f"{len(results)} sources for {ARCH}: {len(wrong)} do not compile, {len(spilling)} spill, "
        f"of them {len(bad_defaults)} at a default config; at most {max(row[5][0] for row in results if row not in wrong)} registers."
    )
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")
    else:
        print("\n".join(lines))
    print(summary)
    for kind, config, task, *_, why in wrong:
        print(f"{config} on '{task}': {why}", file=sys.stderr)
    sys.exit(1 if wrong or bad_defaults else 0)


if __name__ == "__main__":
    main()
