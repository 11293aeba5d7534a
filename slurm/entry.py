"""What a Slurm job's script starts: submitit's own entry, after checking who owns the file that it is going to unpickle.

python -m slurm.entry FOLDER
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import submitit
from submitit.core.submission import submitit_main

from slurm.files import NotOwn, check_own

SECONDS = 60  # the launcher renames the file once it knows the job's id


def main() -> None:
    """Check that the call and its folder are this user's alone, then run it."""
    folder = Path(sys.argv[1])
    job = submitit.SlurmJob(folder=folder, job_id=submitit.JobEnvironment().job_id)
    call = job.paths.submitted_pickle
    end = time.monotonic() + SECONDS
    while not call.exists() and time.monotonic() < end:
        time.sleep(0.2)
    try:
        check_own(call.parent)
        check_own(call)
    except NotOwn as error:
        sys.exit(f"not run: {error}")
    except FileNotFoundError:
        sys.exit(f"not run: the launcher left no call in {call} (it was stopped while submitting); start the grid again")
    submitit_main()


if __name__ == "__main__":
    main()
