#!/usr/bin/env bash
# Train with oracle, embedding servers and trainers in one MPI job.
#   flux batch train.flux
# -- edit this part (docs/hpc.md) --------------------------------------------------------------------
#flux: --job-name=bagpipe
#flux: --time-limit=14400s
#flux: --nodes=4
#flux: --exclusive

# Commands that your site needs, for example `module load`:

venv=.venv                        # virtual environment that env/setup.sh made
data=clicks                       # directory of the data set
stage_data=false                  # true: copy the data set to node-local scratch first
run_dir=runs/bagpipe              # directory for checkpoints, metrics and the summary
config=                           # YAML file with settings, or empty
settings=()                       # settings that override the file: section.key=value
servers=3                         # number of embedding servers
trainers_per_node=4               # trainers of each node, one for each GPU
threads=8                         # cores of each rank
checkpoint_every=1000             # iterations
max_restarts=5                    # restarts without a new checkpoint before the job gives up
script=train.flux                 # this file, as seen from where you submit it: the job submits it again
warning_seconds=300               # seconds before the time limit for the last checkpoint

# -- nothing to edit from here on --------------------------------------------------------------------
set -uo pipefail
say() { printf '%s job %s: %s\n' "$(date +%FT%T)" "$job_id" "$*"; }
fail() { say "error: $*"; exit 2; }

job_id=${BAGPIPE_JOB:-$FLUX_JOB_ID}
exec >>"bagpipe-$job_id.log" 2>&1
num_nodes=$(flux getattr size)
requeue() {
  flux --parent batch --env=BAGPIPE_JOB="$job_id" "$script" || fail "Flux does not accept $script: submit it again"
  exit 75
}

ranks=$((1 + servers + num_nodes * trainers_per_node))
launch=(flux run --nodes="$num_nodes" --ntasks="$ranks" --exclusive --taskmap=cyclic)
launch+=(--time-limit="$(($(flux job timeleft) - 10))s" --signal="SIGUSR1@${warning_seconds}s")
launch+=(-o pmi=pmix)  # needs the plugin flux-pmix

export OMP_NUM_THREADS=$threads
# shellcheck disable=SC1091
source "$venv/bin/activate" || fail "no virtual environment in $venv: run env/setup.sh, then name its .venv"
bagpipe=$(command -v bagpipe) || fail "no bagpipe in $venv: run env/setup.sh"

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
