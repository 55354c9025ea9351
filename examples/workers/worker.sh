#!/usr/bin/env bash
# A Jobpipe worker in bash, curl and sed:  bash worker.sh COMMAND [ARGUMENT...]
#
# For each task it runs COMMAND ARGUMENT... HANDLER, with the payload as JSON on stdin and TASK_ID in the environment.
# Exit code 0 is done, and stdout the result, a string; any other is failed, and stderr says why. One task at a time:
# start it more often for more. The first signal lets the task finish, the second gives it back.
set -u -o pipefail
[ $# -gt 0 ] || { sed -n 's/^# //p' "$0" >&2; exit 2; }
url=${JOBPIPE_URL:-http://127.0.0.1:8080} queues=$(printf %s "${QUEUES:-*}" | sed 's/,/","/g') lease=${LEASE:-30}
me="$(hostname):$$" signals=0 job=""
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'signals=$((signals + 1)); [ $signals -lt 2 ] || [ -z "$job" ] || kill -- "-$job" 2>/dev/null' INT TERM
printf 'Content-Type: application/json\n%s\n' "${JOBPIPE_KEY:+Authorization: Bearer $JOBPIPE_KEY}" >"$dir/headers"

# Bodies in ( ) ignore signals: Ctrl+C reaches all of the foreground, and would cut off an answer that holds a lease.
post() (trap '' INT TERM; curl -sSf -m 20 -H "@$dir/headers" --data-binary "@$dir/$2" "$url$1" | tr '\n\r' '  ')
pause() { sleep $((RANDOM % (lease < 15 ? lease / 3 : 5) + 1)); }

# No JSON parser: the server writes the fields in this order, and a quote inside of a string is always \".
head='^\{"tasks":\[\{"id":"(([^"\\]|\\.)*)","handler":"([^"]*)","queue":"[^"]*","payload":'
tail=',"priority":-?[0-9]+,"status":"running".*"lease_id":"([^"]*)","lease_until".*$'
take() (trap '' INT TERM
    printf '{"worker_id":"%s","queues":["%s"],"lease":%d,"wait":2}' "$me" "$queues" "$lease" >"$dir/wish"
    post /lease wish >"$dir/leased" || return
    for part in 1:id 3:handler 4:payload 5:lease_id; do
        LC_ALL=C sed -nE "s/$head(.*)$tail/\\${part%:*}/p" "$dir/leased" >"$dir/${part#*:}"
    done)

text() { # the end of a file, as it stands between the quotes of a JSON string; by way of UTF-16 only characters pass
    printf %s "$(tail -c 60000 "$dir/$1" | LC_ALL=C tr -d '\000-\010\013-\037' |
        { iconv -c -f UTF-8 -t UTF-16BE | iconv -f UTF-16BE -t UTF-8; } 2>/dev/null)" |
        LC_ALL=C sed -e 's/[\"]/\\&/g' -e $'s/\t/\\\\t/g' | tr '\n' '\001' | LC_ALL=C sed $'s/\001/\\\\n/g'
}
report() (trap '' INT TERM # how the run ended: no code means that it was killed
    code=$(cat "$dir/code")
    case $code in
        0) printf '[{%s,"outcome":"done","result":"%s"}]' "$ref" "$(text out)" ;;
        '') printf '[{%s,"outcome":"released"}]' "$ref" ;;
        *) printf '[{%s,"outcome":"failed","error":{"type":"exit %s","message":"%s"}}]' "$ref" "$code" "$(text err)" ;;
    esac >"$dir/report")
beat() { # a task that was cancelled, or given to another worker, is not worth finishing
    while sleep $((lease / 3)); do
        case $(post /extend beat) in *'"extended":false'* | *'"cancel_requested":true'*) kill -- "-$job" ;; esac
    done
}

while [ $signals -eq 0 ]; do
    began=$SECONDS
    take || { pause; continue; }
    IFS= read -r id <"$dir/id"; read -r handler <"$dir/handler"; read -r lease_id <"$dir/lease_id"
    if [ -z "$lease_id" ]; then
        grep -q '"tasks":\[\]' "$dir/leased" || { echo "not understood: $(head -c 300 "$dir/leased")" >&2; exit 1; }
        [ $((SECONDS - began)) -gt 0 ] || sleep 1 # an empty answer at once: the server is stopping
        continue
    fi
    ref="\"id\":\"$id\",\"lease_id\":\"$lease_id\""
    printf '{"worker_id":"%s","lease":%d,"leases":[{%s}]}' "$me" "$lease" "$ref" >"$dir/beat"
    : >"$dir/code"
    set -m # process groups of their own: Ctrl+C does not reach the run, and a kill reaches all of it
    (TASK_ID=$id "$@" "$handler" <"$dir/payload" >"$dir/out" 2>"$dir/err"; echo $? >"$dir/code") & job=$!
    beat & heart=$!
    set +m
    while kill -0 "$job" 2>/dev/null; do wait "$job"; done 2>/dev/null # a signal ends wait, but not the run
    job=""; kill -- "-$heart"; wait "$heart" 2>/dev/null
    report
    tries=0
    until post /settle report && echo; do # while the server is away: it grants a whole lease when it is back
        # 22 is an answer, and a refusal is rarely mended
        [ $? -ne 22 ] && [ $signals -eq 0 ] || tries=$((tries + 1))
        [ $tries -lt 5 ] || break
        pause
    done
done
exit 0
