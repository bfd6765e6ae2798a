"""Check that the sdist is the whole repository and the wheel its two packages, no more and no less.

python .ci/contents.py dist
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGES = ("vcut/", "weights_tools/")


def main(dist: Path) -> None:
    """Compare both packages in ``dist`` with the files that git knows, and exit with 1 if they differ."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True)
    repository = set(listed.stdout.rstrip("\0").split("\0"))
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = {entry.name.partition("/")[2] for entry in archive.getmembers() if entry.isfile()}
    made = {"PKG-INFO", "setup.cfg"}
    faults = differences(sdist, {n for n in names - made if ".egg-info/" not in n}, repository)
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    faults += differences(wheel, names, {n for n in repository if n.startswith(PACKAGES)})
    if faults:
        sys.exit("\n".join(faults))
    print(f"{sdist.name} and {wheel.name} hold what they should: {len(repository)} and {len(names)} files")


def differences(archive: Path, found: set[str], expected: set[str]) -> list[str]:
    """Name every file that is missing from an archive, and every one that does not belong there."""
    missing = [f"{archive.name}: {name} is missing" for name in sorted(expected - found)]
    return missing + [f"{archive.name}: {name} does not belong here" for name in sorted(found - expected)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
