#!/usr/bin/env bash
# Handlers for worker.sh: the handler's name is the last argument, the payload comes on stdin, stdout is the result.
case ${!#} in
    default) cat ;;
    nap) sleep "$(sed -nE 's/.*"seconds": ?([0-9.]+).*/\1/p')" ;;
    fail) echo "this one always fails" >&2; exit 1 ;;
    *) echo "no handler named ${!#}" >&2; exit 127 ;;
esac
