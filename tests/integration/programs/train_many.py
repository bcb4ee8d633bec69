"""Several training jobs one after the other in one MPI world, which saves their start-up.

Usage: train_many.py DATA OUT SETTINGS.json, the last a list of lists of `section.key=value`; job i goes to OUT/i.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bagpipe_hpc.roles.job import Request, run_training

if __name__ == "__main__":
    data, out, settings = (Path(argument) for argument in sys.argv[1:])
    for index, overrides in enumerate(json.loads(settings.read_text())):
        run_training(Request(None, data, out / str(index), overrides))
