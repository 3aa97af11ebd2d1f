#!/usr/bin/env bash
# make run: starts fathomd on the embedded demo model, prints one streamed answer, keeps serving.
#
#   deploy/run.sh BIN_FOLDER [fathomd's flags...]
#
# PROMPT is what is asked; ctrl-C drains and ends.
set -euo pipefail

readonly BIN=$1
shift
readonly PROMPT=${PROMPT:-Tell me a short story.}
readonly HOST_PORT=127.0.0.1:${FATHOM_PORT:-8000}

"$BIN/fathomd" "$@" &
daemon=$!
trap 'kill -TERM $daemon 2>/dev/null || true' INT TERM

until curl -fsS -o /dev/null "http://$HOST_PORT/health/ready" 2>/dev/null; do
  kill -0 $daemon 2>/dev/null || { wait $daemon; exit $?; }
  sleep 0.1
done

echo
echo "> $PROMPT"
"$BIN/fathomctl" chat --url "http://$HOST_PORT" "$PROMPT"
echo
echo "Serving on http://$HOST_PORT (ctrl-C ends). Try:"
echo "  curl http://$HOST_PORT/v1/models"
wait $daemon || true
wait $daemon
