#!/bin/sh
# Exchanges the containers of nodes and routers one by one without a failed request, for as many with the newest image and
# settings, and the read side with a pause of seconds in what it answers. So it also upgrades, unless the RPC has a new version. Its arguments are options of docker compose.
set -eu
cd "$(dirname "$0")/.."

# Nodes first: a new node understands old routers, but an old node may refuse what a new router sends.
for service in node-a node-b router-1 router-2; do
  old=$(docker compose "$@" ps --quiet "$service")
  count=$(echo "$old" | grep -c . || true)
  [ "$count" -gt 0 ] || { echo "roll: $service does not run; start it first" >&2; exit 1; }
  for container in $old; do
    # The new container starts before the old one stops: somebody always serves, and the others get no more to do.
    docker compose "$@" up --detach --wait --no-recreate --scale "$service=$((count + 1))" "$service"
    docker rm "$(docker stop "$container")" >/dev/null
  done
  echo "$service is new ($count)"
  # After the nodes, as it asks them; before the routers, which may show it a new token. It may take its time to be ready, or not
  # be there at all.
  if [ "$service" = node-b ] && [ -n "$(docker compose "$@" ps --quiet read-side)" ]; then
    docker compose "$@" rm --force --stop read-side
    docker compose "$@" up --detach --no-recreate read-side
  fi
done
