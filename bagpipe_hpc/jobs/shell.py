"""The parts of a job script that are the same for all batch systems. Constants: nothing is ever put into them.

What they need comes from the part that is edited (`servers`, `data`, ...) and from the batch system's own part:
`job_id`, `num_nodes`, `launch`, the command that starts ranks, and `requeue`, which makes the job run again and ends
the script. `warn_after` is there where the batch system sends no signal before the time limit.
"""

BEGIN = """\
set -uo pipefail
say() { printf '%s job %s: %s\\n' "$(date +%FT%T)" "$job_id" "$*"; }
fail() { say "error: $*"; exit 2; }
"""

ENVIRONMENT = """\
# shellcheck disable=SC1091
source "$venv/bin/activate" || fail "no virtual environment in $venv: run env/setup.sh, then name its .venv"
bagpipe=$(command -v bagpipe) || fail "no bagpipe in $venv: run env/setup.sh"
export OMP_NUM_THREADS=$threads
"""

TRAIN = """\
mkdir -p "$run_dir" || fail "$run_dir cannot be made: name another run_dir"
if [[ -e $run_dir/DONE ]]; then say "$run_dir is done already; name another run_dir to train anew"; exit 0; fi

# A signal goes on to the ranks: USR1 before the time limit (they write a checkpoint and exit with 75), TERM to end.
launcher='' told='' signals=0 staged='' timer=''
pass_on() {
  told=$1 signals=$((signals + 1))
  if [[ -n $launcher ]]; then kill -s "$1" "$launcher"; fi
}
clean_up() {
  if [[ -n $staged ]]; then rm -rf -- "$staged"; fi
  if [[ -n $timer ]]; then kill "$timer"; fi
}
trap 'pass_on USR1' USR1
trap 'pass_on TERM' TERM
trap clean_up EXIT
if [[ -n ${warn_after:-} ]]; then  # the batch system sends no signal before the time limit
  (trap 'kill "$!"; exit' TERM; sleep "$warn_after" & wait "$!"; kill -s USR1 "$$") &
  timer=$!
fi

if [[ $stage_data == true ]]; then  # rank 0 alone reads the data, on the node of this script
  for scratch in "${SLURM_TMPDIR:-}" "/mnt/bb/${USER:-}" "${TMPDIR:-}" /tmp; do
    if [[ -n $scratch && -d $scratch && -w $scratch ]]; then break; fi
  done
  staged=$(mktemp -d "$scratch/bagpipe.XXXXXX") || fail "no scratch in $scratch: set stage_data=false"
  cp -r -- "$data/." "$staged" || fail "$data does not fit into $scratch: set stage_data=false"
  say "data staged to $staged"
  data=$staged
fi

arguments=(--data "$data" --run-dir "$run_dir" --resume auto)
arguments+=(--set "roles.servers=$servers" --set "training.threads=$threads")
for setting in "${settings[@]}"; do arguments+=(--set "$setting"); done
if [[ -n $config ]]; then arguments+=("$config"); fi

status=1  # of a job that was told to end before it began
if [[ -z $told ]]; then
  say "training on ${SLURM_JOB_NODELIST:-$num_nodes nodes}"
  "${launch[@]}" "$bagpipe" train "${arguments[@]}" &
  launcher=$!
  until  # a signal ends the wait, but not what is waited for
    before=$signals
    wait "$launcher"
    status=$?
    ((signals == before))
  do :; done
  launcher=''
fi

# Rank 0 writes DONE last. Exit codes say less: a launcher may lose a node and exit with 0.
if [[ -e $run_dir/DONE ]]; then say "done"; exit 0; fi
if [[ $told == TERM ]]; then say "told to end"; exit 143; fi
if ((status == 75)); then say "goes on in another run, from its last checkpoint"; requeue; fi
case $status in 2 | 126 | 127) fail "the job cannot work as it is (see above)" ;; esac

echo "job $job_id ended with status $status on $(date +%FT%T)" >>"$run_dir/failures.log"
failures=$(grep -cF "job $job_id ended" "$run_dir/failures.log")
if ((failures > max_failures)); then
  say "error: failed $failures times, max_failures is $max_failures: mend the cause, then submit again to go on"
  exit 1
fi
say "failed with status $status, for the $failures. time; starts again from its last checkpoint"
requeue
"""

COUNT_RANKS = """\
ranks=$((1 + servers + num_nodes * trainers_per_node))
"""

# Ranks are dealt out to the nodes one at a time, so every node gets equally many trainers.
MPIRUN = {
    "openmpi": """\
launch=(mpirun -n "$ranks" --map-by node --bind-to none -x OMP_NUM_THREADS)
""",
    "mpich": """\
launch=(mpirun -n "$ranks" -ppn 1 -bind-to none)
""",
}

IMPORT = """\
"$bagpipe" import criteo "${files[@]}" --output "$data"
"""

BENCH = """\
mkdir -p "$run_dir" || fail "$run_dir cannot be made: name another run_dir"
"${launch[@]}" "$bagpipe" doctor --directory "$run_dir"
"$bagpipe" bench oracle --threads "$threads" --servers "$servers" --json "$run_dir/oracle.json"
"""
