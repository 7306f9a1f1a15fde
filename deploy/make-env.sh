#!/bin/sh
# make-env.sh [FILE]: writes .env, or FILE: .env.example with new secrets. Only its owner may read it.
set -eu
file=${1:-"$(dirname "$0")/../.env"}
[ ! -e "$file" ] || { echo "make-env: $file exists already, and databases may have been made with its passwords" >&2; exit 1; }
umask 077
while IFS= read -r line; do
  case $line in
    *=example-only-*) secret=$(od -An -v -N32 -tx1 /dev/urandom | tr -d ' \n') && echo "${line%%=*}=$secret" ;;
    *) echo "$line" ;;
  esac
done <"$(dirname "$0")/../.env.example" >"$file.new"
mv "$file.new" "$file"
