#!/bin/sh
# Exchanges the containers of routers and nodes one by one without a failed request, for new ones with the image and the
# settings of now: so it upgrades, too. There are as many afterwards as before. Its arguments are options of docker compose.
set -eu
cd "$(dirname "$0")/.."

# Nodes first: they take what routers of before send, a new router may send what a node of before refuses.
for service in node-a node-b router-1 router-2; do
  old=$(docker compose "$@" ps --quiet "$service")
  count=$(echo "$old" | grep -c . || true)
  [ "$count" -gt 0 ] || { echo "roll: $service does not run; start it first" >&2; exit 1; }
  for container in $old; do
    # A new one comes before an old one goes: somebody always serves, and the others get no more to do.
    docker compose "$@" up --detach --wait --no-recreate --scale "$service=$((count + 1))" "$service"
    docker rm "$(docker stop "$container")" >/dev/null
  done
  echo "$service is new ($count)"
done
