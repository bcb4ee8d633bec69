#!/bin/sh
# On the head of a virtual cluster (hosts.py) what `ssh HOST COMMAND...` is on a real one; mpirun starts its daemons so.
#
# Like ssh it joins the arguments and has the host's shell read them: that is what mpirun quotes its one command line
# for. Nothing else is read by a shell. The environment goes along, which ssh would not do.
set -eu
[ "$1" != -x ] || shift  # from Hydra: no X11
host=$1
shift
# Under the quota of the host, if it has one: 0 is the process that writes it.
[ ! -e "/run/hosts/$host.quota" ] || echo 0 >"$(cat "/run/hosts/$host.quota")"
exec nsenter --all --target "$(cat "/run/hosts/$host")" -- sh -c "$*"
