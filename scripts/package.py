"""Build the sdist and the wheel, check both, and use the wheel outside of the repository."""

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What a wheel must hold besides modules; setuptools leaves data files out without a word.
NEEDED = ("lds/py.typed", "lds/report/templates/page.css", "lds/report/templates/page.html.jinja")
# The compiled part, which a machine without a compiler leaves out, such as _native.cpython-311-x86_64-linux-gnu.so.
COMPILED = re.compile(r"lds/_native\.[\w.-]+\.(so|pyd)|lds/_native\.(so|pyd)")
TRAIN = ("train", "--dataset", "wine", "--method", "knn-gcn", "--out", "run")


def call(*command, cwd):
    """Run a command to its end; leave with its output if it fails."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, env=environment())
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def environment():
    """The variables of this process, less those that could lead to the repository's own modules."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def build(folder):
    """Return the sdist and two wheels: one of the sdist, one of the working tree."""
    # With the setuptools of .venv: scripts/setup has built with that of pyproject.toml already.
    builder = (sys.executable, "-m", "build", "--no-isolation")
    # Without a format, the wheel is built of the sdist.
    call(*builder, "--outdir", folder / "dist", ROOT, cwd=folder)
    call(*builder, "--wheel", "--outdir", folder / "tree", ROOT, cwd=folder)
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    (other,) = (folder / "tree").glob("*.whl")
    return sdist, wheel, other


def contents(wheel):
    """Name and checksum of every file, less RECORD, which has the same in another order."""
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.CRC for info in archive.infolist() if not info.filename.endswith("/RECORD")}


def check_contents(wheel, other):
    """Refuse a wheel that lacks a file, has one too many, or is another than that of the working tree."""
    found, expected = contents(wheel), contents(other)
    if found != expected:
        differing = sorted(name for name in found | expected if found.get(name) != expected.get(name))
        sys.exit(f"the wheel of the sdist differs from that of the working tree in {', '.join(differing)}")
    tracked = call("git", "ls-files", "--cached", "--others", "--exclude-standard", "lds", cwd=ROOT).splitlines()
    names = {name for name in found if ".dist-info/" not in name and not COMPILED.fullmatch(name)}
    wanted = {name for name in tracked if (ROOT / name).exists()}
    if names != wanted:
        sys.exit(f"the wheel must hold the files of lds/ and no others, but differs in {sorted(names ^ wanted)}")
    missing = [name for name in NEEDED if name not in names]
    if missing or not any(name.endswith(".dist-info/licenses/LICENSE") for name in found):
        sys.exit(f"the wheel must hold {', '.join(NEEDED)} and the licence, but does not")
    return len(found)


def make_environment(folder, wheel, *, clean):
    """Return the interpreter of a new environment that has the wheel."""
    # Without a pip of its own: it would bring a setuptools that hides a newer one.
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    if clean:
        constraints = ROOT / "constraints.txt"
        pip(python, "install", "--quiet", "-c", constraints, "torch")
        pip(python, "install", "--quiet", "-c", constraints, wheel)
        return python
    pip(python, "install", "--quiet", "--no-deps", wheel)
    # The packages of .venv after those of the new environment. Its own .pth files are not read, so that its editable
    # lds is not to be had.
    own = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    (Path(own) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def pip(python, *arguments):
    """Have the pip of .venv work on another environment."""
    return call(sys.executable, "-m", "pip", "--python", python, *arguments, cwd=python.parents[1])


def use(python, folder):
    """Import the package, run its command, and check that the requirements of all packages are met."""
    where = call(python, "-c", "import lds; print(lds.__file__)", cwd=folder).strip()
    if not where.startswith(str(python.parents[1])):
        sys.exit(f"lds must come from the wheel, but came from {where}")
    if "train" not in call(python.parent / "lds", "--help", cwd=folder):
        sys.exit("lds --help must name its commands, but does not")
    version = call(python.parent / "lds", "--version", cwd=folder).strip()
    built = call(python, "-c", "import lds._kernel as k; print(k.library() is not None)", cwd=folder).strip() == "True"
    if not version.endswith(f"(kernel: {'native' if built else 'torch'})"):
        sys.exit(f"lds --version must name the kernel, but says {version}")
    trained = call(python.parent / "lds", *TRAIN, cwd=folder)
    if not (folder / "run" / "result.json").exists():
        sys.exit("lds train must write result.json, but does not")
    pip(python, "check")
    return f"{version}\n{trained.strip()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clean", action="store_true", help="install the dependencies anew, instead of borrowing them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        sdist, wheel, other = build(folder)
        print(f"{wheel.name}: {check_contents(wheel, other)} files, the same from sdist and working tree")
        call(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=folder)
        python = make_environment(folder / "environment", wheel, clean=options.clean)
        print(use(python, folder))


if __name__ == "__main__":
    main()
