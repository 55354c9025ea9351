#!/usr/bin/env bash
# Posts a few tasks to a running server with curl alone, waits for their ends, and prints these and the server's counts.
#   examples/simulate.sh [http://127.0.0.1:8080]
# The built-in handler `simulate` sleeps for a moment and now and then fails; failed runs are tried again. The exit code
# is not 0 when the server gives a wrong answer, or when a task does not come to an end.
set -euo pipefail

base="${1:-http://127.0.0.1:8080}"
tasks=8
run="sim-$(date +%s)-$$"
newline=$'\n'

fail() {
    echo "simulate.sh: $*" >&2
    exit 1
}

# ask EXPECTED-STATUS PATH [curl's arguments]: the body in $body; anything but the expected status is the end.
ask() {
    local expected="$1" path="$2" answer status
    shift 2
    answer="$(curl --silent --show-error --noproxy '*' --max-time 70 --write-out '\n%{http_code}' "$@" "$base$path")" ||
        fail "no answer from $base$path"
    status=${answer##*$newline}
    body=${answer%$newline*}
    [ "$status" = "$expected" ] || fail "$path: $status instead of $expected: $body"
}

# field NAME: a string or number of the JSON object in $body, the last of that name. Enough for this, not for any JSON.
field() {
    printf '%s' "$body" | sed -n "s/.*[{,]\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p"
}

# finish ID: waits until the task has ended; its status in $status.
finish() {
    local tries
    for ((tries = 0; tries < 10; tries++)); do
        ask 200 "/tasks/$1?wait=30"
        status="$(field status)"
        case "$status" in done | failed | cancelled) return ;; esac
    done
    fail "$1 is still $status"
}

ask 200 /healthz

echo "== posting $tasks tasks to $base"
for ((i = 1; i <= tasks; i++)); do
    ask 202 /enqueue --data "{\"id\": \"$run-$i\", \"handler\": \"simulate\", \"payload\": {\"number\": $i}}"
    echo "$(field id) $(field status)"
done

echo "== what is wrong is said"
ask 409 /enqueue --data "{\"id\": \"$run-1\"}"
echo "the same id again: $(field error)"
ask 400 /enqueue --data '{"id": '
echo "broken JSON: $(field error)"
ask 404 "/tasks/$run-none"
echo "no such task: $(field error)"

echo "== waiting for their ends"
for ((i = 1; i <= tasks; i++)); do
    finish "$run-$i"
    echo "$run-$i $status after $(field attempts) attempt(s)"
done

echo "== the server's counts"
ask 200 /stats
echo "$body"
