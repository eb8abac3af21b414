#!/bin/sh
# Replace the replicas of the api one by one, without an interruption: to deploy the version that
# VERSION names, or to apply changed settings and secrets. A healthy replica is stopped only while
# all others are healthy. COMPOSE_FILE must name all files that the service was started with.
set -eu
cd "$(dirname "$0")/.."

give_up() { echo "Stopped: $1. Run: docker compose ps --all api; docker compose logs api" >&2; exit 1; }

replicas() { docker compose ps --all --quiet api | tr '\n' ' '; }

is_healthy() {
    state=$(docker inspect --format '{{.State.Status}} {{.State.Health.Status}}' "$1" 2>/dev/null)
    [ "$state" = "running healthy" ]
}

# Print the replicas that were not there at the start and are not healthy yet.
starting() {
    for each in $(replicas); do
        case $old in *$each*) ;; *) is_healthy "$each" || echo "$each" ;; esac
    done
}

start_missing() {
    docker compose up --detach --no-build --no-deps --no-recreate api
    end=$(($(date +%s) + 120))
    while new=$(starting) && [ -n "$new" ]; do
        restarts=$(docker inspect --format '{{.RestartCount}}' $new | sort -n | tail -1)
        [ "$restarts" = 0 ] || give_up "the new replica does not start"
        [ "$(date +%s)" -lt $end ] || give_up "the new replica is not healthy"
        sleep 1
    done
}

# Send a command to HAProxy; print the response.
haproxy() {
    docker compose exec -T proxy bash -c 'exec 3<>/dev/tcp/127.0.0.1/9999; echo "$0" >&3; cat <&3' "$1" |
        grep . || true
}

# Print the names that HAProxy has for the replica.
servers() {
    addresses=$(docker inspect --format '{{range .NetworkSettings.Networks}} {{.IPAddress}} {{end}}' "$1")
    haproxy "show servers state" |
        awk -v all="$addresses" '$5 ~ /[.:]/ && index(all, " " $5 " ") { print $2 "/" $4 }'
}

# Let HAProxy send no further requests to these servers ("drain"), or send them again ("ready").
set_state() {
    state=$1
    shift
    for server; do haproxy "set server $server state $state"; done
}

old=$(replicas)
drained=
trap 'set_state ready $drained' EXIT
start_missing
# First the replicas that serve nothing.
for replica in $(for each in $old; do is_healthy "$each" && echo "2 $each" || echo "1 $each"; done |
    sort | cut -d ' ' -f 2); do
    if is_healthy "$replica"; then
        others=0
        for other in $(replicas); do
            [ "$other" != "$replica" ] || continue
            is_healthy "$other" || give_up "the replica $other is not healthy"
            others=$((others + 1))
        done
        [ $others -gt 0 ] || give_up "there is no other replica"
    fi
    drained=$(servers "$replica")
    set_state drain $drained
    sleep 2 # until HAProxy uses the other replicas, and only them
    docker stop "$replica" >/dev/null
    docker rm "$replica" >/dev/null
    set_state ready $drained
    start_missing
done
