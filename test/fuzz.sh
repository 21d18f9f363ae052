#!/bin/sh
# Runs every fuzz target of the module for the given number of inputs each, 20000x, or time, 10s. A number is to be
# preferred: when a time ends on a busy machine, Go may report "context deadline exceeded" as a failure of the target
# (internal/fuzz compares the error with that of a context which has not heard of it yet).
set -eu
each=${1:-20000x}
cd "$(dirname "$0")/.."
grep -rl --include='*_test.go' '^func Fuzz' pkg | while read -r file; do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		echo "== $(dirname "$file") $target"
		go test -tags grpcnotrace -run '^$' -fuzz "^$target\$" -fuzztime "$each" "./$(dirname "$file")"
	done
done
