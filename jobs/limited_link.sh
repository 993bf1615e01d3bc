#!/usr/bin/env bash
# What a slow network costs, on one machine: apb bench on two ranks, each on a "host" of its own (a network namespace),
# joined by a link of a limited rate. As root, on Linux with Open MPI (tc and ip are in iproute2):
#
#   jobs/limited_link.sh FOLDER [OPTIONS OF apb bench]
#
# For each rate: apb without and with overlap, and ring; results in FOLDER/CASE-RATE.h5, a line for each on standard
# output. From the environment: APB, the program [build/release/apb]; APB_RATES, as tc spells them
# [unlimited 1gbit 100mbit]; APB_CASES [apb-off apb-on ring]. docs/performance.md has measurements.
set -euo pipefail
((EUID == 0)) || { echo "limited_link.sh: network namespaces need root: sudo $0 ..." >&2 && exit 2; }
(($# > 0)) || { echo "limited_link.sh: give a folder for the results" >&2 && exit 2; }
folder=$1
shift
apb=$(realpath "${APB:-$(dirname "$0")/../build/release/apb}")
read -r -a rates <<<"${APB_RATES:-unlimited 1gbit 100mbit}"
read -r -a cases <<<"${APB_CASES:-apb-off apb-on ring}"
mkdir -p "$folder"

hosts=("apb$$a" "apb$$b") # namespaces, each with the interface `wire`
scratch=$(mktemp -d)
clean_up() {
  for host in "${hosts[@]}"; do ip netns delete "$host" 2>/dev/null || true; done # takes the link along
  rm -rf "$scratch"
}
trap clean_up EXIT

ip netns add "${hosts[0]}"
ip netns add "${hosts[1]}"
ip link add name wire netns "${hosts[0]}" type veth peer name wire netns "${hosts[1]}"
for i in 0 1; do
  ip -n "${hosts[i]}" address add "10.77.0.$((i + 1))/24" dev wire
  ip -n "${hosts[i]}" link set wire up
  ip -n "${hosts[i]}" link set lo up
done

# How mpirun starts its daemon on 10.77.0.2, instead of by ssh. A name of its own makes it another host to MPI.
cat >"$scratch/enter" <<EOF
#!/bin/bash
while [[ \$1 != 10.77.0.* ]]; do shift; done
shift
exec ip netns exec ${hosts[1]} unshare --uts bash -c 'hostname host2; exec bash -c "\$*"' enter "\$@"
EOF
chmod +x "$scratch/enter"

# Both directions have the rate. Less than the burst passes at once.
limit() {
  for host in "${hosts[@]}"; do
    tc -n "$host" qdisc delete dev wire root 2>/dev/null || true
    [[ $1 == unlimited ]] || tc -n "$host" qdisc add dev wire root tbf rate "$1" burst 128kb latency 100ms
  done
}

on_both_hosts() {
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
    ip netns exec "${hosts[0]}" unshare --uts bash -c 'hostname host1; exec "$@"' start \
    mpirun --host 10.77.0.1:1,10.77.0.2:1 -n 2 --bind-to none --mca plm_rsh_agent "$scratch/enter" \
    --mca btl self,tcp --mca btl_tcp_if_include wire --mca oob_tcp_if_include wire "$@"
}

for rate in "${rates[@]}"; do
  limit "$rate"
  for case in "${cases[@]}"; do
    options=(--method "${case%-*}")
    [[ $case == *-* ]] && options+=(--overlap "${case#*-}")
    echo "== $case, $rate"
    on_both_hosts "$apb" bench --threads 1 --decode-tokens 0 "${options[@]}" --output "$folder/$case-$rate.h5" \
      --overwrite "$@" 2>"$scratch/errors" || { cat "$scratch/errors" >&2 && exit 1; }
  done
done
