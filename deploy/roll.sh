#!/bin/sh
# Restarts routers and nodes one after the other without a failed request, with the image and the settings of now: so it
# upgrades, too. Its arguments are options of docker compose.
set -eu
cd "$(dirname "$0")/.."

# Nodes first: they take what routers of before send, a new router may send what a node of before refuses.
for node in node-a node-b; do
  # A shard always has a node that serves: the new one comes before the old one goes.
  old=$(docker compose "$@" ps --quiet "$node")
  docker compose "$@" up --detach --wait --no-deps --no-recreate --scale "$node=$(($(echo "$old" | wc -l) + 1))" "$node"
  for container in $old; do docker rm "$(docker stop "$container")" >/dev/null; done
  echo "$node is new"
done
for router in router-1 router-2; do
  docker compose "$@" up --detach --wait --no-deps --force-recreate "$router"
  echo "$router is new"
done
