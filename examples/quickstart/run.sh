#!/bin/sh
# Shows Keywell's main job on this machine, in a directory of its own, and cleans up after itself: start the agent on an
# example store, mount a volume, read files and API, rotate the secret, see both change. Needs root, to mount.
set -eu
agent=$(realpath "${1:-bin/agent}")
here=$(dirname "$(realpath "$0")")
if [ "$(id -u)" != 0 ]; then
	echo "The quickstart mounts a volume, which needs root: sudo $0 $agent" >&2
	exit 1
fi

[ -x "$agent" ] || { echo "There is no agent at $agent: run make build first" >&2; exit 1; }
command -v curl >/dev/null || { echo 'The quickstart asks the API with curl: install it first' >&2; exit 1; }

work=$(mktemp -d)
volume=$work/volumes/shop
pid=
cleanup() {
	"$agent" unmount --csi-socket "$work/csi.sock" "$volume" >/dev/null 2>&1 || true
	if [ -n "$pid" ]; then kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; fi
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }
until_true() { # a bounded wait: 100 times 0.1 s
	for _ in $(seq 100); do
		if "$@" >/dev/null 2>&1; then return 0; fi
		sleep 0.1
	done
	echo "gave up waiting for: $*" >&2
	cat "$work/agent.log" >&2
	exit 1
}
api() { curl --silent --show-error --unix-socket "$work/dapr-shop-http.socket" "http://localhost/v1.0/secrets/$1"; }
show() {
	run cat "$volume/database/user"; echo
	run cat "$volume/database/password"; echo
	printf '$ curl http://localhost/v1.0/secrets/example/database\n'
	api example/database
}

step '1. A store and a scope, as Dapr manifests'
cp -r "$here/resources" "$here/config.yaml" "$here/secrets.json" "$work/"
sed -i "s|SECRETS_FILE|$work/secrets.json|" "$work/resources/store.yaml"
run "$agent" check --resources-path "$work/resources" --config "$work/config.yaml"

step '2. The agent'
"$agent" run --app-id shop --resources-path "$work/resources" --config "$work/config.yaml" \
	--state-dir "$work" --csi-socket "$work/csi.sock" --target-root "$work/volumes" \
	--unix-domain-socket "$work" --metrics-address '' >"$work/agent.log" 2>&1 &
pid=$!
until_true curl --silent --fail --unix-socket "$work/dapr-shop-http.socket" http://localhost/v1.0/healthz
echo "running as process $pid"

step '3. A volume, and the same secret from the API'
run "$agent" mount --csi-socket "$work/csi.sock" --store example --secrets database,greeting "$volume"
show

step '4. What the scope does not allow, and why'
api example/internal; echo
"$agent" explain --app-id shop --resources-path "$work/resources" --config "$work/config.yaml" example internal || true

step '5. The secret rotates: file and API follow'
run sed -i 's/first-password/second-password/' "$work/secrets.json"
until_true grep -q second-password "$volume/database/password"
show

step '6. Done'
run "$agent" unmount --csi-socket "$work/csi.sock" "$volume"
