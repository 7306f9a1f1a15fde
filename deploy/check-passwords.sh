#!/bin/sh
# check-passwords.sh NAME … -- COMMAND …: runs COMMAND when the variables NAME hold passwords that can be used. What makes
# something with a password checks it itself, because nothing has to check .env before (deploy/settings.ts).
set -eu
faults=0
for name; do
  shift
  [ "$name" != -- ] || break
  eval "value=\${$name:-}"
  case ${ONSALE_ENV:-production}:$value in
    *:) fault="is required" ;;
    *:*[!0-9A-Za-z._~-]*) fault="must be of letters, digits, and - . _ ~ only" ;;
    development:*) continue ;;
    *:*example-only-*) fault="holds a secret of .env.example; make your own (openssl rand -hex 32)" ;;
    *) continue ;;
  esac
  echo "$name: $fault" >&2
  faults=1
done
[ "$faults" = 0 ] || exit 1
exec "$@"
