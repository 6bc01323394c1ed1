#!/bin/bash
# One extraction on all nodes of a Slurm allocation: Ray's head and the driver on the first node, a Ray node on each other one.
#
#   sbatch --nodes=4 --gpus-per-node=4 slurm_ray.sh photos photos.h5 --backbone vgg16 --weights vgg16.weights.h5
#
# Images, cache and weights lie on a file system that all nodes have at the same paths. Slurm sends SIGINT two minutes before the
# time limit; what is finished is committed then, and the same command continues there.

#SBATCH --job-name=featurecache
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=04:00:00
#SBATCH --signal=B:INT@120
#SBATCH --output=featurecache-%j.log

set -euo pipefail
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_TMPDIR=/tmp # a job's own folder often has too long a name for sockets
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN # srun hands it to all nodes
address=$(hostname -I | cut -d ' ' -f 1)
port=6379

ray start --head --node-ip-address="$address" --port=$port --include-dashboard=false --disable-usage-stats
others=$((SLURM_JOB_NUM_NODES - 1))
if ((others > 0)); then
    srun --nodes=$others --ntasks=$others --exclude="$SLURMD_NODENAME" ray start --address="$address:$port" --block &
fi

featurecache extract "$@" --cluster "$address:$port" &
driver=$!
trap 'kill -TERM $driver' INT TERM # a program that a script starts with & ignores SIGINT
status=0
wait $driver || status=$?
while kill -0 $driver 2> /dev/null; do # the wait has ended with a signal
    status=0
    wait $driver || status=$?
done
ray stop > /dev/null
exit $status
