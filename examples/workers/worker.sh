#!/usr/bin/env bash
# A Jobpipe worker in bash, curl and sed:  bash worker.sh COMMAND [ARGUMENT...]
#
# For each task it runs COMMAND ARGUMENT... HANDLER, with the payload as JSON on stdin and TASK_ID in the environment.
# Exit code 0 is done, and stdout the result, a string; 127 (command not found) gives the task back, for a worker that
# has its handler; any other is failed, and stderr says why. One task at a time:
# start it more often for more. SIGTERM or Ctrl+C lets the task finish; a second one ends it at once.
set -u -o pipefail
[ $# -gt 0 ] || { sed -n 's/^# //p' "$0" >&2; exit 2; }
url=${JOBPIPE_URL:-http://127.0.0.1:8080} queues=$(printf %s "${QUEUES:-*}" | sed 's/,/","/g') lease=${LEASE:-30}
me="$(hostname):$$" stopping="" job="" more=""
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"; [ -z "$job" ] || kill -- "-$job" "-$heart" 2>/dev/null' EXIT
trap 'stopping=1; trap - INT TERM' INT TERM
printf 'Content-Type: application/json\n%s\n' "${JOBPIPE_KEY:+Authorization: Bearer $JOBPIPE_KEY}" >"$dir/headers"

# Bodies in ( ) ignore signals: Ctrl+C reaches all of the foreground, and would cut off an answer that holds a lease.
post() (trap '' INT TERM; curl -sSf -m 20 -H "@$dir/headers" --data-binary @- "$url$1" | tr '\n\r' '  ')
pause() { sleep $((RANDOM % (lease < 15 ? lease / 3 : 5) + 1)); }

# No JSON parser: the server writes the fields in this order, and a quote inside of a string is always \".
head='^\{"tasks":\[\{"id":"(([^"\\]|\\.)*)","handler":"([^"]*)","queue":"[^"]*","payload":'
tail=',"priority":-?[0-9]+,"status":"running".*"lease_id":"([^"]*)","lease_until".*$'
part() (trap '' INT TERM; LC_ALL=C sed -nE "s/$head(.*)$tail/\\$1/p" "$dir/leased")
text() ( # the end of a file, as it stands between the quotes of a JSON string; by way of UTF-16 only characters pass
    trap '' INT TERM
    printf %s "$(tail -c 60000 "$dir/$1" | LC_ALL=C tr -d '\000-\010\013-\037' |
        { iconv -c -f UTF-8 -t UTF-16BE | iconv -f UTF-16BE -t UTF-8; } 2>/dev/null)" |
        LC_ALL=C sed -e 's/[\"]/\\&/g' -e $'s/\t/\\\\t/g' | tr '\n' '\001' | LC_ALL=C sed $'s/\001/\\\\n/g')
beat() { # a task that was cancelled, or given to another worker, is not worth finishing
    while sleep $((lease / 3)) && kill -0 $$; do
        case $(post /extend <<<"{\"worker_id\":\"$me\",\"lease\":$lease,\"leases\":[{$ref}]}") in
            *'"extended":false'* | *'"cancel_requested":true'*) kill -- "-$job" ;;
        esac
    done
}

while [ -z "$stopping" ]; do
    post /lease <<<"{\"worker_id\":\"$me\",\"queues\":[\"$queues\"],\"lease\":$lease,\"wait\":2$more}" >"$dir/leased" ||
        { more=""; pause; continue; }
    # How many tasks it can run, and of what release it is, for operators: once the server says that it takes that.
    more=""; grep -qE '"features":\[[^]]*"total"[^]]*\]\}\s*$' "$dir/leased" && more=",\"total\":1,\"release\":${RELEASE:-0}"
    # By files, not by $(...): bash loses a signal's trap that comes while it reads one.
    part 1 >"$dir/id"; part 5 >"$dir/lease"; id="" lease_id=""
    IFS= read -r id <"$dir/id"; IFS= read -r lease_id <"$dir/lease"
    [ -n "$lease_id" ] || { sleep 0.2; continue; } # none; at once when the server is stopping
    ref="\"id\":\"$id\",\"lease_id\":\"$lease_id\""
    part 4 >"$dir/payload"; : >"$dir/code"
    set -m # process groups of their own: Ctrl+C does not reach the run, and a kill reaches all of it
    (TASK_ID=$id "$@" "$(part 3)" <"$dir/payload" >"$dir/out" 2>"$dir/err"; echo $? >"$dir/code") & job=$!
    beat & heart=$!
    set +m
    while kill -0 "$job"; do wait "$job"; done 2>/dev/null # a signal ends wait, but not the run
    job=""; kill -- "-$heart"; wait "$heart" 2>/dev/null
    read -r code <"$dir/code" || code=killed; refused=0
    case $code in
        0) printf %s "[{$ref,\"outcome\":\"done\",\"result\":\""; text out; printf '"}]' ;;
        127) printf %s "[{$ref,\"outcome\":\"released\",\"unknown_handler\":true}]" ;;
        *) printf %s "[{$ref,\"outcome\":\"failed\",\"error\":{\"type\":\"exit $code\",\"message\":\""; text err; printf '"}}]' ;;
    esac >"$dir/settle"
    until post /settle <"$dir/settle" && echo; do # while the server is away: a lease outlasts that
        [ $? -ne 22 ] || [ $((refused += 1)) -lt 5 ] || break # 22 is an answer
        pause
    done
done
exit 0
