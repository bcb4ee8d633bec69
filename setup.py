"""Packaging of bagpipe_hpc; the pinned environment it is tested with is in env/."""

import re
from pathlib import Path

from setuptools import find_packages, setup

VERSION_FILE = Path(__file__).parent / "bagpipe_hpc" / "version.py"
VERSION = re.search(r'^__version__ = "(.+)"$', VERSION_FILE.read_text(encoding="utf-8"), re.MULTILINE)

setup(
    name="bagpipe_hpc",
    version=VERSION[1],
    description="Train deep recommendation models on HPC clusters as if their embedding tables fitted into every GPU",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["bagpipe_hpc", "bagpipe_hpc.*"]),
    package_data={"bagpipe_hpc": ["py.typed"]},
    install_requires=[
        "h5py>=3.11",
        "matplotlib>=3.8",
        "mpi4py>=4.0",
        "numba>=0.60",
        "numpy>=1.26",
        "psutil>=5.9",
        "pyarrow>=16",
        "pydantic>=2.7",
        "pyyaml>=6.0",
        "rich>=13.7",
        "safetensors>=0.4",
        "tensorboardX>=2.6",
        "torch>=2.3",
        "typer>=0.12",
    ],
    extras_require={"horovod": ["horovod>=0.28"], "simulation": ["libcachesim>=0.3.5"]},
    entry_points={"console_scripts": ["bagpipe = bagpipe_hpc.cli.main:main"]},
)
