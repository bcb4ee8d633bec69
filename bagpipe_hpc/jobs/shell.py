"""The parts of a job script that are the same for all batch systems. They are constants: nothing is inserted into them.

They use the variables of the part to edit (`servers`, `data`, ...) and what the batch system's own part sets: `job_id`,
`num_nodes`, `launch`, which is the command that starts ranks, and `requeue`, which makes the job run again and ends the
script. `warn_after` is set if the batch system sends no signal before the time limit.
"""

from __future__ import annotations

from bagpipe_hpc.jobs.description import JobDescription

BEGIN = """\
set -uo pipefail
say() { printf '%s job %s: %s\\n' "$(date +%FT%T)" "$job_id" "$*"; }
fail() { say "error: $*"; exit 2; }
"""

ENVIRONMENT = """\
# shellcheck disable=SC1091
source "$venv/bin/activate" || fail "no virtual environment in $venv: run env/setup.sh, then name its .venv"
bagpipe=$(command -v bagpipe) || fail "no bagpipe in $venv: run env/setup.sh"
"""

THREADS = """\
export OMP_NUM_THREADS=$threads
"""

TRAIN = """\
mkdir -p "$run_dir" || fail "$run_dir cannot be made: name another run_dir"
if [[ -e $run_dir/DONE ]]; then say "$run_dir is complete; name another run_dir to train again"; exit 0; fi

# Every run notes where it starts, because some end without a message when their node fails.
newest() { cut -d" " -f1 "$run_dir/checkpoints/latest" 2>/dev/null || echo "the beginning"; }
give_up() {
  say "error: no run gets further than $from, max_restarts is $max_restarts: fix the cause, then submit again"
  exit 1
}
from=$(newest)
echo "job $job_id starts from $from" >>"$run_dir/starts.log" || fail "$run_dir cannot be written: name another run_dir"
starts=$(grep -cxF "job $job_id starts from $from" "$run_dir/starts.log")
if ((starts > max_restarts + 1)); then give_up; fi

# Pass signals on to the ranks, which write a checkpoint and exit with 75. USR1 comes before the time limit. After TERM
# the script ends.
launcher='' told='' signals=0 staged='' timer=''
pass_on() {
  told=$1 signals=$((signals + 1))
  if [[ -n $launcher ]]; then kill -s "$2" "$launcher"; fi
}
clean_up() {
  if [[ -n $staged ]]; then rm -rf -- "$staged"; fi
  if [[ -n $timer ]]; then kill "$timer"; fi
}
trap 'pass_on USR1 USR1' USR1
trap 'pass_on TERM "${end_signal:-TERM}"' TERM
trap clean_up EXIT
if [[ -n ${warn_after:-} ]]; then  # the batch system sends no signal before the time limit
  (trap 'kill "$!"; exit' TERM; sleep "$warn_after" & wait "$!"; kill -s USR1 "$$") &
  timer=$!
fi

if [[ $stage_data == true ]]; then  # only rank 0, on the node of this script, reads the data
  for scratch in "${SLURM_TMPDIR:-}" "/mnt/bb/${USER:-}" "${TMPDIR:-}" /tmp; do
    if [[ -n $scratch && -d $scratch && -w $scratch ]]; then break; fi
  done
  staged=$(mktemp -d "$scratch/bagpipe.XXXXXX") || fail "no scratch in $scratch: set stage_data=false"
  cp -r -- "$data/." "$staged" || fail "$data does not fit into $scratch: set stage_data=false"
  say "data staged to $staged"
  data=$staged
fi

arguments=(--data "$data" --run-dir "$run_dir" --resume auto)
arguments+=(--set "roles.servers=$servers" --set "training.threads=$threads" --set "checkpoint.every=$checkpoint_every")
for setting in "${settings[@]}"; do arguments+=(--set "$setting"); done
if [[ -n $config ]]; then arguments+=("$config"); fi

status=1  # if a signal came before the job began
if [[ -z $told ]]; then
  say "training on ${SLURM_JOB_NODELIST:-$num_nodes nodes}, from $from"
  "${launch[@]}" "$bagpipe" train "${arguments[@]}" &
  launcher=$!
  until  # a signal ends `wait`, but not the launcher
    before=$signals
    wait "$launcher"
    status=$?
    ((signals == before))
  do :; done
  launcher=''
fi

# Rank 0 writes DONE last. Exit codes are not enough: a launcher that loses a node may exit with 0.
if [[ -e $run_dir/DONE ]]; then say "done"; exit 0; fi
if [[ $told == TERM ]]; then say "told to end"; exit 143; fi
case $status in
  2 | 126 | 127) fail "the job cannot work in this way (see above)" ;;
  3) say "error: training diverged (see above); another run would end in the same way"; exit 3 ;;
esac
say "ended with status $status; the newest checkpoint is $(newest)"
if [[ $(newest) == "$from" ]] && ((starts > max_restarts)); then give_up; fi
say "continues in another run"
requeue
"""

COUNT_RANKS = """\
ranks=$((1 + servers + num_nodes * trainers_per_node))
"""

COUNT_FITTING_RANKS = """\
trainers=1  # the most that fit on the nodes and divide the blocks
while ((2 * trainers <= num_nodes * trainers_per_node && 2 * trainers <= blocks)); do trainers=$((2 * trainers)); done
ranks=$((1 + servers + trainers))
"""

SET_BLOCKS = """\
settings+=("training.blocks=$blocks")
"""


def count_ranks(job: JobDescription) -> str:
    """Return shell code that sets `ranks`."""
    return COUNT_FITTING_RANKS + SET_BLOCKS if job.blocks else COUNT_RANKS


# Ranks are placed on the nodes one at a time, so all nodes get the same number of trainers. Open MPI passes on to other
# nodes the variables that it is told to; MPICH passes on all of them.
MPIRUN = {
    "openmpi": """\
end_signal=USR1  # mpirun passes it on; after TERM, Open MPI's mpirun kills all ranks within a second
launch=(mpirun -n "$ranks" --map-by node --bind-to none -x OMP_NUM_THREADS -x PATH)
for name in $(compgen -e); do
  case $name in
    LD_LIBRARY_PATH | PYTHONPATH | NUMBA_* | HDF5_* | HOROVOD_* | NCCL_* | UCX_* | FI_*) launch+=(-x "$name") ;;
  esac
done
""",
    "mpich": """\
end_signal=USR1  # mpirun passes it on
launch=(mpirun -n "$ranks" -ppn 1 -bind-to none)
""",
}

IMPORT = """\
arguments=("$importer" "${files[@]}" --output "$data")
if [[ -n $schema_file ]]; then arguments+=(--schema "$schema_file"); fi
"${launch[@]}" "$bagpipe" import "${arguments[@]}" "${import_options[@]}"
"""

BENCH = """\
mkdir -p "$run_dir" || fail "$run_dir cannot be made: name another run_dir"
status=0
for benchmark in "${benchmarks[@]}"; do
  say "$benchmark"
  arguments=(bench "$benchmark" --json "$run_dir/$benchmark.json")
  case $benchmark in
    doctor)
      "${launch[@]}" "$bagpipe" doctor --directory "$run_dir" || status=1
      "${launch[@]}" "$bagpipe" doctor --mpi --servers "$servers"
      ;;
    oracle) "$bagpipe" "${arguments[@]}" --threads "$threads" --servers "$servers" ;;
    rma) "${launch[@]}" "$bagpipe" "${arguments[@]}" --servers "$((1 + servers))" ;;
    ladder)
      arguments+=(--data "$data" --run-dir "$run_dir/ladder" --set "roles.servers=$servers")
      "${launch[@]}" "$bagpipe" "${arguments[@]}"
      ;;
    *) fail "there is no benchmark $benchmark: name doctor, oracle, rma or ladder" ;;
  esac || status=1
done
exit "$status"
"""
